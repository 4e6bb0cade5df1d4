"""Rank correlation of two measurements: SciPy's value, and intervals that say what they should."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from speechssl.evaluation.compare.ranks import rank_correlation


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_value_is_that_of_scipy_with_and_without_ties(decimals):
    random = np.random.default_rng(decimals)
    a = random.normal(size=17).round(decimals)
    b = (a + random.normal(size=17)).round(decimals)
    found = rank_correlation(a, b, n=200)
    assert found.value == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.systems == 17


def test_the_same_order_is_certain_and_the_reverse_is_too():
    a = [0.1, 0.5, 0.2, 0.9, 0.7]
    same, reverse = rank_correlation(a, [x**3 for x in a]), rank_correlation(a, [-x for x in a])
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx((-1, -1, -1))


def test_unrelated_measurements_have_zero_in_the_interval():
    """Nineteen in twenty times, give or take: 40 pairs of unrelated measurements of 18 systems."""
    random = np.random.default_rng(1)
    found = [rank_correlation(*random.normal(size=(2, 18)), n=400) for _ in range(40)]
    assert sum(each.low <= 0 <= each.high for each in found) >= 34


def test_too_few_or_equal_values_have_no_correlation():
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    with pytest.raises(ValueError, match="4 and 5 systems"):
        rank_correlation([1, 2, 3, 4], [1, 2, 3, 4, 5])
