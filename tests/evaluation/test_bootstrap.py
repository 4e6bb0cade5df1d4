import numpy as np
import pytest

from speechssl.core.randomness import generator
from speechssl.evaluation import bootstrap
from speechssl.evaluation.bootstrap import bootstrap_wer, paired_bootstrap
from tests.oracles.wer import bootstrap as slow_bootstrap
from tests.oracles.wer import limits


def some_counts(size=40, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 30, size)
    return np.stack([rng.binomial(words, 0.2) + rng.poisson(0.3, size), words], axis=1)


def the_draws(size, n, seed):
    """The keyed draws of the program."""
    rng = generator("bootstrap", seed, size)
    return [list(rng.integers(0, size, size)) for _ in range(n)]


def by_loops(units, n, seed):
    """Limits by plain loops, with the same draws."""
    units = [(int(errors), int(words)) for errors, words in units]
    return limits(units, the_draws(len(units), n, seed))


@pytest.mark.parametrize("at_once", [1, 100, 333, 4_000_000])
def test_the_vectorised_interval_equals_plain_loops(monkeypatch, at_once):
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", at_once)
    counts = some_counts()
    assert bootstrap_wer(counts, n=300, seed=7) == pytest.approx(by_loops(counts, 300, 7), rel=1e-9)


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


def test_a_level_orders_the_intervals(monkeypatch):
    wide = bootstrap_wer(some_counts())
    monkeypatch.setattr(bootstrap, "LEVEL", 0.5)
    narrow = bootstrap_wer(some_counts())
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("counts", [[], [[3, 10]], [[2, 0], [1, 0]]])
def test_where_there_is_no_interval(counts):
    assert bootstrap_wer(counts) is None
    assert paired_bootstrap(counts, counts) is None


def test_resamples_without_words_are_left_out():
    low, high = bootstrap_wer([[1, 2], [5, 0]], n=200)
    assert 0 <= low <= 0.5 and np.isfinite(high) and high > 0.5


def test_where_no_unit_differs_the_interval_is_a_point():
    assert bootstrap_wer([[0, 7]] * 30) == (0, 0)
    assert bootstrap_wer([[1, 4], [2, 8], [3, 12]]) == (0.25, 0.25)


def test_limits_are_rates_that_can_be():
    """One bad unit of six: a point far above the others, and no unit with more errors than words."""
    low, high = bootstrap_wer([[20, 20], *([[0, 20]] * 5)])
    assert low == 0 and 1 / 3 < high <= 1
    _, high = bootstrap_wer([[21, 20], [0, 20], [0, 20]])
    assert high > 1  # insertions: a rate above 1 can be


def test_few_units_have_wide_intervals():
    def width(units):
        low, high = bootstrap_wer(some_counts(units, seed=4))
        return high - low

    assert width(5) > width(20) > width(80) > width(320)


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
    change = np.stack([b[:, 0] - a[:, 0], a[:, 1]], axis=1)
    assert (paired.low, paired.high) == pytest.approx(by_loops(change, 300, 9), rel=1e-9)
    delta = np.array([change[rows, 0].sum() / change[rows, 1].sum() for rows in the_draws(40, 300, 9)])
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
