"""The first BASE stem layer by plain loops: convolution without bias, a norm per channel over valid frames."""

import math


def conv_groupnorm(wave, kernel, stride, weight, gamma, beta, eps=1e-5):
    """wave [T] -> [channels][frames]: y = (conv - mean) / sqrt(var + eps) gamma + beta, statistics over these frames.

    weight: [channels][kernel]; the variance is the biased one, as in normalisation layers.
    """
    frames = (len(wave) - kernel) // stride + 1
    out = []
    for channel, taps in enumerate(weight):
        conv = [math.fsum(taps[k] * wave[f * stride + k] for k in range(kernel)) for f in range(frames)]
        mean = math.fsum(conv) / frames
        variance = math.fsum((value - mean) ** 2 for value in conv) / frames
        scale = gamma[channel] / math.sqrt(variance + eps)
        out.append([(value - mean) * scale + beta[channel] for value in conv])
    return out
