import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import read_hypotheses, score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import compare_systems, greedy_score, write_wer
from tests.oracles.wer import distance

texts = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=7).map(" ".join)


def row(id_, ref, hyp, **more):
    return {"id": id_, "ref": ref, "hyp": hyp, **more}


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(texts, texts), max_size=6))
def test_rates_are_sums_over_sums(pairs):
    report = summarise([row(str(i), *pair) for i, pair in enumerate(pairs)], n=20)
    edits = sum(distance(tuple(ref.split()), tuple(hyp.split())) for ref, hyp in pairs)
    words = sum(len(ref.split()) for ref, _ in pairs)
    character_edits = sum(distance(tuple(ref), tuple(hyp)) for ref, hyp in pairs)
    characters = sum(len(ref) for ref, _ in pairs)
    assert edits == report.S + report.D + report.I
    assert report.wer == (edits / words if words else None)
    assert report.cer == (character_edits / characters if characters else None)
    assert words - report.S - report.D == report.C
    assert sum(len(hyp.split()) for _, hyp in pairs) == report.C + report.S + report.I
    assert report.ser == (sum(ref != hyp for ref, hyp in pairs) / len(pairs) if pairs else None)
    if report.wer is not None and len(pairs) > 1:
        assert 0 <= report.ci_low <= report.ci_high


def test_every_measure_by_hand():
    # C 3, S 1, D 1, I 1, N 5; hypothesis words 5
    report = summarise([row("u", "a b c d e", "a b c x e e".replace("x e e", "x y z"))], n=10)
    assert (report.C, report.S, report.D, report.I, report.N) == (3, 2, 0, 1, 5)
    assert report.wer == 3 / 5
    assert report.mer == 3 / 6
    assert report.wil == pytest.approx(1 - 9 / (5 * 6))
    assert report.ser == 1
    assert report.ci_low is None and report.ci_high is None  # one utterance has no interval


def test_measures_agree_with_jiwer_where_both_are_defined():
    import jiwer

    refs, hyps = ["the cat sat", "on the mat", "b"], ["a cat", "on on the mat mat", "b"]
    report = summarise([row(str(i), *pair) for i, pair in enumerate(zip(refs, hyps, strict=True))], n=10)
    theirs = jiwer.process_words(refs, hyps)
    assert (report.wer, report.mer, report.wil) == pytest.approx((theirs.wer, theirs.mer, theirs.wil))
    assert report.cer == pytest.approx(jiwer.cer(refs, hyps))


def test_empty_references_are_counted_and_reported():
    report = summarise(
        [row("a", "one two", "one two"), row("b", "", "three"), row("c", "", ""), row("d", "x", "")], n=10
    )
    assert (report.I, report.D, report.N, report.wer) == (1, 1, 3, 2 / 3)
    assert (report.empty_references, report.empty_hypotheses, report.ser) == (2, 1, 0.5)


@pytest.mark.parametrize(
    ("rows", "wil", "mer"), [([], None, None), ([("", "")], None, None), ([("", "a b")], 1.0, 1.0)]
)
def test_no_reference_word_is_no_rate_and_no_crash(tmp_path, rows, wil, mer):
    report = write_wer(tmp_path, [row(str(i), *pair) for i, pair in enumerate(rows)], n=10)
    assert (report.wer, report.ci_low, report.cer, report.wil, report.mer) == (None, None, None, wil, mer)
    assert "no word error rate" in (tmp_path / "wer.txt").read_text()
    assert json.loads((tmp_path / "wer.json").read_text())["wer"] is None


def test_a_perfect_and_a_deaf_system():
    perfect = summarise([row("a", "one two", "one two"), row("b", "three", "three")], n=10)
    assert (perfect.wer, perfect.ci_low, perfect.ci_high, perfect.cer, perfect.wil, perfect.mer) == (0, 0, 0, 0, 0, 0)
    deaf = summarise([row("a", "one two", ""), row("b", "three", "")], n=10)
    assert (deaf.wer, deaf.ci_low, deaf.ci_high, deaf.wil, deaf.empty_hypotheses) == (1, 1, 1, 1, 2)


def test_by_speaker():
    rows = [row("1", "a b", "a b", speaker="x"), row("2", "a b", "a", speaker="x"), row("3", "c d", "e f", speaker="y"),
            row("4", "g", "g"), row("5", "", "", speaker="z")]  # fmt: skip
    report = summarise(rows, n=50)
    assert [(g.name, g.utterances, g.N, g.S, g.D, g.I, g.wer) for g in report.by_speaker] == [
        ("y", 1, 2, 2, 0, 0, 1.0), ("x", 2, 4, 0, 1, 0, 0.25),
        ("(unknown)", 1, 1, 0, 0, 0, 0.0), ("z", 1, 0, 0, 0, 0, None),
    ]  # fmt: skip
    assert report.by_speaker[0].ci_low is None and report.by_speaker[1].ci_high == 0.5
    assert report.speakers == 3 and report.speaker_ci_low is None
    assert summarise([row("4", "g", "g")], n=10).by_speaker == ()


