"""Utterance and noise mixing in scalars (WavLM, arXiv 2110.13900, section III-B, algorithm 1). Floats are float64."""

import math


def energy(signal):
    """Mean square of a whole signal."""
    return math.fsum(value * value for value in signal) / len(signal)


def mixed(primary, secondary, *, start, begin, length, ratio_db):
    """The primary utterance with ``length`` samples of the secondary signal, from ``begin``, added from ``start``."""
    scale = math.sqrt(energy(primary) / (10 ** (ratio_db / 10) * energy(secondary)))
    result = list(primary)
    for i in range(length):
        result[start + i] += scale * secondary[begin + i]
    return result


def units_heard(frames, hop, receptive, units, *, start, begin, length):
    """The unit of the secondary's nearest frame for each frame of the primary that is mixed as a whole, else -1.

    units: of the secondary's frames, which lie ``hop`` samples apart and see ``receptive`` samples.
    """
    heard = []
    for frame in range(frames):
        first, end = frame * hop, frame * hop + receptive
        nearest = math.floor((first - start + begin) / hop + 0.5)
        whole = start <= first and end <= start + length
        heard.append(units[nearest] if whole and nearest < len(units) else -1)
    return heard
