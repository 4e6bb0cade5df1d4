"""Classes of whole utterances in plain loops: means of frames, scores, cross-entropy, and permutations far apart."""

import itertools
import math

__all__ = ["distant_permutations", "gelu", "mean_frame", "nats", "scores"]


def mean_frame(frames):
    """Return the mean [D] of frames [F][D]."""
    return [sum(frame[d] for frame in frames) / len(frames) for d in range(len(frames[0]))]


def scores(weight, bias, vector):
    """Return W v + b, [K]."""
    return [b + sum(w * v for w, v in zip(row, vector, strict=True)) for row, b in zip(weight, bias, strict=True)]


def gelu(vector):
    """Return x P(X <= x) for a standard normal X, of each x."""
    return [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in vector]


def nats(logits, right):
    """Return -ln of the softmax of ``logits`` at ``right``."""
    return -math.log(math.exp(logits[right]) / sum(math.exp(x) for x in logits))


def distant_permutations(segments, count):
    """Return permutations, each the farthest from its nearest forerunner; of several, that with the largest sum."""

    def hamming(a, b):
        return sum(x != y for x, y in zip(a, b, strict=True))

    left = list(itertools.permutations(range(segments)))
    chosen = [left.pop(0)]
    while len(chosen) < count:
        best = max(
            left, key=lambda each: (min(hamming(each, c) for c in chosen), sum(hamming(each, c) for c in chosen))
        )
        left.remove(best)
        chosen.append(best)
    return chosen
