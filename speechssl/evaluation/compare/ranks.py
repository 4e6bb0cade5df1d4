"""Does one measurement order systems as another does? Spearman's rank correlation with an interval.

In: two measurements of the same systems. Out: the correlation of their ranks, equal values sharing the mean of their
ranks, and a percentile interval of the bootstrap over systems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.evaluation.bootstrap import LEVEL

__all__ = ["RankCorrelation", "rank_correlation"]

FEWEST = 4
"""Systems; the ranks of fewer say nothing."""


@dataclass(frozen=True)
class RankCorrelation:
    """1: the same order. -1: the reverse."""

    value: float
    low: float
    high: float
    systems: int


def rank_correlation(
    a: Sequence[float], b: Sequence[float], *, n: int = 2_000, seed: int = 1
) -> RankCorrelation | None:
    """Return Spearman's correlation of two measurements [S] of S systems, from ``n`` resamples.

    None with fewer than four systems, or where all values of a measurement are equal.

    Raises
    ------
    ValueError
        The measurements are of different numbers of systems.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} systems")
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    drawn = np.random.default_rng(seed).integers(len(x), size=(n, len(x)))
    found = _spearman(x[drawn], y[drawn])
    low, high = np.quantile(found[np.isfinite(found)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return RankCorrelation(float(_spearman(x[None], y[None])[0]), float(low), float(high), len(x))


def _spearman(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the correlation of each row [n, S]; NaN where all values of a row are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (x, y)]
    p, q = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    spread = np.sqrt((p**2).sum(axis=1) * (q**2).sum(axis=1))
    return np.divide((p * q).sum(axis=1), spread, out=np.full(len(p), np.nan), where=spread > 0)
