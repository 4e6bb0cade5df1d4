"""HuBERT's objective in scalars (arXiv 2106.07447, section 3.2; equations 3 and 4)."""

from tests.oracles.wav2vec2 import cosine, feature_penalty, log_sum_exp


def cross_entropy(context, embeddings, units, temperature):
    """Sum over frames of -log softmax_c(cos(A o_t, e_c) / temperature) at the frame's unit.

    context: [M][D] projected outputs, embeddings: [C][D] of the units, units: [M]. Returns (sum, correct frames).
    """
    total, correct = 0.0, 0
    for vector, unit in zip(context, units, strict=True):
        scores = [cosine(vector, embedding) / temperature for embedding in embeddings]
        total += log_sum_exp(scores) - scores[unit]
        correct += scores[unit] == max(scores)
    return total, correct


def loss(masked, unmasked, embeddings, features, *, temperature=0.1, penalty_weight=10.0, unmasked_weight=0.0):
    """Masked part, plus weighted unmasked part, plus the feature penalty times the number of targets.

    Frames that are not masked are targets where their weight is above 0, however small. Returns (sum, targets).

    masked and unmasked: (context, units) over all frames of the batch of that kind; features: [B][F][C] stem output.
    """
    total, targets = cross_entropy(masked[0], embeddings, masked[1], temperature)[0], len(masked[1])
    if unmasked_weight:
        total += unmasked_weight * cross_entropy(unmasked[0], embeddings, unmasked[1], temperature)[0]
        targets += len(unmasked[1])
    return total + targets * penalty_weight * feature_penalty(features), targets
