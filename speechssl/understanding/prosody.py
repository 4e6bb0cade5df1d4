"""Pitch and energy of each frame: what frame probes predict without any annotation.

In: a waveform and a frame grid. Out: a number a frame, NaN where there is none.
"""

import numpy as np

from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["energy", "pitch"]

WINDOW = 1024
"""Samples around the centre of a frame (64 ms): two periods of the lowest pitch."""
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
VOICED = 0.6
"""Normalised autocorrelation from which a frame counts as voiced."""
FIRST = 0.85
"""Share of the highest peak from which the first one is taken: later peaks are multiples of the period."""
FLOOR = 1e-4
"""Root mean square below which a frame is silent (-80 dB)."""


def _windows(wave: np.ndarray, frames: int, hop: int, receptive: int) -> np.ndarray:
    """Return [frames, WINDOW] samples around the centre of each frame, zero beyond the ends."""
    padded = np.pad(wave.astype(np.float64), WINDOW)
    starts = np.arange(frames) * hop + receptive // 2 + WINDOW // 2
    return padded[starts[:, None] + np.arange(WINDOW)]


def energy(wave: np.ndarray, frames: int, *, hop: int, receptive: int) -> np.ndarray:
    """Return [frames] the natural logarithm of the root mean square, at least that of ``FLOOR``."""
    windows = _windows(wave, frames, hop, receptive)
    return np.log(np.maximum(np.sqrt(np.square(windows).mean(axis=1)), FLOOR))


def pitch(wave: np.ndarray, frames: int, *, hop: int, receptive: int) -> np.ndarray:
    """Return [frames] log2 of the fundamental frequency in hertz, NaN where a frame is not voiced.

    The first high peak of the autocorrelation, divided by that of the overlapping parts' energies (normalised cross
    correlation; Talkin, "A robust algorithm for pitch tracking", 1995, equation 3), with a parabola through it.
    """
    windows = _windows(wave, frames, hop, receptive)
    windows -= windows.mean(axis=1, keepdims=True)
    shortest, longest = int(SAMPLE_RATE / HIGHEST_HZ), int(SAMPLE_RATE / LOWEST_HZ) + 1
    kept = WINDOW - longest - 1  # samples that every lag compares
    spectrum = np.fft.rfft(windows[:, :kept], 2 * WINDOW).conj() * np.fft.rfft(windows, 2 * WINDOW)
    products = np.fft.irfft(spectrum, axis=1)[:, : longest + 2]
    sums = np.cumsum(np.pad(np.square(windows), ((0, 0), (1, 0))), axis=1)
    later = sums[:, kept : kept + longest + 2] - sums[:, : longest + 2]
    score = products / np.sqrt(np.maximum(later[:, :1] * later, 1e-12))
    inner = score[:, shortest : longest + 1]
    left, right = score[:, shortest - 1 : longest], score[:, shortest + 1 : longest + 2]
    peaks = np.where((inner >= left) & (inner > right), inner, -1.0)
    best = peaks.max(axis=1)
    first = np.argmax(peaks >= FIRST * best[:, None], axis=1)
    rows = np.arange(frames)
    a, b, c = left[rows, first], inner[rows, first], right[rows, first]
    bend = a - 2 * b + c
    shift = np.where(bend < 0, (a - c) / (2 * np.where(bend < 0, bend, -1.0)), 0.0)
    loud = np.sqrt(np.square(windows).mean(axis=1)) > 10 * FLOOR
    voiced = (b >= VOICED) & (best > 0) & loud
    return np.where(voiced, np.log2(SAMPLE_RATE / (shortest + first + shift)), np.nan)
