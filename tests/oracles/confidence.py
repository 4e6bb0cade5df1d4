"""Confidence measures by plain loops over words, from their definitions."""

import math


def cross_entropy(words):
    """NIST's normalised cross entropy of [(confidence, right), ...]."""
    right = [c for c, ok in words if ok]
    wrong = [c for c, ok in words if not ok]
    if not right or not wrong:
        return None
    share = len(right) / len(words)
    most = -sum(math.log2(share) for _ in right) - sum(math.log2(1 - share) for _ in wrong)
    given = sum(math.log2(c) for c in right) + sum(math.log2(1 - c) for c in wrong)
    return (most + given) / most


def auc(words):
    """Share of (right, wrong) pairs in order."""
    pairs = [(c, d) for c, ok in words if ok for d, other in words if not other]
    return sum(1.0 if c > d else 0.5 if c == d else 0.0 for c, d in pairs) / len(pairs) if pairs else None


def calibration_error(words, bins=10):
    """Expected calibration error over equal bins."""
    total = 0.0
    for index in range(bins):
        last = index == bins - 1
        inside = [(c, ok) for c, ok in words if index <= c * bins and (c * bins < index + 1 or last)]
        if inside:
            gap = abs(sum(c for c, _ in inside) - sum(ok for _, ok in inside)) / len(inside)
            total += gap * len(inside) / len(words)
    return total
