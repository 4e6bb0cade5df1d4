import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.evaluation.bootstrap import bootstrap_wer
from speechssl.evaluation.wer.calibration import area_under_curve, calibration, judged_words, normalised_cross_entropy
from speechssl.evaluation.wer.hypotheses import read_hypotheses, score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import write_wer
from speechssl.evaluation.wer.wer_text import wer_text
from tests.oracles import confidence as oracle

SCLITE = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")


def row(id_, ref, hyp, confidences, **more):
    return score_row(id_, ref, hyp, confidences=confidences, **more)


def test_by_hand():
    # right: 0.9 (a), 0.6 (c); wrong: 0.4 (x for b), 0.6 (inserted d)
    found = calibration([row("u", "a b c", "a x c d", [0.9, 0.4, 0.6, 0.6])], n=10, seed=1)
    assert (found.utterances, found.words, found.correct, found.accuracy) == (1, 4, 2, 0.5)
    assert found.confidence == pytest.approx(2.5 / 4)
    assert [(b.low, b.high, b.words, b.confidence, b.accuracy) for b in found.bins] == [
        (0.4, 0.5, 1, 0.4, 0.0), (0.6, 0.7, 2, 0.6, 0.5), (0.9, 1.0, 1, 0.9, 1.0),
    ]  # fmt: skip
    assert found.ece == pytest.approx((0.4 + 2 * 0.1 + 0.1) / 4)
    assert found.auc == (1 + 1 + 1 + 0.5) / 4
    most = 4 * math.log2(2)
    given = math.log2(0.9) + math.log2(0.6) + math.log2(0.6) + math.log2(0.4)
    assert found.nce == pytest.approx((most + given) / most)
    assert all(b.ci_low is None for b in found.bins)  # one utterance has no interval


words = st.lists(
    st.tuples(st.sampled_from([0.05, 0.1, 0.3, 0.31, 0.5, 0.7, 0.99]), st.booleans()), min_size=1, max_size=30
)


@settings(max_examples=150, deadline=None)
@given(judged=words)
def test_equal_to_plain_loops(judged):
    confidences = np.array([c for c, _ in judged])
    right = np.array([ok for _, ok in judged])
    nce, auc = normalised_cross_entropy(confidences, right), area_under_curve(confidences, right)
    for found, expected in ((nce, oracle.cross_entropy(judged)), (auc, oracle.auc(judged))):
        assert found is None if expected is None else found == pytest.approx(expected, abs=1e-12)
    hyp = " ".join("a" if ok else "b" for _, ok in judged)
    whole = calibration([row("u", " ".join("a" * len(judged)), hyp, [c for c, _ in judged])], n=5, seed=1)
    if [
        ok for _, ok in judged_words(row("u", " ".join("a" * len(judged)), hyp, [c for c, _ in judged]))
    ] == right.tolist():
        assert whole.ece == pytest.approx(oracle.calibration_error(judged), abs=1e-12)


def test_the_mean_confidence_for_every_word_says_nothing():
    right = np.array([True] * 3 + [False])
    assert normalised_cross_entropy(np.full(4, 0.75), right) == pytest.approx(0)
    assert normalised_cross_entropy(right.astype(float), right) == pytest.approx(1, abs=1e-5)
    assert normalised_cross_entropy(1.0 - right, right) < -10  # sure and wrong, yet finite
    assert area_under_curve(np.full(4, 0.75), right) == 0.5
    assert area_under_curve(right.astype(float), right) == 1 and area_under_curve(1.0 - right, right) == 0


