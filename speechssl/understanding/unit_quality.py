"""How good units are: against phones, and as a code.

In: units and phones of the same frames. Out: purities, normalised mutual information, perplexity, bit rate.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

__all__ = ["against_phones", "code_quality", "contingency", "runs"]


def runs(units: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (unit, first frame, frames) of each run of equal units."""
    found, start = [], 0
    for unit, group in groupby(units):
        length = sum(1 for _ in group)
        found.append((int(unit), start, length))
        start += length
    return found


def contingency(
    units: Mapping[str, np.ndarray], phones: Mapping[str, Sequence[str | None]], clusters: int
) -> tuple[np.ndarray, list[str]]:
    """Return counts [phones, clusters] of the frames that have both, and the phones."""
    names = sorted({label for item in units for label in phones.get(item, ()) if label is not None})
    places = {label: place for place, label in enumerate(names)}
    counts = np.zeros((len(names), clusters), dtype=np.int64)
    for item, own in units.items():
        pairs = [(places[p], int(u)) for p, u in zip(phones.get(item, ()), own, strict=False) if p is not None]
        if pairs:
            np.add.at(counts, tuple(np.array(pairs).T), 1)
    return counts, names


def against_phones(counts: np.ndarray) -> dict[str, float]:
    """Return the three measures of HuBERT (Hsu et al. 2021, section 4.3), from counts [phones, units].

    ``phone_purity``: accuracy of the most frequent phone of each unit. ``cluster_purity``: share of the most frequent
    unit of each phone. ``pnmi``: mutual information over the entropy of the phones, 0 to 1.
    """
    joint = counts / counts.sum()
    phone, unit = joint.sum(axis=1), joint.sum(axis=0)
    there = joint > 0
    information = float((joint[there] * np.log(joint[there] / np.outer(phone, unit)[there])).sum())
    entropy = _entropy(phone)
    return {
        "phone_purity": float(joint.max(axis=0).sum()),
        "cluster_purity": float(joint.max(axis=1).sum()),
        "pnmi": information / entropy if entropy else 0.0,
    }


def code_quality(units: Mapping[str, np.ndarray], clusters: int, seconds: float) -> dict[str, float | int]:
    """Return how the units are used: dead ones, perplexity, runs, and the bit rate with and without repeats.

    A bit rate is symbols a second times the entropy of their frequencies in bits (ZeroSpeech 2019: Dunbar et al.).
    """
    frames = np.bincount(np.concatenate([*units.values()] or [np.zeros(0, dtype=np.int64)]), minlength=clusters)
    starts = [unit for own in units.values() for unit, _, _ in runs(own.tolist())]
    once = np.bincount(np.array(starts, dtype=np.int64), minlength=clusters)
    total, pieces = int(frames.sum()), int(once.sum())
    nats = _entropy(frames / max(1, total))
    return {
        "frames": total,
        "dead": int((frames == 0).sum()),
        "perplexity": float(np.exp(nats)),
        "frames_per_run": total / max(1, pieces),
        "bit_rate": total / seconds * nats / np.log(2),
        "bit_rate_without_repeats": pieces / seconds * _entropy(once / max(1, pieces)) / float(np.log(2)),
    }


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
