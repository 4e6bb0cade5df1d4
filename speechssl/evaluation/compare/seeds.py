"""Scores of one system that was trained with several seeds, and the difference between two such systems.

In: scored rows of each seed, of the same utterances in the same order. Out: rates with intervals. Errors and lengths of
an utterance are summed over the seeds before utterances are resampled: the interval is that of the test set, and the
rates by seed stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.evaluation.bootstrap import PairedBootstrap, bootstrap_wer, paired_bootstrap
from speechssl.evaluation.compare.matching import match
from speechssl.evaluation.wer.breakdown import counts
from speechssl.evaluation.wer.edit_distance import align_characters
from speechssl.evaluation.wer.hypotheses import Row

__all__ = ["Rate", "character_rate", "difference", "word_rate"]


@dataclass(frozen=True)
class Rate:
    """An error rate over all seeds."""

    value: float | None
    """None where there is nothing to recognise."""
    low: float | None
    high: float | None
    seeds: tuple[float | None, ...]
    """By seed."""


def word_rate(seeds: Sequence[Sequence[Row]], *, n: int, seed: int) -> Rate:
    """Return the word error rate; ``n`` and ``seed`` are of the bootstrap."""
    return _rate([np.asarray(counts(rows)) for rows in seeds], n=n, seed=seed)


def character_rate(seeds: Sequence[Sequence[Row]], *, n: int, seed: int) -> Rate:
    """Return the character error rate."""
    return _rate([np.asarray([_characters(row) for row in rows]) for rows in seeds], n=n, seed=seed)


def difference(a: Sequence[Sequence[Row]], b: Sequence[Sequence[Row]], *, n: int, seed: int) -> PairedBootstrap | None:
    """Compare two systems of the same seeds by word error rate; negative means that b is better.

    Raises
    ------
    DataError
        They were scored on different utterances or references.
    """
    named = {
        f"{name}, seed {number}": rows for name, system in (("a", a), ("b", b)) for number, rows in enumerate(system)
    }
    rows = match(named).rows
    tables = {name: np.asarray(counts(found)) for name, found in rows.items()}
    pooled = [sum(table for name, table in tables.items() if name.startswith(first)) for first in ("a,", "b,")]
    return paired_bootstrap(pooled[0], pooled[1], n=n, seed=seed)


def _characters(row: Row) -> tuple[int, int]:
    """Return wrong characters and characters of the reference."""
    pairs = align_characters(row["ref"], row["hyp"])
    return sum(op != "C" for op, _, _ in pairs), sum(op != "I" for op, _, _ in pairs)


def _rate(tables: Sequence[np.ndarray], *, n: int, seed: int) -> Rate:
    """Return the rate of [U, 2] tables of errors and lengths, one a seed."""
    pooled = np.sum(tables, axis=0)
    low, high = bootstrap_wer(pooled, n=n, seed=seed) or (None, None)
    return Rate(_ratio(pooled), low, high, tuple(_ratio(table) for table in tables))


def _ratio(table: np.ndarray) -> float | None:
    errors, length = table.sum(axis=0).tolist()
    return errors / length if length else None
