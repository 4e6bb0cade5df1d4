"""Which recordings are the same, though re-encoded, louder, trimmed or shifted.

In: fingerprints. Out: pairs with the share of differing bits. Pairs that share two keys at one time difference are
candidates (an index: never all pairs); each candidate is then compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.data.audit.fingerprint import Fingerprint

__all__ = ["Match", "compare", "near_duplicates"]

_FULLEST = 48
"""Keys that more recordings share say nothing (hum, a tone)."""
_VOTES = 2
_FEWEST_FRAMES = 8
_SHORT, _LONG = 50, 100
"""Active frames; of less than two seconds fewer bits may differ, of less than one fewer still: words of one voice are
alike (repetitions of a digit differ in 16 % of the bits or more)."""
_OFFSET = 1 << 20


@dataclass(frozen=True)
class Match:
    """Two recordings that are one."""

    a: int
    b: int
    errors: float
    """Share of differing bits where both are active."""
    overlap: float
    """Share of the shorter one's fingerprint that lies over the other."""
    length_ratio: float
    """Of the shorter to the longer recording."""
    shift: float
    """Seconds: what is at t in ``a`` is at t + shift in ``b``."""


def compare(a: Fingerprint, b: Fingerprint, shift: int) -> tuple[float, float]:
    """Return (share of differing bits, overlap) with frame i of ``a`` over frame i + shift of ``b``."""
    low, high = max(0, -shift), min(len(a.words), len(b.words) - shift)
    if high <= low:
        return 1.0, 0.0
    both = a.active[low:high] & b.active[low + shift : high + shift]
    if both.sum() < _FEWEST_FRAMES:
        return 1.0, 0.0
    differing = (a.words[low:high] ^ b.words[low + shift : high + shift])[both]
    overlap = both.sum() / max(1, min(a.active.sum(), b.active.sum()))
    return float(np.bitwise_count(differing).mean() / 32), float(overlap)


def near_duplicates(prints: Sequence[Fingerprint], *, most_errors: float, least_overlap: float) -> list[Match]:
    """Return the pairs of recordings that are one, in order; ``prints`` has one fingerprint a recording.

    A pair is one recording up to ``most_errors``, a share of differing bits (0.3; unrelated speech: 0.48), where at
    least ``least_overlap`` of the shorter recording matches.
    """
    matches = []
    for a, b, shifts in _candidates(prints):
        found = [(*compare(prints[a], prints[b], shift), shift) for shift in shifts]
        good = [entry for entry in found if entry[1] >= least_overlap]
        frames = min(int(prints[i].active.sum()) for i in (a, b))
        bound = most_errors * (1.0 if frames >= _LONG else 0.8 if frames >= _SHORT else 0.6)
        if good and min(good)[0] <= bound:
            errors, overlap, shift = min(good)
            sizes = sorted((len(prints[a].words), len(prints[b].words)))
            matches.append(Match(a, b, errors, min(overlap, 1.0), sizes[0] / sizes[1], shift * 0.02))
    return matches


def _candidates(prints: Sequence[Fingerprint]) -> list[tuple[int, int, list[int]]]:
    """Return (a, b, time differences worth a look) of pairs that share keys."""
    keys = np.concatenate([np.zeros(0, np.uint32), *[p.keys for p in prints]])
    owner = np.repeat(np.arange(len(prints), dtype=np.int64), [len(p.keys) for p in prints])
    times = np.concatenate([np.zeros(0, np.int32), *[p.times for p in prints]]).astype(np.int64)
    order = np.lexsort((times, owner, keys))
    keys, owner, times = keys[order], owner[order], times[order]
    fresh = np.ones(len(keys), np.bool_)
    fresh[1:] = (keys[1:] != keys[:-1]) | (owner[1:] != owner[:-1])  # a recording counts once for each key
    keys, owner, times = keys[fresh], owner[fresh], times[fresh]
    edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]])) if len(keys) else np.zeros(1, int)
    sizes = np.diff(edges)
    votes = []
    for distance in range(1, _FULLEST):
        fit = (sizes > distance) & (sizes <= _FULLEST)
        if not fit.any():
            break
        inside = np.repeat(fit, sizes)
        first = np.flatnonzero(inside[:-distance] & (keys[:-distance] == keys[distance:]))
        pair = owner[first] * len(prints) + owner[first + distance]
        votes.append(np.stack([pair, times[first + distance] - times[first] + _OFFSET], axis=1))
    if not votes:
        return []
    rows, counts = np.unique(np.concatenate(votes), axis=0, return_counts=True)
    # A shift by half a hop splits its votes between two neighbouring time differences.
    near = np.zeros(len(rows), np.int64)
    near[1:] = np.where((rows[1:, 0] == rows[:-1, 0]) & (rows[1:, 1] - rows[:-1, 1] == 1), counts[:-1], 0)
    rows, total = rows[counts + near >= _VOTES], (counts + near)[counts + near >= _VOTES]
    found: dict[int, list[tuple[int, int]]] = {}
    for (code, shift), votes_here in zip(rows.tolist(), total.tolist(), strict=True):
        found.setdefault(code, []).append((-votes_here, shift - _OFFSET))
    result = []
    for code, entries in sorted(found.items()):
        shifts = {s + d for _, s in sorted(entries)[:4] for d in (-1, 0, 1)}
        result.append((code // len(prints), code % len(prints), sorted(shifts)))
    return result
