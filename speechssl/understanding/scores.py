"""Equal error rate with an interval over speakers, and the scores of nearest neighbours.

In: vectors, labels. Out: rates.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechssl.core.randomness import generator
from speechssl.evaluation.bootstrap import Interval

__all__ = ["equal_error_rate", "nearest_classes", "verification"]


def equal_error_rate(scores: npt.ArrayLike, same: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the rate at which false rejections and false acceptances are equal.

    Between the two thresholds where the order of the rates changes, both are interpolated linearly.

    Parameters
    ----------
    scores
        [N] of the trials, higher for the same speaker.
    same
        [N] bool, whether a trial is of one speaker.
    weights
        [N] how often each trial counts.
    """
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(scores, kind="stable")
    scores, same, weights = scores[order], same[order], weights[order]
    if not weights[same].sum() or not weights[~same].sum():
        raise ValueError("an equal error rate needs trials of the same speaker and of different ones")
    # Trials up to each position are rejected; equal scores share a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    rejected = np.append(0.0, np.cumsum(weights * same)[ends]) / weights[same].sum()
    accepted = 1 - np.append(0.0, np.cumsum(weights * ~same)[ends]) / weights[~same].sum()
    place = int(np.argmax(rejected >= accepted))
    before, after = (rejected - accepted)[place - 1], (rejected - accepted)[place]
    share = -before / (after - before)
    return float(rejected[place - 1] + share * (rejected[place] - rejected[place - 1]))


def verification(
    vectors: npt.ArrayLike, speakers: Sequence[str], *, n: int = 1_000, seed: int = 1
) -> tuple[float, Interval | None, int]:
    """Return the equal error rate of all pairs by cosine, its 95 % interval, and the number of pairs.

    The interval is the percentile bootstrap over speakers: a pair of one speaker counts as often as it was drawn, a
    pair of two as often as the product. None with fewer than three speakers.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    names, which = np.unique(np.asarray(speakers), return_inverse=True)
    left, right = np.triu_indices(len(rows), 1)
    scores, same = (rows @ rows.T)[left, right], which[left] == which[right]
    rate = equal_error_rate(scores, same)
    if len(names) < 3:
        return rate, None, len(scores)
    random, rates = generator("verification", seed, len(names)), []
    for _ in range(n):
        drawn = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))
        weights = np.where(same, drawn[which[left]], drawn[which[left]] * drawn[which[right]])
        if weights[same].any() and weights[~same].any():
            rates.append(equal_error_rate(scores, same, weights))
    low, high = np.quantile(rates, [0.025, 0.975]).tolist()
    return rate, (low, high), len(scores)


def nearest_classes(train: np.ndarray, classes: np.ndarray, test: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return [len(counts), T] int64: the most frequent class among the k training vectors of highest cosine.

    Equal votes go to the lower class, equal distances to the earlier vector.

    Parameters
    ----------
    train, test
        [N, D] and [T, D] vectors.
    classes
        [N] int64 of the training vectors.
    counts
        Values of k; at most N are used.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    train, test = unit(train.astype(np.float64)), unit(test.astype(np.float64))
    found = np.zeros((len(counts), len(test)), dtype=np.int64)
    for first in range(0, len(test), 1000):
        similar = np.round(test[first : first + 1000] @ train.T, 12)
        order = np.argsort(-similar, axis=1, kind="stable")[:, : max(counts)]
        near = classes[order]
        for row, k in enumerate(counts):
            votes = np.zeros((len(near), int(classes.max()) + 1), dtype=np.int64)
            np.add.at(votes, (np.arange(len(near))[:, None], near[:, :k]), 1)
            found[row, first : first + 1000] = votes.argmax(axis=1)
    return found
