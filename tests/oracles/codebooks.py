"""Online clustering by moving averages in scalars (DinoSR, arXiv 2305.10005, section 3). Floats are float64."""

import math


def entries(sums, counts):
    """The codebook [V][D]: each sum divided by its count."""
    return [[value / count for value in row] for row, count in zip(sums, counts, strict=True)]


def nearest(frame, codebook):
    """The entry at the least Euclidean distance from a frame [D]."""
    distances = [math.dist(frame, entry) for entry in codebook]
    return distances.index(min(distances))


def moved(sums, counts, frames, decay):
    """Sums [V][D] and counts [V] after an update in which the frames [N][D] were coded.

    An entry that no frame chose keeps both.
    """
    codebook = entries(sums, counts)
    groups = {}
    for frame in frames:
        groups.setdefault(nearest(frame, codebook), []).append(frame)
    new_sums, new_counts = [list(row) for row in sums], list(counts)
    for v, members in groups.items():
        new_counts[v] = decay * counts[v] + (1 - decay) * len(members)
        for d, old in enumerate(sums[v]):
            new_sums[v][d] = decay * old + (1 - decay) * math.fsum(frame[d] for frame in members)
    return new_sums, new_counts
