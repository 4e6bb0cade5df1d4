"""APC in scalars (arXiv 1904.03240, section 2; equation 1). Python floats are float64."""

import math


def pairs(frames, ahead):
    """(t, t + n) for each frame t of an utterance of so many frames that has a frame t + n."""
    return [(t, t + ahead) for t in range(frames) if t + ahead < frames]


def distance(a, b):
    """L1 distance of two frames."""
    return math.fsum(abs(x - y) for x, y in zip(a, b, strict=True))


def prediction_loss(speech, predictions, ahead):
    """Sum over t of | x[t + n] - y[t] |. speech: [F][I], predictions: [F][I] of every frame. Returns (sum, frames)."""
    found = [distance(speech[later], predictions[now]) for now, later in pairs(len(speech), ahead)]
    return math.fsum(found), len(found)


def repeating_loss(speech, ahead):
    """Sum over t of | x[t + n] - x[t] |: each frame as the prediction of the one n later."""
    return math.fsum(distance(speech[later], speech[now]) for now, later in pairs(len(speech), ahead))


def mean_loss(speech, ahead):
    """Sum over t of | x[t + n] |: the mean of standardised speech, 0, as every prediction."""
    return math.fsum(distance(speech[later], [0.0] * len(speech[0])) for _, later in pairs(len(speech), ahead))


def deviation(frames):
    """Standard deviation of each value over frames [N][I], a mean over values."""
    found = []
    for column in zip(*frames, strict=True):
        mean = math.fsum(column) / len(column)
        found.append(math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column)))
    return math.fsum(found) / len(found)
