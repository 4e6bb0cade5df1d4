"""A comparison of two systems in plain loops: the paired bootstrap, and who is right on each word."""

import random


def bootstrap_difference(a, b, resamples, seed):
    """(low, high, probability that b is better) of [(errors, words), ...] of two systems, drawing both alike."""
    rng = random.Random(seed)
    differences = []
    for _ in range(resamples):
        drawn = [rng.randrange(len(a)) for _ in a]
        words = sum(a[k][1] for k in drawn)
        differences.append((sum(b[k][0] for k in drawn) - sum(a[k][0] for k in drawn)) / words)
    differences.sort()
    better = sum(1.0 if d < 0 else 0.5 if d == 0 else 0.0 for d in differences) / resamples
    return differences[int(0.025 * resamples)], differences[int(0.975 * resamples) - 1], better


def who_is_right(rows_a, rows_b):
    """Reference words that (both, only a, only b, neither) have right."""
    counts = [0, 0, 0, 0]
    for row_a, row_b in zip(rows_a, rows_b, strict=True):
        right_a = [op for op, ref, _ in row_a["alignment"] if ref is not None]
        right_b = [op for op, ref, _ in row_b["alignment"] if ref is not None]
        for first, second in zip(right_a, right_b, strict=True):
            counts[(first != "C") * 2 + (second != "C")] += 1
    return tuple(counts)
