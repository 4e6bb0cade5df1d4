"""Properties of a recording's spectrum: where speech is, its bandwidth, and mains hum.

In: power of frames. Out: activity over time, the frequency of a sharp upper edge, the prominence of mains harmonics.
Speech with little treble falls off gradually; audio that was once at a lower rate ends at a cliff with nothing above.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import median

import numpy as np

from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.audio.snr import FFT

__all__ = ["Activity", "activity", "edge_hz", "edge_weights", "hum_db", "hum_power"]

FRAME_SECONDS = 0.02
BAND_HZ = 250
_LOUD_FRAMES = 50
_NOTHING_DB = -105.0
_BINS = BAND_HZ * FFT // SAMPLE_RATE
_CLIFF_DB = 25.0
"""Least fall within a kilohertz at the edge."""
_FLAT_DB = 9.0
"""What is left above the edge does not go on falling by more."""
_STEP_DB = 10.0
"""Least fall of the noise floor at the edge: a voice that ends at 4 kHz leaves the room's noise above it alone."""
_GATED_DB = -108.0
"""A floor below this is none (synthetic or gated speech), and cannot fall."""
_LOWEST = 10  # bands: no telephone ends below 2.5 kHz
_WIDEST = 30  # bands: above 7.5 kHz every file at 16 kHz ends
_FLOOR = 1e-13
_FEWEST_HUM = 12
"""Frames of a quarter of a second: in fewer a steady voice is taken for the mains."""


@dataclass(frozen=True)
class Activity:
    """Sound and silence over time; levels in decibels below full scale."""

    loud_db: float
    """Exceeded by one frame in twenty, in long recordings by one second."""
    quiet_db: float
    """Exceeded by nine frames in ten."""
    leading: float
    """Seconds before the first sound."""
    trailing: float
    speech_seconds: float
    """Frames that are not silence, pauses of up to 0.2 s within them included."""
    speech_share: float
    gaps: int
    """Holes of 40 ms or more that begin and end abruptly, far below the recording's own noise: lost packets."""


def activity(power: np.ndarray) -> Activity:
    """Return where a recording is not silent; ``power`` is the mean square of each 20 ms frame, float32 [F]."""
    level = 10 * np.log10(power.astype(np.float64) + 1e-12)
    rank = min(len(level) // 20, _LOUD_FRAMES) if len(level) >= 40 else 0  # loudest frame of a word
    loud, quiet = float(np.partition(level, -1 - rank)[-1 - rank]), float(np.quantile(level, 0.1))
    peak = float(level.max())
    span = loud - quiet
    threshold = max(loud - 35.0, quiet + min(6.0, 0.4 * span)) if peak - loud < 20 else peak - 35.0
    active = level > threshold
    if not active.any():
        active[int(np.argmax(level))] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8))).reshape(-1, 2)
    # A click is no speech: the first and last sound have two frames or more, where there are such.
    lasting = edges[edges[:, 1] - edges[:, 0] >= 2]
    ends = lasting if len(lasting) else edges
    pauses = edges[1:, 0] - edges[:-1, 1]
    speech = int(active.sum() + pauses[pauses <= 10].sum())
    return Activity(
        loud_db=loud,
        quiet_db=quiet,
        leading=float(ends[0, 0]) * FRAME_SECONDS,
        trailing=float(len(level) - ends[-1, 1]) * FRAME_SECONDS,
        speech_seconds=speech * FRAME_SECONDS,
        speech_share=speech / len(level),
        gaps=_gaps(level, loud, quiet),
    )


def _gaps(level: np.ndarray, loud: float, quiet: float) -> int:
    """Count gaps of digital silence inside sound; a gated recording, whose noise floor is digital silence, has none."""
    empty = level < _NOTHING_DB
    if 0 < empty.mean() < 0.3:  # gaps of digital silence are not part of the noise floor
        quiet = float(np.quantile(level[~empty], 0.1))
    hole = level < min(quiet - 20.0, -90.0, loud - 55.0)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], hole, [False]]).astype(np.int8))).reshape(-1, 2)
    found = 0
    for begin, end in runs.tolist():
        if end - begin >= 2 and begin >= 2 and end + 2 <= len(level):
            before, after = level[max(0, begin - 3) : begin].max(), level[end : end + 3].max()
            found += int(min(before, after) > max(quiet + 6.0, loud - 30.0))
    return found


@functools.cache
def edge_weights() -> np.ndarray:
    """Return float32 [257, 32]: bands of 250 Hz for ``activity`` (their sum) and ``edge_hz``; none below 47 Hz."""
    bins = np.arange(FFT // 2 + 1)
    weights = (bins[:, None] // _BINS == np.arange(SAMPLE_RATE // 2 // BAND_HZ)).astype(np.float32)
    weights[:2] = 0.0  # an offset leaks into the second bin
    return weights


def edge_hz(power: np.ndarray) -> float | None:
    """Return the frequency of a sharp upper edge, or None; ``power`` is float32 [F, 32], in bands of 250 Hz."""
    if len(power) < 10:
        return None
    high, floor = 10 * np.log10(np.quantile(power, [[0.97], [0.1]], axis=0)[:, 0] + _FLOOR)
    best, edge = _CLIFF_DB, None
    for band in range(_LOWEST, _WIDEST - 5):
        above = high[band + 4 : _WIDEST]
        fall = high[band - 2 : band + 1].mean() - above.max()
        flat = high[band + 4] - median(high[band + 5 : min(band + 13, _WIDEST)].tolist())
        step = floor[band - 2 : band + 1].mean() - median(floor[band + 4 : _WIDEST].tolist())
        empty = floor[band - 2 : band + 1].mean() < _GATED_DB and above.max() < _GATED_DB + 28 and fall >= _CLIFF_DB + 5
        if fall >= best and flat <= _FLAT_DB and (step >= _STEP_DB or empty):
            best, edge = fall, band
    if edge is None:
        return None
    top = high[edge - 2 : edge + 1].mean()
    inside = np.flatnonzero(high[: edge + 5] > top - 20.0)
    return float((inside[-1] + 1) * BAND_HZ)


def hum_power(frames: np.ndarray) -> np.ndarray:
    """Return float32 [F, bins up to 500 Hz] of frames [F, N] of 16 kHz samples."""
    window = np.hanning(frames.shape[1]).astype(np.float32)
    spectrum = np.fft.rfft(frames * window, axis=1)[:, : 500 * frames.shape[1] // SAMPLE_RATE]
    return (np.square(np.abs(spectrum)) / np.sum(window) ** 2).astype(np.float32)


def hum_db(power: np.ndarray, size: int) -> tuple[float, float] | None:
    """Return (50 or 60, prominence in decibels) of the mains, whichever stands out more; None for under three seconds.

    At each frequency the quietest fifth of the frames counts: a voice pauses and moves, the mains do not. The
    prominence is that of the second strongest of the first six harmonics over the median around it.
    """
    if len(power) < _FEWEST_HUM:
        return None
    quiet = np.quantile(power, 0.2, axis=0) + 1e-14
    spacing = SAMPLE_RATE / size
    found = []
    for mains in (50.0, 60.0):
        stands = []
        for harmonic in range(1, 7):
            at = round(mains * harmonic / spacing)
            around = np.concatenate([quiet[max(2, at - 7) : at - 2], quiet[at + 3 : at + 8]])
            stands.append(10 * np.log10(quiet[at - 1 : at + 2].max() / np.median(around)))
        found.append((mains, float(sorted(stands)[-2])))
    return max(found, key=lambda entry: entry[1])
