"""How far a word error rate can be trusted: bootstrap intervals, and paired bootstrap between two systems.

In: errors and reference words of each utterance. Out: an interval, or the interval of a difference and the probability
that one system is better. Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation"
(ICASSP 2004): utterances are drawn with replacement and errors and words are summed anew (their equations 2 to 6).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.data.keys import generator

__all__ = ["Interval", "PairedBootstrap", "bootstrap_wer", "paired_bootstrap"]

Interval = tuple[float, float]
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
    counts: npt.ArrayLike, *, n: int = 2_000, seed: int = 1, level: float = 0.95, block: npt.ArrayLike | None = None
) -> Interval | None:
    """Percentile bootstrap interval of a pooled error rate.

    Parameters
    ----------
    counts
        [U, 2] integers: errors and reference words of each utterance.
    n
        Resamples.
    seed
        The draws are a pure function of ``seed`` and U.
    level
        Coverage of the interval.
    block
        [U] labels; when given, whole blocks are drawn instead of utterances. With speakers as blocks the interval
        covers new speakers too (errors of one speaker are not independent; Liu et al. 2020, "Statistical testing on ASR
        performance via blockwise bootstrap", section 3).

    Returns
    -------
    (low, high) as rates, or None when there are fewer than two utterances (or blocks) or no reference words.

    Raises
    ------
    ValueError
        Wrong shape, negative counts, or n < 1.
    """
    table = _table(counts)
    if block is not None:
        table = _pooled(table, block)
    _check(n, level)
    if len(table) < 2 or table[:, 1].sum() == 0:
        return None
    rates = _resampled([table], n=n, seed=seed)[0]
    return _percentiles(rates, level) if rates.size else None


def paired_bootstrap(
    a: npt.ArrayLike, b: npt.ArrayLike, *, n: int = 2_000, seed: int = 1, level: float = 0.95
) -> PairedBootstrap | None:
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
    _check(n, level)
    words = int(left[:, 1].sum())
    if len(left) < 2 or words == 0:
        return None
    rates_a, rates_b = _resampled([left, right], n=n, seed=seed)
    delta = rates_b - rates_a
    if not delta.size:
        return None
    low, high = _percentiles(delta, level)
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


def _check(n: int, level: float) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")


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


def _resampled(tables: list[npt.NDArray[np.int64]], *, n: int, seed: int) -> list[npt.NDArray[np.float64]]:
    """Return the error rate of each table in each of n resamples, the same utterances drawn for all tables.

    Resamples without a reference word have no rate and are left out, the same ones for every table.
    """
    size = len(tables[0])
    rng = generator("bootstrap", seed, size)
    errors: list[list[Any]] = [[] for _ in tables]
    words: list[Any] = []
    at_once = max(1, _DRAWS_AT_ONCE // size)
    for first in range(0, n, at_once):
        rows = rng.integers(0, size, size=(min(at_once, n - first), size))
        words.append(tables[0][:, 1][rows].sum(axis=1))
        for kept, table in zip(errors, tables, strict=True):
            kept.append(table[:, 0][rows].sum(axis=1))
    total = np.concatenate(words)
    valid = total > 0
    return [np.concatenate(kept)[valid] / total[valid] for kept in errors]


def _percentiles(values: npt.NDArray[np.float64], level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