def test_speakers_as_blocks_from_five_speakers_on():
    rows = [row(f"{s}{u}", "a b c d", "a b c d" if s else "x", speaker=str(s)) for s in range(6) for u in range(5)]
    report = summarise(rows, n=500)
    assert report.speaker_ci_low == 0 < report.ci_low
    assert report.speaker_ci_high > report.ci_high


def test_by_length_and_by_duration():
    lengths = [0, 1, 2, 3, 5, 6, 31, 90]
    rows = [row(str(n), "w " * n, "w " * n, duration=n / 3) for n in lengths]
    report = summarise(rows, n=10)
    assert [(g.name, g.utterances) for g in report.by_length] == [("1–2", 2), ("3–5", 2), ("6–10", 1), ("31+", 2)]
    assert [(g.name, g.utterances) for g in report.by_duration] == [("0–2", 5), ("2–5", 1), ("10–15", 1), ("30+", 1)]
    assert report.seconds == pytest.approx(sum(lengths) / 3)
    assert summarise([row("a", "b", "b")], n=10).seconds is None


def test_confusions_are_counted_and_ordered():
    rows = [row(str(i), "to be or", "two be") for i in range(3)] + [
        row("x", "see it", "sea it so"),
        row("y", "to", "too"),
    ]
    report = summarise(rows, n=10)
    assert report.substitutions == (("to", "two", 3), ("see", "sea", 1), ("to", "too", 1))
    assert report.deletions == (("or", 3),) and report.insertions == (("so", 1),)
    assert (" ", 3) in report.character_deletions and ("w", 3) in report.character_insertions
    assert report.characters["N"] == 3 * 8 + 6 + 2


def test_at_most_twenty_confusions():
    report = summarise([row(str(i), f"r{i:02d}", f"h{i:02d}") for i in range(30)], n=10)
    assert len(report.substitutions) == 20 and report.substitutions[0] == ("r00", "h00", 1)


def test_the_three_files(tmp_path):
    rows = [row("a", "the cat", "the bat", speaker="s", duration=1.0), row("b", "on the mat", "on mat", speaker="t")]
    report = write_wer(tmp_path, rows, {"model": "m", "split": "test"}, n=100, seed=4)
    stored = json.loads((tmp_path / "wer.json").read_text(encoding="utf-8"))
    assert stored.pop("info") == {"model": "m", "split": "test"}
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert summarise(read_hypotheses(tmp_path), n=stored["resamples"], seed=stored["seed"]) == report
    text = (tmp_path / "wer.txt").read_text(encoding="utf-8")
    assert "WER 40.00 %" in text and "split  test" in text and "cat → bat" in text


def test_bad_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: 'hyp'"):
        summarise([row("a", "b", "c"), {"id": "b", "ref": "c"}])
    with pytest.raises(DataError, match="twice"):
        write_wer(tmp_path, [row("a", "b", "c"), row("a", "b", "d")])
    assert list(tmp_path.iterdir()) == []


def systems():
    refs = [f"word{i} and more words" for i in range(30)]
    a = [score_row(str(i), ref, ref if i % 3 else "word") for i, ref in enumerate(refs)]
    b = [score_row(str(i), ref, ref if i % 6 else "word") for i, ref in enumerate(refs)]
    return a, b


def test_two_systems_are_matched_by_id():
    a, b = systems()
    paired = compare_systems(a, list(reversed(b)), n=400)
    assert paired == compare_systems(a, b, n=400)
    assert paired.wer_a == pytest.approx(1 / 3) and paired.wer_b == pytest.approx(1 / 6)
    assert paired.high < 0 and paired.relative == pytest.approx(0.5)


def test_other_utterances_or_references_are_not_compared():
    a, b = systems()
    with pytest.raises(DataError, match="1 of them are in one only \\(first: '0'\\)"):
        compare_systems(a, b[1:])
    with pytest.raises(DataError, match="utterance '3' has two references"):
        compare_systems(a, [{**item, "ref": "other"} if item["id"] == "3" else item for item in b])


def test_greedy_hypotheses_beside_a_search_are_scored_on_their_own():
    rows = [score_row("a", "one two", "one two"), score_row("b", "three", "three")]
    assert greedy_score(rows) is None
    rows = [{**row, "greedy": greedy} for row, greedy in zip(rows, ["one too", "three"], strict=True)]
    report = greedy_score(rows, n=100)
    assert report is not None
    assert (report.S, report.N) == (1, 3)