@pytest.mark.skipif(SCLITE is None, reason="no NIST sctk: apt-get install sctk")
def test_normalised_cross_entropy_is_that_of_sclite(tmp_path):
    rng = np.random.default_rng(5)
    ref = [f"w{i}" for i in range(200)]
    hyp = [w if rng.random() < 0.8 else f"x{i}" for i, w in enumerate(ref)]
    sure = np.round(np.clip(rng.beta(5, 2, 200) - 0.3 * np.array([w[0] == "x" for w in hyp]), 0, 1), 4)
    sure[:4] = [0, 1, 0, 1]  # both ends, right or wrong
    (tmp_path / "ref.stm").write_text(f"f 1 s 0 300 <o> {' '.join(ref)}\n")
    lines = [f"f 1 {i + 0.2:.2f} 0.5 {w} {c:.4f}\n" for i, (w, c) in enumerate(zip(hyp, sure, strict=True))]
    (tmp_path / "hyp.ctm").write_text("".join(lines))
    told = subprocess.run(
        [SCLITE, "-r", "ref.stm", "stm", "-h", "hyp.ctm", "ctm", "-o", "sum", "stdout"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    line = next(line for line in told.splitlines() if "Sum/Avg" in line)
    theirs = float(line.split("|")[-2])
    found = calibration([row("u", " ".join(ref), " ".join(hyp), sure.tolist())], n=10, seed=1)
    assert found.nce == pytest.approx(theirs, abs=6e-4)


def test_an_honest_system_is_calibrated_and_intervals_are_over_utterances():
    rng = np.random.default_rng(0)
    rows = []
    for u in range(60):
        sure = rng.uniform(0, 1, 20)
        hyp = " ".join("a" if rng.random() < c else "b" for c in sure)
        rows.append(row(f"u{u}", " ".join("a" * 20), hyp, sure.tolist()))
    found = calibration(rows, n=300, seed=2)
    assert found.ece < 0.07 and 0.1 < found.nce < 0.5 and 0.7 < found.auc < 0.9
    last = found.bins[-1]
    counts = []
    for item in rows:
        inside = [ok for c, ok in judged_words(item) if c >= 0.9]
        counts.append((sum(inside), len(inside)))
    assert (last.ci_low, last.ci_high) == bootstrap_wer(counts, n=300, seed=2)
    assert last.ci_low <= last.accuracy <= last.ci_high


def test_rows_without_confidences_take_no_part():
    rows = [score_row("a", "x y", "x z"), row("b", "x y", "x z", [0.9, 0.2]), row("c", "x", "", []),
            row("d", "x", "y", None)]  # fmt: skip
    found = calibration(rows, n=10, seed=1)
    assert (found.utterances, found.words, found.correct) == (2, 2, 1)
    assert calibration(rows[:1], n=10, seed=1) is None and calibration([rows[2]], n=10, seed=1) is None
    right = calibration([row("b", "x", "x", [0.5])], n=10, seed=1)
    assert right.nce is None and right.auc is None and right.ece == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5], "a number for each of 2 hypothesis words .got 1"),
        ("high", "a number for each of 2 hypothesis words .got 'high'"),
        ([0.5, 1.2], "between 0 and 1 .got 1.2"),
        ([0.5, float("nan")], "between 0 and 1 .got nan"),
        ([True, 0.5], "between 0 and 1 .got True"),
        ([0.5, "0.5"], "between 0 and 1 .got '0.5'"),
    ],
)
def test_wrong_confidences_are_refused(given, message):
    with pytest.raises(DataError, match=f"utterance 'u7': 'confidences' must .*{message}"):
        summarise([{"id": "u7", "ref": "a b", "hyp": "a b", "confidences": given}], n=10)


def test_it_is_in_the_files_and_can_be_computed_again(tmp_path):
    rows = [row(f"u{i}", "a b c", "a x c", [0.9, 0.3, 0.8]) for i in range(4)]
    report = write_wer(tmp_path, rows, n=50)
    assert summarise(read_hypotheses(tmp_path), n=50) == report
    text = wer_text(report, {})
    assert "normalised cross entropy" in text and "Confidences of 12 hypothesis words in 4 utterances" in text
    assert "confidence" not in wer_text(summarise([{"id": "a", "ref": "a", "hyp": "b"}], n=10), {})
