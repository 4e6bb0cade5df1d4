"""Matched pairs sentence-segment word error test (MAPSSWE), and Holm's correction for many comparisons.

In: word alignments of two systems on the same utterances. Out: the mean difference in errors per segment, its normal
statistic and two-tailed p. Gillick & Cox, "Some statistical issues in the comparison of speech recognition algorithms"
(ICASSP 1989), section 3; segments are cut as NIST sctk's ``sc_stats`` cuts them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from speechssl.evaluation.wer.edit_distance import AlignedPair

__all__ = ["Mapsswe", "holm", "mapsswe", "segment_errors"]

BOUNDARY_WORDS = 2
"""A segment ends at this many adjacent words that both systems have correct, without an insertion between them: errors
on either side are taken as independent (the default of ``sc_stats``)."""
LARGEST_TABLED_Z = 5.14
"""Last entry of the table of the normal distribution in ``sc_stats``."""

Slot = tuple[int, str | None, bool]
"""(insertions before a reference word, the word, whether it is correct); the last slot of an utterance has no word."""


@dataclass(frozen=True)
class Mapsswe:
    """Comparison of two systems; differences are ``a - b`` in errors per segment, so negative means a is better."""

    segments: int
    mean: float
    variance: float
    """Sample variance (over ``segments - 1``) of the difference."""
    z: float
    """mean / sqrt(variance / segments); 0 where there is no variance, as in ``sc_stats``: then there is no test."""
    p: float
    """Two-tailed probability of a |z| at least as large if the systems were equal."""

    @property
    def p_sctk(self) -> float:
        """The p of ``sc_stats``: from a table with steps of 0.01 in z that ends at 5.14, |z| rounded down to it.

        Never smaller than the exact ``p``, and larger by less than 0.008.
        """
        z = min(abs(self.z), LARGEST_TABLED_Z)
        steps = round(z * 100)
        return _two_tailed((steps if steps / 100 <= z else steps - 1) / 100)


def mapsswe(a: Sequence[Sequence[AlignedPair]], b: Sequence[Sequence[AlignedPair]]) -> Mapsswe:
    """Compare two systems by the word alignments of each utterance, in the same order for both.

    Raises ValueError when they have different numbers of utterances, or one has other reference words in each.
    """
    if len(a) != len(b):
        raise ValueError(f"the systems have {len(a)} and {len(b)} utterances; score both on the same ones")
    differences = []
    for number, (left, right) in enumerate(zip(a, b, strict=True)):
        if _words(left) != _words(right):
            raise ValueError(f"utterance {number} has other reference words in each system")
        differences += [errors_a - errors_b for errors_a, errors_b in segment_errors(left, right)]
    count = len(differences)
    mean = sum(differences) / count if count else 0.0
    squares = 0.0
    for item in differences:  # summed in order, so that the sums equal those of sc_stats to the last bit
        squares += (item - mean) * (item - mean)
    variance = squares / (count - 1) if count > 1 else 0.0
    z = mean / (math.sqrt(variance) / math.sqrt(count)) if variance else 0.0
    return Mapsswe(count, mean, variance, z, _two_tailed(abs(z)))


def segment_errors(a: Sequence[AlignedPair], b: Sequence[AlignedPair]) -> list[tuple[int, int]]:
    """Cut one utterance into segments and return the errors of both systems in each; segments without errors are
    omitted.

    Every error is in exactly one segment. A segment ends where `BOUNDARY_WORDS` words in a row are correct in both
    systems, and at the end of the utterance (Gillick & Cox 1989, section 3).
    """
    segments: list[tuple[int, int]] = []
    errors_a = errors_b = good = 0
    beyond: Slot = (0, None, False)
    for left, right in zip_longest(_slots(a), _slots(b), fillvalue=beyond):
        if left[0] or right[0]:
            good = 0  # an insertion separates two words
        both = left[2] and right[2]
        good = good + 1 if both else 0
        errors_a += left[0] + (left[1] is not None and not left[2])
        errors_b += right[0] + (right[1] is not None and not right[2])
        if good >= BOUNDARY_WORDS and (errors_a or errors_b):
            segments.append((errors_a, errors_b))
            errors_a = errors_b = 0
    if errors_a or errors_b:
        segments.append((errors_a, errors_b))
    return segments


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure" (1979): the k-th smallest of m values is multiplied
    by m - k + 1. No adjusted value is smaller than that of a smaller p, or larger than 1. Rejecting those below 0.05
    keeps the probability of any false rejection below 0.05, whatever the dependence between the tests.

    Raises
    ------
    ValueError
        A value is not a probability.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is not a probability")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _two_tailed(z: float) -> float:
    return math.erfc(z / math.sqrt(2))


def _words(pairs: Sequence[AlignedPair]) -> list[str]:
    return [str(word) for op, word, _ in pairs if op != "I"]


def _slots(pairs: Sequence[AlignedPair]) -> list[Slot]:
    """Return a slot for each reference word and a last one for the insertions after them."""
    slots: list[Slot] = []
    inserted = 0
    for op, word, _ in pairs:
        if op == "I":
            inserted += 1
        else:
            slots.append((inserted, word, op == "C"))
            inserted = 0
    return [*slots, (inserted, None, False)]
