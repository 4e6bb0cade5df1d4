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


def band_limited(wave, cutoff_hz, rate):
    """The wave without frequencies above a cut-off: the sum of the sinusoids of its Fourier series up to there."""
    n = len(wave)
    result = [math.fsum(wave) / n] * n
    for k in range(1, n // 2 + 1):
        if k * rate / n > cutoff_hz:
            break
        weight = 1 / n if 2 * k == n else 2 / n
        angles = [2 * math.pi * k * t / n for t in range(n)]
        a = weight * math.fsum(x * math.cos(angle) for x, angle in zip(wave, angles, strict=True))
        b = weight * math.fsum(x * math.sin(angle) for x, angle in zip(wave, angles, strict=True))
        result = [y + a * math.cos(angle) + b * math.sin(angle) for y, angle in zip(result, angles, strict=True)]
    return result


def divergence(mean, log_variance):
    """KL(N(m, s^2) || N(0, 1)) of a frame (arXiv 1312.6114, appendix B): -1/2 sum (1 + ln s^2 - m^2 - s^2)."""
    return -0.5 * math.fsum(1 + v - m * m - math.exp(v) for m, v in zip(mean, log_variance, strict=True))
