"""CPC in scalars (arXiv 1807.03748, section 2; equations 3 and 4). Python floats are float64."""

import math

from tests.oracles.wav2vec2 import dot, log_sum_exp


def score(latent, predictor, context):
    """Log f_k = z . W c / sqrt(C). latent: [C], predictor: [C][D], context: [D]."""
    return math.fsum(z * dot(row, context) for z, row in zip(latent, predictor, strict=True)) / math.sqrt(len(latent))


def info_nce(latents, row, t, k, *, predictor, context, negatives):
    """Equation 4 for one frame and one step: (loss, right, negatives that count).

    latents: [B][F][C]; negatives: (row, frame) of each. One that is the frame to predict does not count.
    """
    true = score(latents[row][t + k], predictor, context)
    counted = [place for place in negatives if place != (row, t + k)]
    rivals = [score(latents[r][f], predictor, context) for r, f in counted]
    return log_sum_exp([true, *rivals]) - true, bool(rivals) and true > max(rivals), len(counted)
