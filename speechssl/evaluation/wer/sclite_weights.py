"""Word alignment with the edit weights and the order of ties of NIST sclite.

In: words of a reference and of a hypothesis. Out: aligned pairs. A substitution costs 4, a deletion or insertion 3 (the
defaults of sclite). So one substitution costs more than a deletion or insertion and less than both, and the best
alignment may not have the fewest errors. Ties are resolved as in sclite, so S, D and I of each utterance are equal to
sclite's, not only their sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["LEVENSHTEIN", "SCLITE", "WEIGHTS", "Cost", "Pair", "Weights", "align_weighted"]

Cost = Literal["levenshtein", "sclite"]
"""``levenshtein``: the fewest errors, as the word error rate is defined and as jiwer counts. ``sclite``: 4, 3, 3."""
Pair = tuple[Literal["C", "S", "D", "I"], str | None, str | None]
"""(correct, substituted, deleted or inserted; reference word or None; hypothesis word or None)."""


@dataclass(frozen=True)
class Weights:
    """Costs of edits, in thousandths of the smallest step (whole numbers: ties are then exact)."""

    substitution: int
    indel: int
    """A deletion, or an insertion."""
    optional: int
    """Leaving out a word that is marked as optional."""
    nothing: int = 1
    """Passing ``@``, the empty alternative."""


SCLITE = Weights(4000, 3000, 2000)
LEVENSHTEIN = Weights(3000, 3000, 2000)
WEIGHTS: dict[str, Weights] = {"sclite": SCLITE, "levenshtein": LEVENSHTEIN}


def align_weighted(ref: Sequence[str], hyp: Sequence[str], weights: Weights = SCLITE) -> list[Pair]:
    """Align two word sequences at the least cost; a tie goes to a match or substitution, then to an insertion.

    Time and memory grow with ``len(ref) * len(hyp)`` (4 bytes per cell); the rows are computed at once by numpy.

    Examples
    --------
    >>> align_weighted("a b c".split(), "a x c d".split())
    [('C', 'a', 'a'), ('S', 'b', 'x'), ('C', 'c', 'c'), ('I', None, 'd')]
    """
    cost = _costs(ref, hyp, weights)
    pairs: list[Pair] = []
    i, j = len(ref), len(hyp)
    while i or j:
        here = cost[i, j]
        if i and j:
            same = ref[i - 1] == hyp[j - 1]
            if cost[i - 1, j - 1] + (0 if same else weights.substitution) == here:
                pairs.append(("C" if same else "S", ref[i - 1], hyp[j - 1]))
                i, j = i - 1, j - 1
                continue
        if j and cost[i, j - 1] + weights.indel == here:
            pairs.append(("I", None, hyp[j - 1]))
            j -= 1
        else:
            pairs.append(("D", ref[i - 1], None))
            i -= 1
    return pairs[::-1]


def _costs(ref: Sequence[str], hyp: Sequence[str], weights: Weights) -> Any:
    """Return [len(ref) + 1, len(hyp) + 1] int32: the least cost of aligning each pair of prefixes."""
    numbers: dict[str, int] = {}
    left = [numbers.setdefault(word, len(numbers)) for word in ref]
    right = np.array([numbers.setdefault(word, len(numbers)) for word in hyp], dtype=np.int64)
    ramp = np.arange(len(hyp) + 1, dtype=np.int32) * np.int32(weights.indel)
    cost = np.empty((len(ref) + 1, len(hyp) + 1), dtype=np.int32)
    cost[0] = ramp
    for i, word in enumerate(left, 1):
        row = cost[i - 1] + np.int32(weights.indel)
        row[1:] = np.minimum(row[1:], cost[i - 1, :-1] + np.where(right == word, 0, weights.substitution))
        # Any number of insertions after the best start: a running minimum along the row.
        cost[i] = np.minimum.accumulate(row - ramp) + ramp
    return cost
