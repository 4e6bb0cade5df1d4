"""Reconstruction of log-mel in scalars (Mockingjay, arXiv 1910.12638; TERA, arXiv 2007.06028). Floats are float64."""

import math


def l1(predicted, speech, hidden):
    """Sum of |p - s| over what is hidden, of |s| over the same, and its count. All three: [T][I], hidden of 0 and 1."""
    total, baseline, count = 0.0, 0.0, 0
    for predictions, values, hides in zip(predicted, speech, hidden, strict=True):
        for p, s, h in zip(predictions, values, hides, strict=True):
            if h:
                total, baseline, count = total + abs(p - s), baseline + abs(s), count + 1
    return total, baseline, count


def hidden_values(masked, block, stack):
    """What an utterance hides, [F][stack * M]: masked frames [F] whole, and of the others a block of channels [M]."""
    return [[int(frame or channel) for _ in range(stack) for channel in block] for frame in masked]


def spread(frames):
    """Mean over channels of the standard deviation over frames [T][I]."""
    deviations = []
    for channel in zip(*frames, strict=True):
        mean = math.fsum(channel) / len(channel)
        deviations.append(math.sqrt(math.fsum((value - mean) ** 2 for value in channel) / len(channel)))
    return math.fsum(deviations) / len(deviations)
