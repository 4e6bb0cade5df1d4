"""Bootstrap intervals of a word error rate, and the paired bootstrap between two systems.

In: errors and reference words of each utterance. Out: an interval, or the interval of a difference and the probability
that one system is better. Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation"
(ICASSP 2004): utterances are drawn with replacement and errors and words are summed anew (their equations 2 to 6).

On each side the limit is the outer of two. The first is that of the studentised bootstrap (Efron & Tibshirani, An
Introduction to the Bootstrap, 1993, section 12.5), which follows the skew of error rates. The second is a percentile
expanded for few units (Hesterberg, "What teachers should know about the bootstrap", 2015), which is right where
resamples have hardly any spread. Plain percentiles are too narrow. Over 1,000 simulated test sets
(tests/evaluation/test_coverage.py) 95 % intervals held the true rate in 94 to 96 %, from 50 utterances or 8 speakers
on. Plain percentiles held it in 88 to 94 % (utterances) and in 87 to 93 % (speakers). With fewer than about ten errors
in all, no resampling helps (88 % for 20 utterances at 2 % errors).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.core.randomness import generator

__all__ = ["Interval", "PairedBootstrap", "bootstrap_ratio", "bootstrap_wer", "paired_bootstrap"]

Interval = tuple[float, float]
LEVEL = 0.95
"""Coverage of an interval."""
_DRAWS_AT_ONCE = 4_000_000
"""Drawn indices held in memory at a time (32 MB)."""


@dataclass(frozen=True)
class PairedBootstrap:
    """System b against system a on the same utterances; differences are ``b - a``, so negative means b is better."""

    wer_a: float
    wer_b: float
    difference: float
    """WER of b minus WER of a, absolute."""
    low: float
    high: float
    """Interval of the difference."""
    relative: float | None
    """(WER of a - WER of b) / WER of a: the relative reduction; None when a makes no error."""
    probability: float
    """Probability of improvement: share of resamples in which b has the lower WER (a tie counts one half)."""
    utterances: int
    resamples: int


def bootstrap_wer(
    counts: npt.ArrayLike, *, n: int = 2_000, seed: int = 1, block: npt.ArrayLike | None = None
) -> Interval | None:
    """Studentised bootstrap interval (``LEVEL``) of a pooled error rate.

    Parameters
    ----------
    counts
        [U, 2] integers: errors and reference words of each utterance.
    n
        Resamples.
    seed
        The draws are a pure function of ``seed`` and U.
    block
        [U] labels; when given, whole blocks are drawn instead of utterances. With speakers as blocks the interval
        covers new speakers too (errors of one speaker are not independent; Liu et al. 2020, "Statistical testing on ASR
        performance via blockwise bootstrap", section 3).

    Returns
    -------
    (low, high) as rates, or None when there are fewer than two utterances (or blocks) or no reference words. ``low`` is
    not below 0, and ``high`` not above 1 unless some unit has more errors than words. With fewer than about ten units
    the interval is wide. Where no unit differs from the pooled rate (no error at all, for example) it is a point, since
    all resamples are alike.

    Raises
    ------
    ValueError
        Wrong shape, negative counts, or n < 1.
    """
    table = _table(counts)
    if block is not None:
        table = _pooled(table, block)
    return bootstrap_ratio(table, n=n, seed=seed)


def bootstrap_ratio(table: npt.NDArray[Any], *, n: int = 2_000, seed: int = 1) -> Interval | None:
    """Interval of a ratio of two sums, as :func:`bootstrap_wer`.

    Parameters
    ----------
    table
        [U, 2] numbers that are not negative: what each unit adds to the numerator and to the denominator.
    """
    _check(n)
    if len(table) < 2 or table[:, 1].sum() == 0:
        return None
    resampled = _resampled(table, n=n, seed=seed)
    if not resampled.rates.size:
        return None
    low, high = _limits(table, resampled)
    most = np.inf if (table[:, 0] > table[:, 1]).any() else 1.0
    return max(low, 0.0), min(high, most)


def paired_bootstrap(a: npt.ArrayLike, b: npt.ArrayLike, *, n: int = 2_000, seed: int = 1) -> PairedBootstrap | None:
    """Compare two systems on the same utterances, drawing the same utterances for both (Bisani & Ney 2004, section 4).

    Parameters
    ----------
    a, b
        [U, 2] integers each: errors and reference words of utterance u. Row u must be the same utterance in both.

    Returns
    -------
    None when there are fewer than two utterances or no reference words.

    Raises
    ------
    ValueError
        The tables differ in length or in reference words (so they are not the same utterances), or as in
        `bootstrap_wer`.
    """
    left, right = _table(a), _table(b)
    if left.shape != right.shape:
        raise ValueError(f"the systems have {len(left)} and {len(right)} utterances; score both on the same ones")
    if not np.array_equal(left[:, 1], right[:, 1]):
        row = int(np.flatnonzero(left[:, 1] != right[:, 1])[0])
        raise ValueError(f"row {row} has {left[row, 1]} reference words in one system and {right[row, 1]} in the other")
    _check(n)
    words = int(left[:, 1].sum())
    if len(left) < 2 or words == 0:
        return None
    change = np.stack([right[:, 0] - left[:, 0], left[:, 1]], axis=1)
    resampled = _resampled(change, n=n, seed=seed)
    delta = resampled.rates
    if not delta.size:
        return None
    low, high = _limits(change, resampled)
    wer_a, wer_b = int(left[:, 0].sum()) / words, int(right[:, 0].sum()) / words
    return PairedBootstrap(
        wer_a=wer_a,
        wer_b=wer_b,
        difference=wer_b - wer_a,
        low=low,
        high=high,
        relative=(wer_a - wer_b) / wer_a if wer_a else None,
        probability=float((delta < 0).mean() + 0.5 * (delta == 0).mean()),
        utterances=len(left),
        resamples=n,
    )


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")


def _table(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    table = np.asarray(counts, dtype=np.int64)
    if table.size == 0:
        table = table.reshape(0, 2)
    if table.ndim != 2 or table.shape[1] != 2:
        raise ValueError(f"counts must have shape [utterances, 2] (errors, words), not {list(table.shape)}")
    if (table < 0).any():
        raise ValueError("counts must not be negative")
    return table


def _pooled(table: npt.NDArray[np.int64], block: npt.ArrayLike) -> npt.NDArray[np.int64]:
    labels = np.asarray(block)
    if labels.shape != (len(table),):
        raise ValueError(
            f"block must have one label for each of {len(table)} utterances, not shape {list(labels.shape)}"
        )
    names, inverse = np.unique(labels, return_inverse=True)
    pooled = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(pooled, inverse, table)
    return pooled


@dataclass(frozen=True)
class _Resampled:
    rates: npt.NDArray[np.float64]
    """[n'] error rate of each resample that has a reference word."""
    deviations: npt.NDArray[np.float64]
    """[n'] its standard error, estimated from that resample alone."""


def _resampled(table: npt.NDArray[Any], *, n: int, seed: int) -> _Resampled:
    """Draw the rows of ``table`` ([U, 2]: errors, words) n times; resamples without a reference word are left out."""
    size = len(table)
    rng = generator("bootstrap", seed, size)
    moments = _moments(table)
    sums: list[Any] = []
    at_once = max(1, _DRAWS_AT_ONCE // size)
    for first in range(0, n, at_once):
        rows = rng.integers(0, size, size=(min(at_once, n - first), size))
        sums.append(np.stack([moment[rows].sum(axis=1) for moment in moments]))
    drawn = np.concatenate(sums, axis=1)
    drawn = drawn[:, drawn[1] > 0]
    return _Resampled(drawn[0] / drawn[1], _deviation(drawn, size))


def _moments(table: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return [5, U]: e, w, e^2, e w, w^2 of each unit."""
    e, w = table.astype(np.float64).T
    return np.stack([e, w, e * e, e * w, w * w])


def _deviation(sums: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Standard error of the ratio e / w: root of the sum of squared residuals (e - ratio w), over the sum of w."""
    e, w, ee, ew, ww = sums
    ratio = e / w
    squares = ee - 2 * ratio * ew + ratio * ratio * ww
    squares = np.where(squares > 1e-9 * (ee + ww), squares, 0.0)  # rounding, where every residual is 0
    return np.sqrt(squares * size / (size - 1)) / w


def _limits(table: npt.NDArray[Any], resampled: _Resampled) -> Interval:
    """Return the outer of the studentised and the expanded percentile limits.

    Studentised: rate - q s, with q the quantiles of (rate* - rate) / s* over the resamples; for a resample without
    spread (all its units alike) the s of the whole set replaces s*. Expanded: the percentiles at which a normal
    interval would have the width of Student's with U - 1 degrees of freedom and the unbiased variance.
    """
    from scipy.special import ndtr, stdtrit

    size, tail = len(table), (1 - LEVEL) / 2
    sums = _moments(table).sum(axis=1)
    rate, deviation = float(sums[0] / sums[1]), float(_deviation(sums, size))
    if not deviation:
        return rate, rate
    spread = np.where(resampled.deviations > 0, resampled.deviations, deviation)
    below, above = np.quantile((resampled.rates - rate) / spread, [tail, 1 - tail])
    expanded = float(ndtr(stdtrit(size - 1, tail) * np.sqrt(size / (size - 1))))
    low, high = np.quantile(resampled.rates, [expanded, 1 - expanded])
    return min(rate - float(above) * deviation, float(low)), max(rate - float(below) * deviation, float(high))
