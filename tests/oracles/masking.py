"""Span masking by plain loops (wav2vec 2.0, section 3.1), to know what share of frames should be masked."""

import math
import random


def masked_fraction(prob, length, frames, *, min_spans=2, trials=2000, seed=0):
    """Mean share of masked frames: floor(prob frames / length + u) spans, starts without replacement, may overlap."""
    rng = random.Random(seed)
    total = 0
    for _ in range(trials):
        spans = max(min_spans, math.floor(prob * frames / length + rng.random()))
        starts = rng.sample(range(frames - length + 1), min(spans, frames - length + 1))
        total += len({frame for start in starts for frame in range(start, start + length)})
    return total / trials / frames
