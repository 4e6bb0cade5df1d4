"""wav2vec 2.0's objective in scalars (arXiv 2006.11477, section 3.2; equations 2 to 4). Python floats are float64."""

import math

EPSILON = 1e-8
"""Smallest norm in a cosine, as torch's cosine_similarity has it."""


def dot(a, b):
    """Sum of products."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    """sim(a, b) = a.b / (|a| |b|), each norm at least EPSILON."""
    return dot(a, b) / (max(math.sqrt(dot(a, a)), EPSILON) * max(math.sqrt(dot(b, b)), EPSILON))


def log_sum_exp(values):
    """log(sum(exp(v))), stable."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def contrastive(context, targets, negatives, temperature):
    """Equation 3, summed over the masked frames of one utterance.

    context: [M][D] projected context vectors; targets: [M][D] projected quantised vectors of the same frames;
    negatives: [M][K] indices into targets. A distractor that equals the positive exactly is left out of the sum.
    Returns (sum of -log softmax of the positive, how often the positive is the most similar).
    """
    total, correct = 0.0, 0
    for t in range(len(context)):
        positive = cosine(context[t], targets[t]) / temperature
        scores = [positive]
        for index in negatives[t]:
            if list(targets[index]) == list(targets[t]):
                continue
            scores.append(cosine(context[t], targets[index]) / temperature)
        total += log_sum_exp(scores) - positive
        correct += all(positive >= score for score in scores)
    return total, correct


def diversity(probabilities):
    """Equation 4 as implemented: (G V - sum_g exp(H(mean p_g))) / (G V), the mean over all counted frames.

    probabilities: [N][G][V] softmax without Gumbel noise or temperature. Returns (loss, perplexity of each group).
    """
    n, groups, entries = len(probabilities), len(probabilities[0]), len(probabilities[0][0])
    perplexities = []
    for g in range(groups):
        entropy = 0.0
        for v in range(entries):
            mean = math.fsum(frame[g][v] for frame in probabilities) / n
            if mean > 0:
                entropy -= mean * math.log(mean)
        perplexities.append(math.exp(entropy))
    return (groups * entries - math.fsum(perplexities)) / (groups * entries), perplexities


def feature_penalty(features):
    """Mean square of the stem's output, before any normalisation. features: [B][F][C]."""
    squares = [value * value for utterance in features for frame in utterance for value in frame]
    return math.fsum(squares) / len(squares)


def loss(utterances, probabilities, features, *, temperature=0.1, diversity_weight=0.1, penalty_weight=10.0):
    """The whole objective as a sum: equation 2 plus the feature penalty, both regularisers times the masked frames.

    utterances: list of (context, targets, negatives) of each utterance.
    """
    total, n = 0.0, 0
    for context, targets, negatives in utterances:
        total += contrastive(context, targets, negatives, temperature)[0]
        n += len(context)
    return total + n * (diversity_weight * diversity(probabilities)[0] + penalty_weight * feature_penalty(features))
