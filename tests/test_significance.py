import numpy as np
import pytest

from speechssl.data.keys import generator
from speechssl.evaluation import significance
from speechssl.evaluation.significance import bootstrap_wer, paired_bootstrap
from tests.oracles.wer import bootstrap as slow_bootstrap


def some_counts(size=40, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 30, size)
    return np.stack([rng.binomial(words, 0.2) + rng.poisson(0.3, size), words], axis=1)


def loop_rates(counts, n, seed):
    """The resamples by plain loops, with the same keyed draws."""
    rng = generator("bootstrap", seed, len(counts))
    rates = []
    for _ in range(n):
        errors = words = 0
        for row in rng.integers(0, len(counts), len(counts)):
            errors, words = errors + int(counts[row][0]), words + int(counts[row][1])
        rates.append(errors / words)
    return np.array(rates)


@pytest.mark.parametrize("at_once", [1, 100, 333, 4_000_000])
def test_the_vectorised_interval_equals_plain_loops(monkeypatch, at_once):
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", at_once)
    counts = some_counts()
    expected = np.quantile(loop_rates(counts, 300, 7), [0.025, 0.975])
    assert bootstrap_wer(counts, n=300, seed=7) == pytest.approx(tuple(expected), abs=0)


def test_the_interval_agrees_with_an_independent_bootstrap():
    counts = some_counts(60)
    low, high = bootstrap_wer(counts, n=4000, seed=1)
    slow_low, slow_high = slow_bootstrap(counts.tolist(), 4000, seed=5)
    width = high - low
    assert abs(low - slow_low) < 0.08 * width and abs(high - slow_high) < 0.08 * width


def test_an_interval_is_a_function_of_its_seed():
    counts = some_counts()
    assert bootstrap_wer(counts, seed=3) == bootstrap_wer(counts.tolist(), seed=3)
    assert bootstrap_wer(counts, seed=3) != bootstrap_wer(counts, seed=4)


def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    """Errors cluster in utterances: each utterance has its own error probability (mean 0.2)."""
    rng = np.random.default_rng(11)
    held = 0
    for trial in range(300):
        words = rng.integers(1, 30, 120)
        errors = rng.binomial(words, rng.beta(2, 8, 120))
        low, high = bootstrap_wer(np.stack([errors, words], axis=1), n=400, seed=trial)
        held += low <= 0.2 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_whole_blocks_give_wider_intervals_where_errors_belong_to_speakers():
    rng = np.random.default_rng(2)
    speakers = np.repeat(np.arange(12), 20)
    words = rng.integers(5, 20, 240)
    errors = rng.binomial(words, rng.beta(1, 4, 12)[speakers])
    counts = np.stack([errors, words], axis=1)
    low, high = bootstrap_wer(counts, seed=1)
    block_low, block_high = bootstrap_wer(counts, seed=1, block=speakers)
    assert block_high - block_low > 1.5 * (high - low)
    assert bootstrap_wer(counts, seed=1, block=np.zeros(240)) is None


def test_a_level_orders_the_intervals():
    narrow, wide = (bootstrap_wer(some_counts(), level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("counts", [[], [[3, 10]], [[2, 0], [1, 0]]])
def test_where_there_is_no_interval(counts):
    assert bootstrap_wer(counts) is None
    assert paired_bootstrap(counts, counts) is None


def test_resamples_without_words_are_left_out():
    low, high = bootstrap_wer([[1, 2], [5, 0]], n=200)
    assert low == 0.5 and np.isfinite(high) and high > 0.5


def test_when_no_resample_has_a_word():
    counts = [[0, 1], *([[0, 0]] * 400)]
    empty = next(seed for seed in range(50) if 0 not in generator("bootstrap", seed, 401).integers(0, 401, 401))
    assert bootstrap_wer(counts, n=1, seed=empty) is None
    assert paired_bootstrap(counts, counts, n=1, seed=empty) is None


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ([1, 2, 3], {}, "shape"),
        ([[1, 2, 3]], {}, "shape"),
        ([[-1, 2], [0, 1]], {}, "negative"),
        ([[1, 2], [0, 1]], {"n": 0}, "at least 1"),
        ([[1, 2], [0, 1]], {"level": 1.0}, "between 0 and 1"),
        ([[1, 2], [0, 1]], {"block": [1]}, "one label"),
    ],
)
def test_wrong_arguments(counts, settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_wer(counts, **settings)


def test_the_paired_interval_equals_plain_loops():
    a = some_counts()
    b = a.copy()
    b[::3, 0] //= 2
    paired = paired_bootstrap(a, b, n=300, seed=9)
    delta = loop_rates(b, 300, 9) - loop_rates(a, 300, 9)
    assert (paired.low, paired.high) == pytest.approx(tuple(np.quantile(delta, [0.025, 0.975])), abs=0)
    assert paired.probability == pytest.approx((delta < 0).mean() + 0.5 * (delta == 0).mean(), abs=0)
    assert paired.difference == pytest.approx((b[:, 0].sum() - a[:, 0].sum()) / a[:, 1].sum())
    assert paired.relative == pytest.approx(1 - b[:, 0].sum() / a[:, 0].sum())


def test_a_better_system_is_seen_where_separate_intervals_overlap():
    a = some_counts(100)
    b = a.copy()
    b[:, 0] = np.maximum(b[:, 0] - (np.arange(100) % 4 == 0), 0)
    paired = paired_bootstrap(a, b)
    assert bootstrap_wer(b)[1] > bootstrap_wer(a)[0]
    assert paired.high < 0 and paired.probability > 0.99
    assert paired_bootstrap(b, a).low > 0


def test_a_system_against_itself_is_a_coin_flip():
    paired = paired_bootstrap(some_counts(), some_counts())
    assert (paired.difference, paired.low, paired.high, paired.probability) == (0, 0, 0, 0.5)


def test_no_relative_reduction_of_nothing():
    assert paired_bootstrap([[0, 5], [0, 6]], [[1, 5], [0, 6]]).relative is None


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1, 2], [1, 3]], [[1, 2]], "2 and 1 utterances"),
        ([[1, 2], [1, 3]], [[1, 2], [1, 4]], "row 1 has 3 reference words in one system and 4"),
    ],
)
def test_other_utterances_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)
