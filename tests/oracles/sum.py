"""The sum of two objectives in scalars: L = w1 L1 + w2 L2 (w2v-BERT, arXiv 2108.06209). Python floats are float64."""

import math


def mean_over_frames(frames):
    """Mean of a part's loss: each masked frame is the mean of its values. frames: [N][I], I the same in all."""
    return math.fsum(math.fsum(values) / len(values) for values in frames) / len(frames)


def weighted(weights, parts):
    """w1 L1 + w2 L2 + ... of parts [P][N][I]."""
    return math.fsum(weight * mean_over_frames(frames) for weight, frames in zip(weights, parts, strict=True))
