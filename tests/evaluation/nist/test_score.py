from pathlib import Path

import pytest

from speechssl.asr.normalisers import normaliser
from speechssl.cli.main import main
from speechssl.config import ScoreConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.evaluation.nist.files import read_transcripts
from speechssl.evaluation.nist.score import score_files
from speechssl.evaluation.wer.hypotheses import read_hypotheses


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def lower(text):
    return text.lower().replace(".", "")


def score(ref, *hyps, **settings):
    return score_files(ScoreConfig(ref=ref, hyp=hyps, **settings), lower, "lower")


@pytest.fixture
def trn(tmp_path):
    """(reference, hypothesis) of three utterances."""
    ref = write(tmp_path / "ref.trn", "The cat. (ann-1)\n{ Do not / Don't } (Uh) go (ann-2)\n(bob_3)\n")
    hyp = write(tmp_path / "hyp.trn", "a Noise (bob_3)\nthe cat (ann-1)\ndon't go on (ann-2)\n")
    return ref, hyp


def test_raw_and_normalised_text_are_scored(trn):
    (system,) = score(*trn).systems
    assert [(row["id"], row["ref"], row["hyp"]) for row in system.rows] == [
        ("ann-1", "the cat", "the cat"),
        ("ann-2", "don't go", "don't go on"),
        ("bob_3", "", "a noise"),
    ]
    assert [row["S"] + row["D"] + row["I"] for row in system.rows] == [0, 1, 2]
    assert [row["S"] + row["D"] + row["I"] for row in system.raw] == [2, 2, 2]
    assert system.rows[0]["ref_raw"] == "The cat." and system.rows[2]["hyp_raw"] == "a Noise"
    assert (system.missing, system.extra, system.optional) == ([], [], 1)
    assert all("cost" not in row and row["speaker"] is None for row in system.rows)


def test_the_cost_of_sclite(tmp_path):
    ref, hyp = write(tmp_path / "r.txt", "a b c d\n"), write(tmp_path / "h.txt", "c d x y\n")
    counts = {}
    for cost in ("levenshtein", "sclite"):
        (row,) = score(ref, hyp, cost=cost).systems[0].rows
        counts[cost] = (row["S"], row["D"], row["I"])
    assert sum(counts["levenshtein"]) == 4 and counts["sclite"] == (0, 2, 2)
    assert row["cost"] == "sclite"


def test_missing_utterances_are_scored_as_empty(trn, tmp_path):
    hyp = write(tmp_path / "part.trn", "the cat (ann-1)\n")
    scoring = score(trn[0], hyp)
    (system,) = scoring.systems
    assert system.missing == ["ann-2", "bob_3"]
    assert [row["D"] for row in system.rows] == [0, 2, 0]
    assert [(entry.item, entry.reason) for entry in scoring.ledger()] == [
        ("part: ann-2", "no_hypothesis"),
        ("part: bob_3", "no_hypothesis"),
    ]


def test_extra_utterances_are_refused_unless_allowed(trn, tmp_path):
    hyp = write(tmp_path / "more.trn", "the cat (ann-1)\nwhat (ann-9)\n")
    with pytest.raises(DataError, match=r"more.trn: 1 of its utterances are not in .*first: 'ann-9'.*--allow-extra"):
        score(trn[0], hyp)
    scoring = score(trn[0], hyp, allow_extra=True)
    assert scoring.systems[0].extra == ["ann-9"]
    assert ("more: ann-9", "no_reference") in [(entry.item, entry.reason) for entry in scoring.ledger()]
    other = write(tmp_path / "other.trn", "x (zoe-1)\n")
    with pytest.raises(DataError, match=r"no utterance of .*its first is 'zoe-1'.*same test set"):
        score(trn[0], other, allow_extra=True)


def test_lines_without_ids_must_be_as_many(tmp_path):
    ref, hyp = write(tmp_path / "r.txt", "a\nb\nc\n"), write(tmp_path / "h.txt", "a\nb\n")
    with pytest.raises(DataError, match=r"has 3 lines and .* has 2"):
        score(ref, hyp)


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (("x/hyp.trn", "y/hyp.trn"), (), ["x-hyp", "y-hyp"]),
        (("one.trn", "two.ctm.trn"), (), ["one", "two.ctm"]),
        (("x/hyp.trn", "y/hyp.trn"), ("first", "second"), ["first", "second"]),
    ],
)
def test_systems_have_names(names, given, expected, trn, tmp_path):
    hyps = [write(tmp_path / name, "the cat (ann-1)\n") for name in names]
    assert [system.name for system in score(trn[0], *hyps, names=given).systems] == expected


