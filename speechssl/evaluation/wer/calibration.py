"""Quality of confidences: reliability, expected calibration error, normalised cross entropy, error detection.

In: rows of ``hypotheses.jsonl`` with ``confidences``, a number from 0 to 1 for each word of ``hyp``. Out: a
`Calibration`. A hypothesis word is right when the alignment says so; substituted and inserted words are wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.core.errors import DataError
from speechssl.evaluation.bootstrap import bootstrap_wer
from speechssl.evaluation.wer.hypotheses import Row

__all__ = [
    "Calibration",
    "ReliabilityBin",
    "area_under_curve",
    "calibration",
    "judged_words",
    "normalised_cross_entropy",
]

_BINS = 10
_LEAST = 1e-7
"""Confidences are kept this far from 0 and 1 where a logarithm is taken."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Hypothesis words with about the same confidence."""

    low: float
    high: float
    """Confidence from ``low`` up to, but (except in the last bin) not including, ``high``."""
    words: int
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share of right words."""
    ci_low: float | None
    ci_high: float | None
    """95 % bootstrap interval of ``accuracy`` over utterances."""


@dataclass(frozen=True)
class Calibration:
    """How well confidences predict which hypothesis words are right."""

    utterances: int
    """Number of rows with confidences; others are left out."""
    words: int
    """Hypothesis words."""
    correct: int
    accuracy: float
    confidence: float
    """Mean confidence; above ``accuracy`` the system is overconfident."""
    ece: float
    """Expected calibration error: mean distance of confidence and accuracy over ten equal bins, weighted by words
    (Guo et al. 2017, equation 3)."""
    nce: float | None
    """Normalised cross entropy (NIST): 1 is perfect, 0 is as informative as the share of right words alone, below 0 is
    less informative. None when all words are right, or all wrong."""
    auc: float | None
    """Probability that a right word has a higher confidence than a wrong one, a tie counting one half: the area under
    the ROC curve of confidence as a detector of errors. None when all words are right, or all wrong."""
    bins: tuple[ReliabilityBin, ...]
    """Bins without words are left out."""


def judged_words(row: Row) -> list[tuple[float, bool]]:
    """Return (confidence, right) of each hypothesis word of a row that has ``confidences``.

    Raises DataError when there is not one number from 0 to 1 for each word.
    """
    right = [op == "C" for op, _, hyp in row["alignment"] if hyp is not None]
    given = row["confidences"]
    where = f"utterance {row['id']!r}: 'confidences'"
    if not isinstance(given, list) or len(given) != len(right):
        size = len(given) if isinstance(given, list) else repr(given)
        raise DataError(f"{where} must have a number for each of {len(right)} hypothesis words (got {size})")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where} must lie between 0 and 1 (got {value!r}); run the evaluation again")
    return [(float(value), ok) for value, ok in zip(given, right, strict=True)]


def calibration(rows: Sequence[Row], *, n: int, seed: int) -> Calibration | None:
    """Rate the confidences of all rows that have them; None when there are none, or no hypothesis word.

    Raises DataError as `judged_words`.
    """
    judged = [judged_words(row) for row in rows if row.get("confidences") is not None]
    confidences = np.array([value for part in judged for value, _ in part], dtype=np.float64)
    right = np.array([ok for part in judged for _, ok in part], dtype=bool)
    if not right.size:
        return None
    bins = [found for index in range(_BINS) if (found := _bin(judged, index, n=n, seed=seed)) is not None]
    return Calibration(
        utterances=len(judged),
        words=int(right.size),
        correct=int(right.sum()),
        accuracy=float(right.mean()),
        confidence=float(confidences.mean()),
        ece=sum(item.words * abs(item.accuracy - item.confidence) for item in bins) / right.size,
        nce=normalised_cross_entropy(confidences, right),
        auc=area_under_curve(confidences, right),
        bins=tuple(bins),
    )


def normalised_cross_entropy(confidences: np.ndarray, right: np.ndarray) -> float | None:
    """Return NIST's normalised cross entropy of confidences [W] for words [W] that are right or not.

    ``(Hmax + sum over right words of log2 c + sum over wrong words of log2 (1 - c)) / Hmax`` with
    ``Hmax = -n log2 p - (W - n) log2 (1 - p)``, n right words and p = n / W: the entropy left when every word gets the
    mean confidence (NIST 1997 Hub-5 evaluation plan). None when Hmax is 0.
    """
    total, n = len(right), int(right.sum())
    if n in {0, total}:
        return None
    share = n / total
    most = -n * math.log2(share) - (total - n) * math.log2(1 - share)
    kept = np.clip(confidences, _LEAST, 1 - _LEAST)
    return float((most + np.log2(kept[right]).sum() + np.log2(1 - kept[~right]).sum()) / most)


def area_under_curve(confidences: np.ndarray, right: np.ndarray) -> float | None:
    """Return the share of (right, wrong) pairs of words in which the right one has the higher confidence (ties: 1/2).

    This is the Mann-Whitney statistic, taken from mid-ranks in ``W log W`` steps. None without right or without wrong
    words.
    """
    n = int(right.sum())
    if n in {0, len(right)}:
        return None
    _, inverse, sizes = np.unique(confidences, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * (len(right) - n)))


def _bin(judged: list[list[tuple[float, bool]]], index: int, *, n: int, seed: int) -> ReliabilityBin | None:
    inside = [[(value, ok) for value, ok in part if min(int(value * _BINS), _BINS - 1) == index] for part in judged]
    words = [item for part in inside for item in part]
    if not words:
        return None
    low, high = bootstrap_wer([(sum(ok for _, ok in p), len(p)) for p in inside], n=n, seed=seed) or (None, None)
    confidence = sum(value for value, _ in words) / len(words)
    accuracy = sum(ok for _, ok in words) / len(words)
    return ReliabilityBin(index / _BINS, (index + 1) / _BINS, len(words), confidence, accuracy, low, high)
