"""BEST-RQ in scalars (arXiv 2202.01855, section 3; equation 1). Python floats are float64."""

import math

from tests.oracles.wav2vec2 import dot, log_sum_exp


def standardise(frames, eps=0.0):
    """Zero mean and unit variance of each channel over time. frames: [T][M], of one utterance without padding.

    ``eps`` is added to the variance.
    """
    columns = []
    for channel in zip(*frames, strict=True):
        mean = math.fsum(channel) / len(channel)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in channel) / len(channel) + eps)
        columns.append([(value - mean) / deviation for value in channel])
    return [list(frame) for frame in zip(*columns, strict=True)]


def stacked(frames, stack):
    """Join each ``stack`` frames [T][M] into one; what is left over at the end is dropped."""
    starts = range(0, len(frames) - stack + 1, stack)
    return [[value for frame in frames[start : start + stack] for value in frame] for start in starts]


def unit(vector):
    """The vector divided by its length."""
    length = math.sqrt(dot(vector, vector))
    return [value / length for value in vector]


def quantise(frame, projection, codebook):
    """Equation 1: y = argmin_i | l2norm(c_i) - l2norm(A x) |. projection: [I][D], codebook: [V][D]."""
    projected = unit([dot(frame, column) for column in zip(*projection, strict=True)])
    distances = [math.dist(unit(entry), projected) for entry in codebook]
    return distances.index(min(distances))


def cross_entropy(logits, codes):
    """Sum of -log softmax at the code over frames. logits: [N][V], codes: [N]. Returns (sum, correct frames)."""
    total = math.fsum(log_sum_exp(row) - row[code] for row, code in zip(logits, codes, strict=True))
    return total, sum(row[code] == max(row) for row, code in zip(logits, codes, strict=True))


def entropy(codes):
    """Entropy in nats of how often each code occurs."""
    shares = [codes.count(code) / len(codes) for code in set(codes)]
    return -math.fsum(share * math.log(share) for share in shares)