def test_speakers(trn, tmp_path):
    assert [row["speaker"] for row in score(*trn, speakers="prefix").systems[0].rows] == ["ann", "ann", "bob"]
    table = write(tmp_path / "utt2spk", "ann-1 A\nann-2 B\n\nzoe-1 Z\n")
    assert [row["speaker"] for row in score(*trn, speakers=table).systems[0].rows] == ["A", "B", None]
    bad = write(tmp_path / "bad", "ann-1 A\nann-2\n")
    with pytest.raises(DataError, match="bad, line 2: not 'id speaker'"):
        score(*trn, speakers=bad)
    ref, hyp = write(tmp_path / "r.txt", "a\n"), write(tmp_path / "h.txt", "a\n")
    assert score(ref, hyp, speakers="prefix").systems[0].rows[0]["speaker"] == "line"


def test_time_marked_words(tmp_path):
    ref = write(
        tmp_path / "ref.stm",
        "talk A ann 0 1 <o,f0> Hello. there\ntalk A bob 1 2 IGNORE_TIME_SEGMENT_IN_SCORING\ntalk B cat 0 5 silence\n",
    )
    hyp = write(tmp_path / "hyp.ctm", "talk A 0.1 0.2 hello 0.9\ntalk A 0.5 0.2 there 0.4\ntalk A 1.5 0.1 noise 0.1\n")
    scoring = score(ref, hyp)
    first, second = scoring.systems[0].rows
    assert scoring.ignored_segments == 1 and scoring.format == "stm"
    assert (first["ref"], first["hyp"], first["speaker"], first["duration"]) == (
        "hello there",
        "hello there",
        "ann",
        1.0,
    )
    assert first["times"] == [[0.1, pytest.approx(0.3)], [0.5, 0.7]] and first["confidences"] == [0.9, 0.4]
    assert first["fields"] == {"label": "o,f0"}
    assert scoring.systems[0].missing == [second["id"]] == ["talk-B-0001"]
    outside = write(tmp_path / "out.ctm", "talk A 0.1 0.2 hello\ntalk C 0.1 0.2 a\ntalk C 0.4 0.2 b\n")
    with pytest.raises(DataError, match=r"first: 'file talk channel C \(2 words\)'"):
        score(ref, outside)


