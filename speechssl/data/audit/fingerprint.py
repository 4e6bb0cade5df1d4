"""Fingerprints of recordings: bits that survive re-encoding, gain, noise and a shift in time.

In: the power of frames in 33 mel bands. Out: a 32-bit word a frame (the sign of the change of neighbouring bands'
difference: Haitsma and Kalker 2002, "A Highly Robust Audio Fingerprinting System", section 4.2), and 24-bit keys of it
for an index. Frames are smoothed over 160 ms, which is what makes a shift by half a hop harmless.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from speechssl.data.audio.snr import bands

__all__ = ["Fingerprint", "fingerprint", "fingerprint_weights"]

_BANDS = 33
_LOW_HZ, _HIGH_HZ = 200.0, 3_800.0
"""Within what a telephone leaves."""
_SMOOTH = 8
_LAG = 4
_FIRST_BIT = 6  # the lowest bands are one bin wide and least reliable: keys leave them out
_KEY_BITS = 24
_ACTIVE_DB = 30.0
_EMPTY_DB = -72.0
"""Digital silence lies below, for every band is given a floor of 1e-9."""


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a recording to find it again."""

    words: np.ndarray
    """uint32 [F]: a word each 20 ms."""
    active: np.ndarray
    """bool [F]: frames within 30 dB of the loud ones; the others are no evidence."""
    keys: np.ndarray
    """uint32 [K]: 24-bit keys, on the grid of the words and half a hop after it, also with their least sure bit turned
    over."""
    times: np.ndarray
    """int32 [K]: frame of each key."""


@functools.cache
def fingerprint_weights() -> np.ndarray:
    """Return float32 [257, 33]: ``frame_power(wave) @ fingerprint_weights()`` is what ``fingerprint`` takes."""
    return bands(_BANDS, _LOW_HZ, _HIGH_HZ)


def fingerprint(power: np.ndarray, *, thin: int = 1) -> Fingerprint:
    """Return the fingerprint of a recording.

    Parameters
    ----------
    power
        float32 [F, 33] of frames 20 ms apart. Fewer than 13 frames (0.26 s) give an empty fingerprint.
    thin
        Keep one key in ``thin``, chosen by its value: equal keys are kept or dropped together.
    """
    if len(power) <= _SMOOTH + _LAG:
        empty = np.zeros(0, np.uint32)
        return Fingerprint(empty, np.zeros(0, np.bool_), empty, np.zeros(0, np.int32))
    summed = np.concatenate([np.zeros((1, _BANDS)), np.cumsum(power, axis=0, dtype=np.float64)])
    smooth = np.maximum(summed[_SMOOTH:] - summed[:-_SMOOTH], 0.0) + 1e-9
    level = 10 * np.log10(smooth.sum(axis=1))
    active = (level > np.quantile(level, 0.95) - _ACTIVE_DB) & (level > _EMPTY_DB)
    change = _change(smooth)
    between = _change((smooth[1:] + smooth[:-1]) / 2)
    active = active[_LAG:]
    words = _pack(change > 0)
    keys, times = [], []
    for grid in (change, between):
        bits = grid[:, _FIRST_BIT : _FIRST_BIT + _KEY_BITS]
        key = _pack(bits > 0)
        weakest = np.argmin(np.abs(bits), axis=1).astype(np.uint32)
        keep = np.flatnonzero(active[: len(key)])
        for variant in (key, key ^ (np.uint32(1) << weakest)):
            keys.append(variant[keep])
            times.append(keep.astype(np.int32))
    every, when = np.concatenate(keys), np.concatenate(times)
    if thin > 1:
        chosen = (every * np.uint32(2_654_435_761) >> np.uint32(8)) % np.uint32(thin) == 0
        every, when = every[chosen], when[chosen]
    return Fingerprint(words, active, every, when)


def _change(smooth: np.ndarray) -> np.ndarray:
    """Return float64 [F - lag, 32]: change over time of the difference between neighbouring bands, in logarithms."""
    step = np.log(smooth)
    step = step[_LAG:] - step[:-_LAG]
    return step[:, :-1] - step[:, 1:]


def _pack(bits: np.ndarray) -> np.ndarray:
    packed = np.zeros((len(bits), 32), np.uint8)
    packed[:, : bits.shape[1]] = bits
    return np.packbits(packed, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)
