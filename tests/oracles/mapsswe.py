"""MAPSSWE by a state machine over explicit columns, exact fractions, and the normal tail by numerical integration.

Written from the description in Gillick and Cox (1989) and the state diagram in the documentation of NIST sctk.
"""

import math
from fractions import Fraction


def columns(pairs):
    """One list per reference word (its insertions first), then one for what follows the last word."""
    result = [[]]
    for op, _, _ in pairs:
        result[-1].append(op)
        if op != "I":
            result.append([])
    return result


def segments(a, b):
    """[(errors of a, errors of b), ...]; states: b(egin), e(rror), g(ood)."""
    left, right = columns(a), columns(b)
    assert len(left) == len(right)
    found, start, state = [], 0, "b"

    def store(end):
        cut = [[op for column in side[start:end] for op in column if op != "C"] for side in (left, right)]
        if cut[0] or cut[1]:
            found.append((len(cut[0]), len(cut[1])))

    for index in range(len(left)):
        ops = left[index] + right[index]
        if "I" in ops:
            state = "e"
        both_correct = left[index][-1:] == right[index][-1:] == ["C"]
        if not both_correct:
            state = "e" if ops else state
        elif state == "e":
            state = "g"
        elif state == "g":
            store(index + 1)
            start, state = index + 1, "b"
    store(len(left))
    return found


def statistic(differences):
    """(mean, sample variance, z) with exact sums."""
    n = len(differences)
    if not n:
        return 0.0, 0.0, 0.0
    mean = Fraction(sum(differences), n)
    if n == 1 or len(set(differences)) == 1:
        return float(mean), 0.0, 0.0
    variance = sum((Fraction(d) - mean) ** 2 for d in differences) / (n - 1)
    return float(mean), float(variance), float(mean) / math.sqrt(float(variance) / n)


def two_tailed(z, steps=1_000):
    """2 (1 - Phi(|z|)) by Simpson's rule on the density."""
    z = abs(z)
    width = z / steps
    density = [math.exp(-((i * width) ** 2) / 2) for i in range(steps + 1)]
    area = width / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))
    return 1 - 2 * area / math.sqrt(2 * math.pi)