@pytest.mark.parametrize(
    ("ref", "hyp", "settings", "message"),
    [
        ("", "", {}, "usage: speechssl score REF HYP"),
        ("r.trn", "h.ctm", {}, "ctm goes with stm"),
        ("r.stm", "h.trn", {}, "ctm goes with stm"),
        ("r.txt", "h.trn", {}, "only one of them has utterance ids"),
        ("r.trn", "h.trn", {"names": ("a", "b")}, "2 names for 1 systems"),
        ("r.trn", "h.trn", {"names": ("../x",)}, "cannot be the name of a system"),
        ("r.trn", "", {}, "usage"),
    ],
)
def test_wrong_settings(ref, hyp, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.txt", "just words\nmore words\n")
    write(tmp_path / "h.trn", "just words (a-1)\nmore words (a-2)\n")
    with pytest.raises(ConfigError, match=message):
        score_files(ScoreConfig(ref=ref, hyp=(hyp,) if hyp else (), **settings), lower, "lower")


def test_two_systems_of_one_name(trn):
    with pytest.raises(ConfigError, match="the same name"):
        score(trn[0], trn[1], trn[1])


def test_a_reference_without_utterances(trn, tmp_path):
    empty = write(tmp_path / "empty.trn", ";; nothing\n")
    with pytest.raises(DataError, match="no utterance to score"):
        score(empty, trn[1])


def test_ids_in_another_case_are_the_same_utterances_and_that_is_said(tmp_path):
    ref = write(tmp_path / "ref.trn", "the cat sat (4T0C0201)\non a mat (4t0c0204)\n")
    hyp = write(tmp_path / "hyp.trn", "the cat sat (4T0C0201)\non the mat (4T0C0204)\n")
    scoring = score(ref, hyp)
    (system,) = scoring.systems
    assert sum(row["S"] + row["D"] + row["I"] for row in system.rows) == 1
    assert (system.missing, system.extra, system.renamed) == ([], [], {"4T0C0204": "4t0c0204"})
    assert [(e.item, e.reason, e.action) for e in scoring.ledger()] == [
        ("hyp: 4T0C0204", "other_spelling_of_id", "repaired")
    ]


def test_channels_in_another_case_are_the_same_and_word_tags_are_no_words(tmp_path):
    ref = write(tmp_path / "ref.stm", "2347 a s 0 2 <O> i've;tag1 { um;tag1; / uh;;tag2 } far\n2347 A s 2 4 yes\n")
    hyp = write(tmp_path / "hyp.ctm", "2347 A 0.1 0.1 I'VE;t\n2347 A 0.5 0.1 UH\n2347 a 1 0.1 FAR\n2347 A 3 .1 YES\n")
    (system,) = score(ref, hyp).systems
    assert [(row["ref"], row["hyp"]) for row in system.rows] == [("i've uh far", "i've uh far"), ("yes", "yes")]
    assert (system.missing, system.extra, system.renamed) == ([], [], {"2347 A": "2347 a"})


def test_a_nemo_manifest_is_reference_and_hypothesis(tmp_path):
    lines = (
        '{"audio_filepath": "/d/u1.wav", "duration": 3.1, "text": "hello there", "pred_text": "hello their"}\n'
        '{"audio_filepath": "/d/u2.wav", "duration": 3.1, "text": "you", "pred_text": "you"}\n'
    )
    path = write(tmp_path / "manifest.json", lines)
    (system,) = score(path, path).systems
    assert [(row["id"], row["S"], row["N"], row["duration"]) for row in system.rows] == [
        ("u1", 1, 2, 3.1),
        ("u2", 0, 1, 3.1),
    ]
    kaldi = write(tmp_path / "text", "u2 you\nu1 hello there\n")
    assert sum(row["S"] + row["D"] + row["I"] for row in score(path, kaldi).systems[0].rows) == 0


def test_parts_of_one_recording_in_a_nemo_manifest_keep_their_own_ids(tmp_path):
    lines = [f'{{"audio_filepath": "x/a.wav", "offset": {k}, "text": "t{k}", "pred_text": "t{k}"}}' for k in (0, 2.5)]
    path = write(
        tmp_path / "m.json", "\n".join([*lines, '{"audio_filepath": "y/b.wav", "text": "c", "pred_text": ""}'])
    )
    assert [row["id"] for row in score(path, path).systems[0].rows] == ["a-0.000", "a-2.500", "b"]


def test_ids_may_be_numbers(tmp_path):
    ref = write(tmp_path / "r.jsonl", '{"id": 1, "text": "hello"}\n{"id": 2, "text": "you"}\n')
    hyp = write(tmp_path / "h.json", '[{"id": 2, "prediction": "you"}, {"id": 1, "prediction": "hello"}]')
    assert [(row["id"], row["wer"]) for row in score(ref, hyp).systems[0].rows] == [("1", 0.0), ("2", 0.0)]


def test_a_row_without_hypothesis_does_not_fall_back_to_the_reference_text(tmp_path):
    path = write(tmp_path / "m.jsonl", '{"id": 1, "text": "a", "pred_text": "a"}\n{"id": 2, "text": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: has no hypothesis \(other lines of the file have one\)"):
        score(path, path)


def test_speakers_are_found_in_another_case(tmp_path):
    ref, hyp = write(tmp_path / "r.trn", "a (u1-x)\n"), write(tmp_path / "h.trn", "a (u1-x)\n")
    table = write(tmp_path / "utt2spk", "U1-X ann\n")
    assert score(ref, hyp, speakers=table).systems[0].rows[0]["speaker"] == "ann"


def test_corpus_tags_are_no_words_of_either_side_and_are_counted(tmp_path, capsys):
    ref = write(tmp_path / "r.trn", "hello [NOISE] you <unk> (u-1)\n")
    hyp = write(tmp_path / "h.trn", "hello you [noise] (u-1)\n")
    main(["score", ref, hyp, "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "no words   [noise] 2, <unk> 1 (taken out of both sides)" in out
    entries = read_ledger(tmp_path / "out" / "ledger.jsonl")
    assert [(e.item, e.reason, e.detail) for e in entries] == [
        ("[noise]", "corpus_tag", "2 times"),
        ("<unk>", "corpus_tag", "1 times"),
    ]
    (row,) = read_hypotheses(tmp_path / "out" / "h")
    assert (row["ref"], row["hyp"], row["N"]) == ("hello you", "hello you", 2)
    plain = score_files(ScoreConfig(ref=ref, hyp=(hyp,), normalise="none"), str, "none")
    assert plain.tags == {} and plain.systems[0].rows[0]["N"] == 4


def test_tables_with_a_header_are_scored_by_their_ids(tmp_path):
    ref = write(tmp_path / "r.csv", 'ID,Sentence,Speaker\na-1,"yes, sir",ann\na-2,no,bob\n')
    hyp = write(tmp_path / "h.tsv", "path\tprediction\nx/a-2.wav\tno\nx/a-1.wav\tyes sir\n")
    change = normaliser("own")[0]
    (system,) = score_files(ScoreConfig(ref=ref, hyp=(hyp,)), change, "own").systems
    assert [(row["id"], row["ref"], row["wer"], row["speaker"]) for row in system.rows] == [
        ("a-1", "yes sir", 0.0, "ann"),
        ("a-2", "no", 0.0, "bob"),
    ]
    bad = write(tmp_path / "bad.csv", "id,text\na-1,yes, sir\n")
    with pytest.raises(DataError, match=r"bad.csv, line 2: 3 cells, but the header names 2; quote the text"):
        score(ref, bad)
    with pytest.raises(DataError, match=r"none.csv: no header that names an id"):
        score(ref, write(tmp_path / "none.csv", "a-1,yes\n"))


def test_the_language_of_a_row_has_any_of_its_usual_names(tmp_path):
    path = write(tmp_path / "r.jsonl", '{"id": "a", "text": "x", "lang": "tr", "client_id": "ann"}\n')
    (item,) = read_transcripts(Path(path), "jsonl", "ref").values()
    assert (item.language, item.speaker) == ("tr", "ann")


def test_transcripts_of_a_folder_are_matched_with_its_manifest_by_their_audio_files(tmp_path):
    ref = write(
        tmp_path / "manifest.jsonl",
        '{"id": "dev_a_1", "path": "../dev/a/1.flac", "text": "yes"}\n'
        '{"id": "dev_b_2", "path": "dev/b/2.flac", "text": "no"}\n',
    )
    hyp = write(
        tmp_path / "transcripts.jsonl",
        '{"path": "/data/dev/b/2.flac", "text": "no", "key": "settings"}\n'
        '{"path": "/data/dev/a/1.flac", "text": "yes", "key": "settings"}\n',
    )
    (system,) = score(ref, hyp).systems
    assert [(row["id"], row["wer"]) for row in system.rows] == [("dev_a_1", 0.0), ("dev_b_2", 0.0)]
    assert system.renamed == {"2": "dev_b_2", "1": "dev_a_1"}
    assert score(ref, str(tmp_path), names=("x",)).systems[0].missing == []
    write(tmp_path / "m" / "manifest.jsonl", Path(ref).read_text())
    assert score(str(tmp_path / "m"), hyp).systems[0].rows == system.rows
    kaldi = write(tmp_path / "text", "1 yes\n2 no\n")
    assert score(ref, kaldi, hyp_format="kaldi").systems[0].missing == []
    parts = write(
        tmp_path / "parts.jsonl",
        '{"id": "x", "path": "1.flac", "start": 0.5, "text": "yes"}\n{"id": "y", "path": "1.flac", "text": "no"}\n',
    )
    one = write(tmp_path / "one", "y no\n1 no\n")
    assert score(parts, one, hyp_format="kaldi", allow_extra=True).systems[0].extra == ["1"]
