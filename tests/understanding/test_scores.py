"""Measures against scikit-learn and slow references: EER, nearest neighbours, edits, purities, mutual information."""

from collections import Counter

import jiwer
import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional

from speechssl.understanding.examples import UNIT, _edits, errors_of, loss_of
from speechssl.understanding.prosody import energy, pitch
from speechssl.understanding.scores import equal_error_rate, nearest_classes, verification
from speechssl.understanding.unit_quality import against_phones, code_quality, contingency, runs


def slow_eer(scores, same):
    """Where the piecewise linear ROC of scikit-learn crosses the line on which both error rates are equal."""
    wrong, right, _ = roc_curve(same, scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 200_001)
    gap = np.abs(1 - np.interp(grid, wrong, right) - grid)
    return grid[gap.argmin()]


@pytest.mark.parametrize("seed", range(4))
def test_the_equal_error_rate_is_that_of_scikit_learns_curve(seed):
    random = np.random.default_rng(seed)
    same = random.random(200) < 0.3
    scores = random.normal(size=200) + same
    scores = scores.round(1) if seed % 2 else scores  # equal scores share a threshold
    # A vertical step of the curve is a jump of the interpolated one, so the grid may miss by half a step there.
    assert equal_error_rate(scores, same) == pytest.approx(slow_eer(scores, same), abs=2e-5)


def test_equal_error_rates_of_clear_cases():
    same = [True, True, False, False]
    assert equal_error_rate([2, 3, 0, 1], same) == 0
    assert equal_error_rate([0, 1, 2, 3], same) == 1
    assert equal_error_rate([5, 5, 5, 5], same) == 0.5
    with pytest.raises(ValueError, match="different"):
        equal_error_rate([1.0, 2.0], [True, True])


def test_weights_of_trials_are_repetitions():
    random = np.random.default_rng(0)
    same, scores, times = random.random(60) < 0.5, random.normal(size=60), random.integers(0, 4, 60)
    repeated = equal_error_rate(np.repeat(scores, times), np.repeat(same, times))
    assert equal_error_rate(scores, same, times) == pytest.approx(repeated)


def test_verification_finds_speakers_and_none_in_noise():
    random = np.random.default_rng(0)
    speakers = [f"s{i % 8}" for i in range(80)]
    centres = random.normal(size=(8, 16))
    vectors = np.array([centres[i % 8] for i in range(80)]) + 0.1 * random.normal(size=(80, 16))
    rate, interval, trials = verification(vectors, speakers, n=50)
    assert (rate, trials) == (0.0, 80 * 79 // 2)
    assert interval == (0.0, 0.0)
    rate, (low, high), _ = verification(random.normal(size=(80, 16)), speakers, n=200)
    assert low < 0.5 < high
    assert rate == pytest.approx(0.5, abs=0.08)
    assert verification(vectors[::4], speakers[::4])[1] is None  # two speakers


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_classes_are_those_of_scikit_learn(k):
    random = np.random.default_rng(1)
    train, test, classes = random.normal(size=(90, 6)), random.normal(size=(40, 6)), random.integers(0, 2, 90)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train, classes).predict(test)
    assert nearest_classes(train, classes, test, [1, k])[1].tolist() == reference.tolist()


def test_edits_are_those_of_jiwer():
    random = np.random.default_rng(2)
    for _ in range(100):
        a, b = (random.integers(0, 4, random.integers(1, 12)).tolist() for _ in range(2))
        found = jiwer.process_words(" ".join(map(str, a)), " ".join(map(str, b)))
        assert _edits(a, b) == found.substitutions + found.deletions + found.insertions
    assert _edits([1, 2], []) == 2


def test_errors_of_text_collapse_repeats_and_leave_padding_out():
    path = torch.tensor([[1, 1, 0, 1, 2, 2]])
    scores = functional.one_hot(path, 3).float()
    assert errors_of("text", scores, torch.tensor([6]), [torch.tensor([1, 1, 2])]) == [(0, 3)]
    assert errors_of("text", scores, torch.tensor([3]), [torch.tensor([1, -1])]) == [(1, 2)]


