"""data2vec 2.0's objective in scalars (arXiv 2212.07525, section 3). Python floats are float64."""

import math

EPSILON = 1e-5
"""Added to variances, as in torch's instance norm."""


def instance_norm(frames):
    """Zero mean and unit variance of each channel over the frames [T][D] of one utterance."""
    columns = []
    for channel in zip(*frames, strict=True):
        mean = math.fsum(channel) / len(channel)
        variance = math.fsum((value - mean) ** 2 for value in channel) / len(channel)
        columns.append([(value - mean) / math.sqrt(variance + EPSILON) for value in channel])
    return [list(frame) for frame in zip(*columns, strict=True)]


def targets(branches, top):
    """Mean of the last ``top`` normalised branches [L][T][D] of one utterance, [T][D]."""
    used = [instance_norm(frames) for frames in branches[-top:]]
    return [[math.fsum(values) / len(used) for values in zip(*frame, strict=True)] for frame in zip(*used, strict=True)]


def regression(predictions, expected):
    """Squared errors of frames [N][D] times 1 / sqrt(D), and relative to those of predicting 0.

    A target is 0 on average over its utterance, in every channel: 0 is what a model without input would predict.
    """
    squares = math.fsum(math.dist(a, b) ** 2 for a, b in zip(predictions, expected, strict=True))
    power = math.fsum(value**2 for frame in expected for value in frame)
    return squares / math.sqrt(len(expected[0])), squares / power


def deviation(frames):
    """Standard deviation of each channel over frames [N][D], a mean over channels."""
    total = 0.0
    for channel in zip(*frames, strict=True):
        mean = math.fsum(channel) / len(channel)
        total += math.sqrt(math.fsum((value - mean) ** 2 for value in channel) / len(channel))
    return total / len(frames[0])


def effective_rank(frames):
    """Participation ratio (sum of eigenvalues)^2 / (sum of their squares) of the covariance of frames [N][D]."""
    columns = list(zip(*frames, strict=True))
    centred = [[value - math.fsum(column) / len(column) for value in column] for column in columns]
    covariance = [[math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in centred] for x in centred]
    trace = math.fsum(covariance[i][i] for i in range(len(covariance)))
    return trace**2 / math.fsum(value**2 for row in covariance for value in row)


def moving_average(teacher, student, decay):
    """decay * teacher + (1 - decay) * student, weight by weight."""
    return [decay * a + (1 - decay) * b for a, b in zip(teacher, student, strict=True)]


def decay_at(step, start, end, steps):
    """What is left to anneal falls in a straight line to nothing at ``steps``."""
    return end - (end - start) * max(0.0, 1 - step / steps)
