"""Lengths in, length buckets and batch sizes out; counts alone decide how many batches there are.

Everything here is integer arithmetic on the multiset of lengths, so it is the same on every machine, rank and epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Cut", "bucket_of", "deal", "edges", "edges_of", "rounded"]

CANDIDATES = 512
"""Edges are chosen among at most this many quantiles of the lengths."""


def edges(lengths: np.ndarray, n_buckets: int, *, align: int = 1, crop: bool) -> np.ndarray:
    """Return the bucket edges that lose the fewest samples.

    With ``crop`` a recording is cut to the largest edge that is not longer than it; otherwise it is padded to the
    smallest edge that is not shorter. The best ``n_buckets`` edges are found by dynamic programming over
    candidate lengths.

    Parameters
    ----------
    lengths
        int64 [N], N > 0, each at least ``align`` when ``crop``.
    align
        Edges are multiples of it (rounded down with ``crop``, else up).

    Returns
    -------
    int64 array, strictly increasing, of at most ``n_buckets`` edges
    """
    return edges_of(*np.unique(rounded(lengths, align, crop=crop), return_counts=True), n_buckets, crop=crop)


def rounded(lengths: np.ndarray, align: int, *, crop: bool) -> np.ndarray:
    """Return the lengths as multiples of ``align``: down with ``crop``, else up."""
    return lengths // align * align if crop else -(-lengths // align) * align


def edges_of(values: np.ndarray, counts: np.ndarray, n_buckets: int, *, crop: bool) -> np.ndarray:
    """Return what ``edges`` does, from the rounded lengths that occur (increasing) and how often each does."""
    if len(values) > CANDIDATES:
        ranks = np.searchsorted(
            np.cumsum(counts), np.arange(CANDIDATES) * int(counts.sum()) // CANDIDATES, side="right"
        )
        kept = np.unique(np.concatenate([[0], ranks, [len(values) - 1]]))
        groups = np.searchsorted(kept, np.arange(len(values)), side="right" if crop else "left") - (1 if crop else 0)
        counts = np.bincount(groups, weights=counts, minlength=len(kept)).astype(np.int64)
        values = values[kept]
    if not crop:  # padding to an upper edge equals cropping to a lower edge of the negated lengths
        values, counts = -values[::-1], counts[::-1]
    n, k = len(values), min(n_buckets, len(values))
    total = np.concatenate([[0], np.cumsum(counts)])
    mass = np.concatenate([[0], np.cumsum(counts * values)])
    # waste[i, j]: samples lost when values[i:j] share the edge values[i].
    waste = (mass[None, :] - mass[:-1, None]) - values[:, None] * (total[None, :] - total[:-1, None])
    waste = np.where(np.arange(n + 1)[None, :] > np.arange(n)[:, None], waste, np.iinfo(np.int64).max // 4)
    best, choices = waste[0], []
    for _ in range(k - 1):
        candidates = np.minimum(best[:n, None], np.iinfo(np.int64).max // 4) + waste
        choice = np.argmin(candidates, axis=0)
        choices.append(choice)
        best = candidates[choice, np.arange(n + 1)]
    starts, j = [], n
    for choice in reversed(choices):
        j = int(choice[j])
        starts.append(j)
    picked = values[sorted({0, *starts})]
    return np.sort(picked if crop else -picked).astype(np.int64)


def bucket_of(lengths: np.ndarray, bucket_edges: np.ndarray, *, crop: bool) -> np.ndarray:
    """Return each length's bucket: the largest edge not above it (``crop``), or the smallest not below it."""
    # An edge is a multiple of their greatest common divisor, so lengths can be compared in units of that: a table of
    # the units is twenty times as fast as a search when there are many lengths.
    unit = int(np.gcd.reduce(bucket_edges))
    units = lengths // unit if crop else -(-lengths // unit)
    longest = int(units.max(initial=0))
    if longest > len(lengths):
        return _search(bucket_edges // unit, units, crop=crop)
    return _search(bucket_edges // unit, np.arange(longest + 1), crop=crop)[units]


def _search(bucket_edges: np.ndarray, lengths: np.ndarray, *, crop: bool) -> np.ndarray:
    if crop:
        return np.searchsorted(bucket_edges, lengths, side="right") - 1
    return np.searchsorted(bucket_edges, lengths, side="left")


@dataclass(frozen=True)
class Cut:
    """The batches of one bucket in a window."""

    bucket: int
    sizes: tuple[int, ...]
    """Rows of each batch. Rows passed on by the bucket before come first."""
    passed_on: int
    """Rows left for the next bucket."""


def deal(counts: Sequence[int], bucket_edges: np.ndarray, batch_samples: int, *, crop: bool) -> list[Cut]:
    """Cut the buckets of a window into batches; depends on nothing but counts and edges.

    Full batches have ``batch_samples // edge`` rows. What is left in a bucket passes on to the next shorter (``crop``)
    or longer bucket, unless it fills half a batch, or a row would lose more than half of itself there (or be padded to
    more than twice its length): then it becomes a smaller batch.
    """
    order = list(range(len(bucket_edges)))[:: -1 if crop else 1]
    order = [bucket for bucket in order if counts[bucket]]
    cuts, carried, extreme = [], 0, 0
    for position, bucket in enumerate(order):
        edge = int(bucket_edges[bucket])
        rows = max(1, batch_samples // edge)
        full, rest = divmod(carried + counts[bucket], rows)
        if full or not carried:
            extreme = edge  # rows carried here come first, so with a full batch none of them is left
        sizes = [rows] * full
        if rest:
            further = int(bucket_edges[order[position + 1]]) if position + 1 < len(order) else None
            low, high = sorted((extreme, further if further is not None else extreme))
            if further is None or 2 * rest * edge >= batch_samples or high > 2 * low:
                sizes.append(rest)
                rest = 0
        cuts.append(Cut(bucket, tuple(sizes), rest))
        carried = rest
    return cuts
