"""DinoSR's objective in scalars (arXiv 2305.10005, section 2). Python floats are float64."""

import math

from tests.oracles.best_rq import cross_entropy, entropy
from tests.oracles.codebooks import nearest
from tests.oracles.data2vec import deviation, instance_norm

__all__ = ["loss", "targets", "usage"]


def targets(branches, top, masked):
    """What is coded: the last ``top`` branches [L][T][D] of one utterance, normalised over it, at its masked frames."""
    return [[frames[t] for t in masked] for frames in map(instance_norm, branches[-top:])]


def loss(logits, frames, codebooks):
    """Cross-entropy of the codes, and accuracy, both a mean over layers.

    logits: [K][N][V], frames: [K][N][D], codebooks: [K][V][D]. The codes [K][N] come third.
    """
    codes = [[nearest(x, book) for x in layer] for layer, book in zip(frames, codebooks, strict=True)]
    parts = [cross_entropy(rows, wanted) for rows, wanted in zip(logits, codes, strict=True)]
    total = math.fsum(part for part, _ in parts) / len(parts)
    return total, sum(hits for _, hits in parts) / len(parts) / len(codes[0]), codes


def usage(codes, frames):
    """Perplexity and number of the codes [N] of a layer, and the deviation of what is coded [N][D]."""
    return math.exp(entropy(codes)), len(set(codes)), deviation(frames)
