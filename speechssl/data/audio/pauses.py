"""Cuts long recordings into pieces at pauses, so that nothing spoken is lost and no piece is longer than asked.

In: the level of each 10 ms frame, gathered while a file streams by (and silero-vad's speech probabilities, when used).
Out: (start, duration) of each piece, in seconds. Only pauses of over two seconds are left out, less a margin each end.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, Literal

import numpy as np

__all__ = ["LevelMeter", "SpeechMeter", "cut", "quiet_frames", "resolve_segmenter"]

FRAME_SECONDS = 0.01
FLOOR_DB = -100.0
LONGEST_PAUSE = 2.0
"""Longer pauses are dropped, down to a margin at each end."""
MARGIN = 0.3
SHORTEST_PIECE = 2.0
"""Single words between long pauses keep enough of the pauses to reach this length."""
ABOVE_FLOOR_DB = 6.0
BELOW_PEAK_DB = 25.0
"""A frame is quiet when it is less than 6 dB above the noise floor and more than 25 dB below loud speech."""
SPEECH_PROBABILITY = 0.15
"""silero-vad: a frame is quiet below this. Its own default is 0.5; losing speech is worse than keeping noise."""


class LevelMeter:
    """Level of each frame of about 10 ms, from blocks of any size at ``sample_rate`` (Hz)."""

    def __init__(self, sample_rate: int) -> None:
        self.size = max(1, round(sample_rate * FRAME_SECONDS))
        self.frame_seconds = self.size / sample_rate
        self._rest = np.zeros(0, np.float32)
        self._levels: list[np.ndarray] = []

    def add(self, wave: np.ndarray) -> None:
        """Take the next samples, float32 [n]."""
        wave = np.concatenate([self._rest, wave])
        whole = len(wave) // self.size * self.size
        self._rest = wave[whole:].copy()
        self._levels.append(self._decibels(wave[:whole].reshape(-1, self.size)))

    def levels(self) -> np.ndarray:
        """Return float32 [F], decibels below full scale; a last, shorter frame counts as one."""
        last = [self._decibels(self._rest[None])] if len(self._rest) else []
        return np.concatenate([np.zeros(0, np.float32), *self._levels, *last])

    @staticmethod
    def _decibels(frames: np.ndarray) -> np.ndarray:
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        return (10 * np.log10(power + 10 ** (FLOOR_DB / 10))).astype(np.float32)


class SpeechMeter:
    """Speech probability of each 32 ms of 16 kHz audio, by silero-vad, from blocks of any size at any rate."""

    CHUNK = 512

    def __init__(self, sample_rate: int) -> None:
        import soxr
        import torch

        self._torch = torch
        self._model = _silero()
        self._model.reset_states()
        self._stream = soxr.ResampleStream(sample_rate, 16_000, 1, dtype="float32", quality="HQ")
        self._rest = np.zeros(0, np.float32)
        self._probabilities: list[float] = []

    def add(self, wave: np.ndarray) -> None:
        """Take the next samples, float32 [n]."""
        self._judge(self._stream.resample_chunk(wave))

    def probabilities(self) -> np.ndarray:
        """Return float32 [ceil(samples / 512)]; call it once, at the end."""
        self._judge(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        if len(self._rest):
            self._judge(np.zeros(self.CHUNK - len(self._rest), np.float32))
        return np.array(self._probabilities, np.float32)

    def _judge(self, wave: np.ndarray) -> None:
        wave = np.concatenate([self._rest, wave])
        whole = len(wave) // self.CHUNK * self.CHUNK
        self._rest = wave[whole:].copy()
        with self._torch.inference_mode():
            for chunk in self._torch.from_numpy(wave[:whole]).reshape(-1, self.CHUNK):
                self._probabilities.append(float(self._model(chunk, 16_000)))

    @staticmethod
    def quiet(probabilities: np.ndarray, frames: int, frame_seconds: float) -> np.ndarray:
        """Return bool [frames] with the frames of a LevelMeter: true where no speech is likely."""
        chunk = ((np.arange(frames) + 0.5) * frame_seconds * 16_000 / SpeechMeter.CHUNK).astype(np.int64)
        return probabilities[np.minimum(chunk, len(probabilities) - 1)] < SPEECH_PROBABILITY


@functools.cache
def _silero() -> Any:
    """Load the model once in each process."""
    import silero_vad

    return silero_vad.load_silero_vad()


def resolve_segmenter(wanted: Literal["auto", "energy", "silero"]) -> Literal["energy", "silero"]:
    """Replace ``auto`` by the segmenter that is installed; ValueError when silero is asked for and not installed."""
    there = importlib.util.find_spec("silero_vad") is not None
    if wanted == "silero" and not there:
        raise ValueError("segmenter 'silero' needs the silero-vad package: pip install 'speechssl[vad]'")
    return "silero" if there and wanted != "energy" else "energy"


def quiet_frames(levels: np.ndarray) -> np.ndarray:
    """Return bool [F]: frames near the noise floor and far below loud speech (levels: decibels, float32 [F])."""
    if not len(levels):
        return np.zeros(0, np.bool_)
    floor = np.percentile(levels, 5)
    peak = _smooth(levels, 10).max()  # not a percentile: a long recording may hold one word
    return levels < min(floor + ABOVE_FLOOR_DB, peak - BELOW_PEAK_DB)


def cut(
    levels: np.ndarray, quiet: np.ndarray, frame_seconds: float, *, total: float, min_seconds: float, max_seconds: float
) -> list[tuple[float, float]]:
    """Divide a recording into pieces of at most ``max_seconds``.

    Every frame that is not quiet lies in exactly one piece. Where no pause helps, the cut is at the lowest level
    in the second half of the allowed length, so that neighbours join without a gap.

    Parameters
    ----------
    levels
        float32 [F], decibels.
    quiet
        bool [F].
    frame_seconds
        Length of a frame.
    total
        Length of the recording in seconds; no piece ends later.
    min_seconds, max_seconds
        No piece is shorter (unless the recording is) or longer.

    Returns
    -------
    list of (start, duration)
        In seconds, in order, without overlap.
    """
    frames = len(levels)
    most = max(2, int(max_seconds / frame_seconds))
    least = min(most // 2, int(np.ceil(min_seconds / frame_seconds)))
    smooth = _smooth(levels, max(1, round(0.2 / frame_seconds)))
    edges: list[tuple[int, int]] = []
    for begin, end in _spoken(
        quiet, frame_seconds, max(least, min(most // 2, int(np.ceil(SHORTEST_PIECE / frame_seconds))))
    ):
        while end - begin > most:
            low, high = begin + most // 2, min(begin + most, end - least)
            lateness = np.linspace(3.0, 0.0, high - low)  # among equal pauses the latest: fewer, longer pieces
            middle = low + int(np.argmin(smooth[low:high] + lateness))
            edges.append((begin, middle))
            begin = middle
        edges.append((begin, end))
    times = [(begin * frame_seconds, total if end == frames else end * frame_seconds) for begin, end in edges]
    return [(begin, min(end, total) - begin) for begin, end in times if min(end, total) > begin]


def _smooth(levels: np.ndarray, width: int) -> np.ndarray:
    """Return the moving average over ``width`` frames, centred, of the same length."""
    padded = np.pad(levels.astype(np.float64), (width // 2, width - 1 - width // 2), mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    return (sums[width:] - sums[:-width]) / width


def _spoken(quiet: np.ndarray, frame_seconds: float, shortest: int) -> list[tuple[int, int]]:
    """Return [begin, end) frames between long pauses, widened by the margin and to the shortest length, then merged."""
    frames = len(quiet)
    changes = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    runs = changes.reshape(-1, 2)
    pauses = runs[(runs[:, 1] - runs[:, 0]) * frame_seconds > LONGEST_PAUSE]
    begins = np.concatenate([[0], pauses[:, 1]])
    ends = np.concatenate([pauses[:, 0], [frames]])
    merged: list[tuple[int, int]] = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if begin == end:
            continue  # the recording starts or ends with a pause
        margin = max(round(MARGIN / frame_seconds), -(-(shortest - (end - begin)) // 2))
        end = min(frames, end + margin)
        begin = max(0, min(begin - margin, end - shortest))
        end = min(frames, max(end, begin + shortest))
        if merged and begin <= merged[-1][1]:
            begin = merged.pop()[0]
        merged.append((begin, end))
    return merged
