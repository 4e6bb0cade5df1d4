"""Signal-to-noise ratio of a recording: its speech level against its noise floor.

In: one waveform at 16 kHz, or the power of its frames in bands. Out: decibels. The noise of each band is measured in
the quietest frames of that band: even speech without pauses leaves each band quiet at times.
"""

from __future__ import annotations

import functools

import numpy as np

from speechssl.core.randomness import generator
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["FFT", "HOP", "bands", "frame_power", "snr_db", "snr_of_bands", "snr_weights"]

FFT = 512
"""Samples of an analysis frame, 32 ms."""
HOP = 320
"""Samples between frames: 20 ms, the frame rate of wav2vec 2.0 and HuBERT."""

_BANDS = 24
_LOW_HZ, _HIGH_HZ = 100.0, 7_800.0
_QUIET_SHARE = 0.1
_FEWEST_FRAMES = 15
_SILENCE = 1e-12
"""Mean square below which a band of a frame is digital silence (16-bit dither alone is 100 times as much)."""
_LOWEST_DB, _HIGHEST_DB = -20.0, 100.0


@functools.cache
def _window() -> np.ndarray:
    return np.hanning(FFT + 1)[:-1].astype(np.float32)


def frame_power(wave: np.ndarray) -> np.ndarray:
    """Return the power spectrum of each frame.

    Parameters
    ----------
    wave
        float32 [T] at 16 kHz, full scale 1. Frames start every ``HOP`` samples; a last part of a frame is left out.

    Returns
    -------
    np.ndarray
        float32 [F, FFT / 2 + 1], scaled so that the sum over frequencies is the mean square of the windowed frame; F is
        0 when the wave is shorter than ``FFT``.
    """
    if len(wave) < FFT:
        return np.zeros((0, FFT // 2 + 1), np.float32)
    window = _window()
    frames = np.lib.stride_tricks.sliding_window_view(wave, FFT)[::HOP] * window
    spectrum = np.fft.rfft(frames, axis=1)
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    power *= 2.0 / (FFT * float(np.sum(np.square(window), dtype=np.float64)))
    return power


def bands(count: int, low: float, high: float) -> np.ndarray:
    """Return 0/1 float32 [FFT / 2 + 1, count]: neighbouring bands between two frequencies in Hz, none empty.

    They are equally wide on the mel scale (O'Shaughnessy 1987) as far as the resolution of the spectrum allows.
    """
    edges = 700 * (10 ** (np.linspace(_mel(low), _mel(high), count + 1) / 2595) - 1) * FFT / SAMPLE_RATE
    edges = np.rint(edges).astype(np.int64)
    for i in range(1, count + 1):
        edges[i] = max(edges[i], edges[i - 1] + 1)
    bins = np.arange(FFT // 2 + 1)[:, None]
    return ((bins >= edges[:-1]) & (bins < edges[1:])).astype(np.float32)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


@functools.cache
def snr_weights() -> np.ndarray:
    """Return float32 [FFT / 2 + 1, 24]: ``frame_power(wave) @ snr_weights()`` is what ``snr_of_bands`` takes."""
    return bands(_BANDS, _LOW_HZ, _HIGH_HZ)


@functools.cache
def _bias() -> np.ndarray:
    """Return float64 [24]: by how much the mean of stationary noise exceeds the mean of its quietest tenth.

    The narrower the band, the more its power fluctuates. Measured on a minute of white noise, once.
    """
    noise = generator("snr-bias").standard_normal(60 * SAMPLE_RATE, dtype=np.float32)
    power = frame_power(noise) @ snr_weights()
    return power.mean(axis=0, dtype=np.float64) / _floor(power)


def _floor(power: np.ndarray) -> np.ndarray:
    quiet = max(2, round(len(power) * _QUIET_SHARE))
    floor: np.ndarray = np.partition(power, quiet - 1, axis=0)[:quiet].mean(axis=0, dtype=np.float64)
    return floor


def snr_of_bands(power: np.ndarray) -> float | None:
    """Return the signal-to-noise ratio of a recording in decibels, or None (fewer than 15 frames, or no signal).

    Parameters
    ----------
    power
        float32 [F, 24], mean square of each frame in each band. Frames of digital silence are left out: they are gaps
        between recordings, or a gate, and do not show the noise under the speech.
    """
    power = power[power.sum(axis=1) > _SILENCE * power.shape[1]]
    if len(power) < _FEWEST_FRAMES:
        return None
    noise = float(np.sum(_floor(power) * _bias()))
    level = power.sum(axis=1, dtype=np.float64)
    loud = level[level >= np.quantile(level, 0.5)].mean()
    signal = max(float(loud) - noise, 1e-3 * noise)
    return float(np.clip(10 * np.log10(signal / max(noise, _SILENCE)), _LOWEST_DB, _HIGHEST_DB))


def snr_db(wave: np.ndarray) -> float | None:
    """Return the signal-to-noise ratio of a recording of speech.

    The noise of each of 24 mel bands (100 to 7,800 Hz) is the mean of its quietest tenth of 32 ms frames, corrected for
    taking the lowest. The signal is the mean of the louder half of the frames, less the noise. Reverberation counts as
    signal; speech that never pauses reads a few decibels low.

    Parameters
    ----------
    wave
        float32 [T], mono at 16 kHz.

    Returns
    -------
    float or None
        Decibels within -20 to 100; None for less than 0.3 s, or for digital silence.

    Raises
    ------
    ValueError
        The wave is not one-dimensional.
    """
    if wave.ndim != 1:
        raise ValueError(f"snr_db wants one channel [T], not {wave.shape}")
    return snr_of_bands(frame_power(np.asarray(wave, np.float32)) @ snr_weights())
