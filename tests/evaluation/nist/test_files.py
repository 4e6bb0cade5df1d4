import json

import pytest

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Optional
from speechssl.evaluation.nist.files import read_transcripts
from speechssl.evaluation.nist.text_formats import guess_formats
from speechssl.evaluation.nist.transcript import read_lines


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def texts(table):
    return {id_: " ".join(item.items) for id_, item in table.items()}


def test_text_is_a_line_an_utterance(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffone two\r\n\n three  four\n")
    expected = {"line-000001": "one two", "line-000002": "", "line-000003": "three four"}
    assert texts(read_transcripts(path, "text", "ref")) == expected


def test_kaldi_text_begins_with_an_id(tmp_path):
    path = write(tmp_path / "text", "u1 one {two}\nu2\n\nu3 (three)")
    assert texts(read_transcripts(path, "kaldi", "hyp")) == {"u1": "one {two}", "u2": "", "u3": "(three)"}


def test_trn_ends_with_an_id(tmp_path):
    path = write(tmp_path / "a.trn", ";; comment\none (uh) two (s-1)\n(s-2)\n\n  three ( s-3 ) \n")
    table = read_transcripts(path, "trn", "ref")
    assert [item.items for item in table.values()] == [("one", Optional("uh"), "two"), (), ("three",)]
    assert list(table) == ["s-1", "s-2", "s-3"]
    assert table["s-3"].where == f"{path}, line 5"
    assert read_transcripts(path, "trn", "ref", optional=False)["s-1"].items == ("one", "(uh)", "two")


def test_rows_and_manifests(tmp_path):
    rows = [
        {"id": "a", "ref": "r", "hyp": "h", "ref_raw": "R!", "speaker": "s", "duration": 2},
        {"id": "b", "ref": "both", "hyp": "both", "speaker": 7},
    ]
    path = write(tmp_path / "hypotheses.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    refs, hyps = (read_transcripts(path, "jsonl", side) for side in ("ref", "hyp"))
    assert texts(refs) == {"a": "R!", "b": "both"}
    assert texts(hyps) == {"a": "h", "b": "both"}
    assert (refs["a"].speaker, refs["a"].duration, refs["b"].speaker) == ("s", 2.0, None)
    assert texts(read_transcripts(tmp_path, "jsonl", "hyp")) == texts(hyps)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x.trn", "no id", "trn"),
        ("x.STM", "", "stm"),
        ("x.ctm", "", "ctm"),
        ("x.jsonl", "", "jsonl"),
        ("x.txt", ";; made by\na b (s-1)\n\n(s-2)\n", "trn"),
        ("text", "s1-u1 a b\ns1-u2\n", "kaldi"),
        ("x.txt", "one two\none three\n", "text"),
        ("x.txt", "one two\nsome three\n", "text"),
        ("x.txt", "b2 a\nb2 a\n", "text"),
    ],
)
def test_the_format_is_told(name, text, kind, tmp_path):
    assert guess_formats(write(tmp_path / name, text), [])[0] == kind


def test_a_folder_of_an_evaluation(tmp_path):
    write(tmp_path / "hypotheses.jsonl", "")
    assert guess_formats(tmp_path, [])[0] == "jsonl"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("trn", "a (s-1)\nb c\n", "line 2: does not end in an utterance id in parentheses"),
        ("trn", "a ( )\n", "line 1: does not end in an utterance id"),
        ("trn", "a (s-1)\n\nb (s-1)\n", r"line 3: utterance 's-1' is there twice, first in .*line 1"),
        ("trn", "{ a (s-1)\n", "line 1: an opening brace"),
        ("kaldi", "u1 a\nu1 b\n", "line 2: utterance 'u1' is there twice"),
        ("jsonl", "{\n", "line 1: not JSON"),
        ("jsonl", "[1]\n", "entry 1: not a JSON object but int"),
        ("jsonl", "1\n", "line 1: not a JSON object but int"),
        ("jsonl", '{"text": "a"}\n', "line 1: names no utterance: none of id, .* its fields are text"),
        ("jsonl", '{"id": true, "text": "a"}\n', "line 1: 'id' must be a string or a whole number, not True"),
        ("jsonl", '{"id": 1.5, "text": "a"}\n', "line 1: 'id' must be a string or a whole number, not 1.5"),
        ("jsonl", '{"id": "a"}\n', "line 1: has no reference: none of ref_raw, .* its fields are id"),
        ("jsonl", '{"id": "a", "text": null}\n', "line 1: 'text' must be a string, not None; write an empty string"),
        ("text", b"good\n\xff\n", "line 2: not UTF-8"),
        ("stm", "", "stm has times"),
    ],
)
def test_errors_name_file_and_line(kind, text, message, tmp_path):
    path = write(tmp_path / "file", text)
    with pytest.raises(DataError, match=message) as caught:
        read_transcripts(path, kind, "ref")
    assert str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_lines(path)
