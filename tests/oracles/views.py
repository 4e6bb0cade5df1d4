"""SimCLR (arXiv 2002.05709, equation 1) and MoCo (arXiv 1911.05722, equation 1) in scalars. Floats are float64."""

import math

from tests.oracles.wav2vec2 import cosine, log_sum_exp


def nt_xent(one, other, temperature):
    """Algorithm 1 of SimCLR for N items in two views, [N][E] each: (sum over items, right of 2 N, candidates).

    The paper lays views 2k - 1 and 2k side by side; a pair costs the mean of its two directions.
    """
    vectors = [vector for pair in zip(one, other, strict=True) for vector in pair]
    total, right = 0.0, 0
    for i, anchor in enumerate(vectors):
        partner = i + 1 if i % 2 == 0 else i - 1
        scores = {k: cosine(anchor, vector) / temperature for k, vector in enumerate(vectors) if k != i}
        total += (log_sum_exp(list(scores.values())) - scores[partner]) / 2
        right += all(scores[partner] > score for k, score in scores.items() if k != partner)
    return total, right, len(vectors) - 1


def info_nce(query, key, negatives, temperature):
    """Equation 1 of MoCo for one query: (loss, right). All have unit length."""
    scores = [math.fsum(a * b for a, b in zip(query, k, strict=True)) / temperature for k in [key, *negatives]]
    return log_sum_exp(scores) - scores[0], all(scores[0] > rival for rival in scores[1:])


def variance(vectors):
    """1 - |mean|^2 of vectors [N][E] of unit length: the sum over channels of their variance."""
    means = [math.fsum(channel) / len(vectors) for channel in zip(*vectors, strict=True)]
    return 1 - math.fsum(mean**2 for mean in means)


def queued(queue, keys):
    """First in, first out: what is in the queue after the keys of a step."""
    for one in keys:
        queue = [*queue[1:], one]
    return queue
