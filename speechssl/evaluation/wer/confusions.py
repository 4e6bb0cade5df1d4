"""The most frequent confusions of words or characters: substitutions, deletions and insertions.

In: counted aligned pairs. Out: lists, most frequent first; equal counts are in the order of the units.
"""

from collections import Counter
from typing import Literal

from speechssl.evaluation.wer.edit_distance import AlignedPair

__all__ = ["operations", "top_substitutions", "top_units"]

_TOP = 20


def operations(pairs: Counter[AlignedPair]) -> Counter[str]:
    """Count C, S, D and I over all aligned pairs."""
    ops = Counter[str]()
    for (op, _, _), count in pairs.items():
        ops[op] += count
    return ops


def top_substitutions(pairs: Counter[AlignedPair]) -> tuple[tuple[str, str, int], ...]:
    """Return (reference unit, hypothesis unit, count) of the most frequent substitutions."""
    found = [(str(ref), str(hyp), count) for (op, ref, hyp), count in pairs.items() if op == "S"]
    return tuple(sorted(found, key=lambda item: (-item[2], item[0], item[1]))[:_TOP])


def top_units(pairs: Counter[AlignedPair], op: Literal["D", "I"]) -> tuple[tuple[str, int], ...]:
    """Return (unit, count) of the most frequently deleted or inserted units."""
    side = 1 if op == "D" else 2
    found = [(str(pair[side]), count) for pair, count in pairs.items() if pair[0] == op]
    return tuple(sorted(found, key=lambda item: (-item[1], item[0]))[:_TOP])
