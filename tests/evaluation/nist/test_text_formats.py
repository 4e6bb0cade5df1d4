"""Formats that are told by the lines of both files: a wrong guess would change the rate in silence."""

import pytest

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.text_formats import guess_formats, looks_like_id


def formats(tmp_path, ref, hyp, *, names=("r", "h"), **given):
    paths = [tmp_path / name for name in names]
    for path, text in zip(paths, (ref, hyp), strict=True):
        path.write_text(text, encoding="utf-8")
    kind, (other,) = guess_formats(paths[0], paths[1:], **given)
    return kind, other


@pytest.mark.parametrize("word", ["u1", "1089-134686-0000", "4t0c0204", "spk_a", "a/b", "0001", "2347281", "S-1"])
def test_words_that_only_an_id_looks_like(word):
    assert looks_like_id(word)


@pytest.mark.parametrize("word", ["2", "3rd", "90s", "1984", "5kg", "2-year-old", "hello", "well-known", "don't", "«"])
def test_words_that_may_be_spoken_are_no_ids_by_their_look(word):
    assert not looks_like_id(word)


@pytest.mark.parametrize(
    ("ref", "hyp"),
    [
        ("alice-a hello there\nbob-a good day\n", "bob-a good day\nalice-a hello there\n"),
        ("alice-a hello there\nbob-a good day\n", "alice-a hello there\nbob-a good day\n"),
        ("alice hello there\nbob good day\n", "bob good day\nalice hello there\n"),
        ("2 good day\n1 hello there\n3 yes\n", "1 hello there\n2 good day\n3 yes\n"),
        ("u1 hello\n", "u1 hello\n"),
        ("u1 hello\nu2 you\n", "u2 you\n"),
        ("東京-a おはよう\n大阪-b はい\n", "大阪-b はい\n東京-a おはよう\n"),
    ],
)
def test_first_words_that_both_files_share_in_another_order_are_ids(ref, hyp, tmp_path):
    assert formats(tmp_path, ref, hyp) == ("kaldi", "kaldi")


@pytest.mark.parametrize(
    ("ref", "hyp"),
    [
        ("hello there\nwell then\n", "hello their\nwell then\n"),
        ("one two\nsome three\n", "one too\nsum three\n"),
        ("x-ray shows\n", "x-ray shows\n"),
        ("2 boys ran\n3 girls\n4 dogs\n", "2 boys ran\n3 girls\nfor dogs\n"),
        ("a\nb\nc\n", "a\nb\nc\n"),
        ("well yes\n\nno way\n", "well yes\n\nno why\n"),
        ("hello (laughs)\nyes (laughs)\n", "hello\nyes\n"),
    ],
)
def test_plain_sentences_stay_plain(ref, hyp, tmp_path):
    assert formats(tmp_path, ref, hyp) == ("text", "text")


@pytest.mark.parametrize(
    "text", ["2 boys ran home\n3 girls sang\n4 dogs barked\n", "alice hello\nbob good day\ncarol yes\n", "7 yes\n"]
)
def test_lines_that_say_nothing_either_way_are_asked_about(text, tmp_path):
    with pytest.raises(DataError, match=r"may be utterance ids or spoken.*--ref-format and --hyp-format"):
        formats(tmp_path, text, text)
    assert formats(tmp_path, text, text, ref_format="text", hyp_format="text") == ("text", "text")
    assert formats(tmp_path, text, text, ref_format="kaldi") == ("kaldi", "kaldi")
    assert formats(tmp_path, text, text, hyp_format="text") == ("text", "text")


def test_ids_of_trn_and_json_tell_a_kaldi_file(tmp_path):
    kaldi = "alice hello\nbob yes\n"
    assert formats(tmp_path, "hello (alice)\nyes (bob)\n", kaldi) == ("trn", "kaldi")
    assert formats(tmp_path, kaldi, "hello (ALICE)\nyes (bob)\n") == ("kaldi", "trn")
    rows = '{"id": "alice", "text": "hello"}\n{"id": "bob", "text": "yes"}\n'
    assert formats(tmp_path, rows, kaldi) == ("jsonl", "kaldi")
    assert formats(tmp_path, "hello you\nyes\n", rows)[0] == "text"


def test_json_is_told_by_its_lines_and_by_its_usual_names(tmp_path):
    row = '{"audio_filepath": "/d/u1.wav", "text": "a"}\n'
    assert formats(tmp_path, row, row) == ("jsonl", "jsonl")
    assert formats(tmp_path, "", "", names=("manifest.json", "out.ndjson")) == ("jsonl", "jsonl")
    assert formats(tmp_path, "{ a / b } c (s-1)\n", "a c (s-1)\n") == ("trn", "trn")


def test_a_table_with_a_header_is_told_by_it_and_its_header_is_no_utterance(tmp_path):
    table = "id\ttext\nan4/a-1\tyes\nan4/a-2\tno\n"
    assert formats(tmp_path, table, table) == ("table", "table")
    assert formats(tmp_path, table, "id,hyp\na,b\n", names=("r.tsv", "h.csv")) == ("table", "table")
    assert formats(tmp_path, "the text, he said\nand more\n", "the text he said\nand more\n") == ("text", "text")


def test_ids_that_are_there_twice_or_beside_another_line_are_not_scored_as_words(tmp_path):
    twice = "u1 yes\nu2 no\nu1 yes\n"
    assert formats(tmp_path, twice, twice) == ("kaldi", "kaldi")
    mixed = "total 2\nu1 yes\nu2 no\n"
    with pytest.raises(DataError, match="may be utterance ids or spoken"):
        formats(tmp_path, mixed, mixed)
