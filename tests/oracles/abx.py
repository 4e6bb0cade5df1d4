"""ABX by its definition: every triplet on its own, dynamic time warping as a recursion, means of means by loops.

Schatz et al. 2013 (the task); Kahn et al. 2020 and ZeroSpeech 2021 (how cells are averaged).
"""

import math
from functools import cache
from itertools import product
from statistics import fmean


def angular(u, v):
    """The angle of two vectors, over pi."""
    lengths = math.sqrt(sum(a * a for a in u)) * math.sqrt(sum(b * b for b in v))
    return math.acos(max(-1.0, min(1.0, sum(a * b for a, b in zip(u, v, strict=True)) / lengths))) / math.pi


def warping(x, y, distance):
    """The mean distance along the best path; among equal sums a step of both is preferred, then one of y."""

    @cache
    def best(i, j):  # sum, and number of pairs on the path
        if i == j == 0:
            return distance(x[0], y[0]), 1
        before = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        total, steps = min((best(a, b) for a, b in before if a >= 0 and b >= 0), key=lambda found: found[0])
        return total + distance(x[i], y[j]), steps + 1

    total, steps = best(len(x) - 1, len(y) - 1)
    return total / steps


def abx(items, frames, *, across, any_context, distance=angular):
    """The error of ``items`` (objects with label, before, after, speaker) whose ``frames`` are lists of vectors."""
    apart = cache(lambda i, j: warping(frames[i], frames[j], distance))

    def context(item):
        return None if any_context else (item.before, item.after)

    cells = {}
    for i, j, k in product(range(len(items)), repeat=3):
        a, b, x = items[i], items[j], items[k]
        if i == k or a.label != x.label or a.label == b.label or a.speaker != b.speaker:
            continue
        if (x.speaker != a.speaker) != across or not context(a) == context(b) == context(x):
            continue
        gap = apart(k, i) - apart(k, j)
        cell = (a.label, b.label, a.speaker, context(a), x.speaker)
        cells.setdefault(cell, []).append(0.5 if gap == 0 else float(gap > 0))
    level = {cell: fmean(wrong) for cell, wrong in cells.items()}
    for kept in [2] if any_context else [3, 2]:  # contexts and speakers of X, then speakers of A and B
        groups = {}
        for cell, error in level.items():
            groups.setdefault(cell[:kept], []).append(error)
        level = {cell: fmean(errors) for cell, errors in groups.items()}
    return fmean(level.values())