def test_errors_of_frames_count_labelled_frames_alone():
    scores = torch.eye(3)[None]
    assert errors_of("frames", scores, torch.tensor([3]), [torch.tensor([0, -100, 3])]) == [(1, 2)]
    numbers = torch.tensor([[[1.0], [5.0], [0.0]]])
    target = torch.tensor([0.5, float("nan"), -1.0])
    assert errors_of("frames", numbers, torch.tensor([3]), [target]) == [(round(1.25 / UNIT), round(1.25 / UNIT))]
    assert float(loss_of("frames", numbers, torch.tensor([3]), [target])) == pytest.approx(1.25 / 2)


def test_a_label_that_no_output_stands_for_does_not_train():
    scores = torch.randn(1, 8, 3)
    known = loss_of("text", scores, torch.tensor([8]), [torch.tensor([1, 2])])
    assert torch.equal(known, loss_of("text", scores, torch.tensor([8]), [torch.tensor([1, -1, 2])]))


# ------------------------------------------------------------------------------------------------------ units


def test_purities_and_information_against_slow_references():
    random = np.random.default_rng(3)
    phones = random.integers(0, 5, 4_000)
    units = np.where(random.random(4_000) < 0.6, phones * 2, random.integers(0, 12, 4_000))
    cut = {"a": units[:1500], "b": units[1500:]}
    names = {"a": [f"p{p}" for p in phones[:1500]], "b": [f"p{p}" for p in phones[1500:]]}
    counts, found = contingency(cut, names, 12)
    assert (counts.sum(), found) == (4_000, [f"p{p}" for p in range(5)])
    quality = against_phones(counts)
    pairs = list(zip(phones.tolist(), units.tolist(), strict=True))
    by_unit = {u: Counter(p for p, v in pairs if v == u) for u in set(units.tolist())}
    by_phone = {p: Counter(u for q, u in pairs if q == p) for p in set(phones.tolist())}
    assert quality["phone_purity"] == pytest.approx(sum(max(c.values()) for c in by_unit.values()) / 4_000, abs=1e-12)
    assert quality["cluster_purity"] == pytest.approx(
        sum(max(c.values()) for c in by_phone.values()) / 4_000, abs=1e-12
    )
    shares = np.bincount(phones) / 4_000
    pnmi = mutual_info_score(phones, units) / -(shares * np.log(shares)).sum()
    assert quality["pnmi"] == pytest.approx(pnmi, abs=1e-10)


def test_frames_without_a_phone_are_left_out():
    counts, names = contingency({"a": np.array([0, 1, 1]), "b": np.array([0])}, {"a": ["x", None, "y"]}, 2)
    assert (counts.tolist(), names) == ([[1, 0], [0, 1]], ["x", "y"])


def test_bit_rates_with_and_without_repeats():
    units = {"a": np.array([0, 0, 1, 1, 0, 0, 1, 1])}  # 8 frames in 2 s, half 0 and half 1; four runs
    found = code_quality(units, 4, 2.0)
    assert found["bit_rate"] == pytest.approx(4.0)
    assert found["bit_rate_without_repeats"] == pytest.approx(2.0)
    assert (found["perplexity"], found["dead"], found["frames_per_run"]) == (pytest.approx(2.0), 2, 2.0)
    assert runs([3, 3, 1]) == [(3, 0, 2), (1, 2, 1)]


# ----------------------------------------------------------------------------------------------------- prosody


def test_pitch_of_harmonic_sounds_and_none_in_noise():
    time = np.arange(16_000) / 16_000
    grid = {"hop": 320, "receptive": 400}
    for hertz in (80.0, 123.0, 220.0, 350.0):
        wave = sum(0.1 / n * np.sin(2 * np.pi * hertz * n * time) for n in range(1, 6)).astype(np.float32)
        found = 2 ** pitch(wave, 48, **grid)[3:-3]
        assert np.abs(found / hertz - 1).max() < 0.01
        assert np.allclose(pitch(4 * wave, 48, **grid), pitch(wave, 48, **grid), equal_nan=True)
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    assert np.isnan(pitch(0.1 * noise, 48, **grid)).all()
    assert np.isnan(pitch(np.zeros(16_000, np.float32), 48, **grid)).all()


def test_energy_is_the_logarithm_of_the_root_mean_square():
    wave = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    found = energy(wave, 48, hop=320, receptive=400)
    assert np.allclose(found[3:-3], np.log(0.1 / np.sqrt(2)), atol=1e-3)
