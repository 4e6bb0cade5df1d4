"""Classes of whole utterances in plain loops: means over frames, scores, and the cross-entropy of a class."""

import math

__all__ = ["mean_frame", "nats", "scores"]


def mean_frame(frames):
    """Return the mean [D] of frames [F][D]."""
    return [sum(frame[d] for frame in frames) / len(frames) for d in range(len(frames[0]))]


def scores(weight, bias, vector):
    """Return W v + b, [K]."""
    return [b + sum(w * v for w, v in zip(row, vector, strict=True)) for row, b in zip(weight, bias, strict=True)]


def nats(logits, right):
    """Return -ln of the softmax of ``logits`` at ``right``."""
    return -math.log(math.exp(logits[right]) / sum(math.exp(x) for x in logits))
