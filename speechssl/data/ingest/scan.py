"""Reads every file once, in parallel: is it audio, is it whole, how long is it, and where can it be cut.

In: paths. Out: one ``Scan`` for each, in the order of the paths for any number of processes. Each file is decoded to
its end in bounded blocks, because only that finds damage. A file that crashes its process is listed; the others are
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from speechssl.core.errors import AudioError
from speechssl.core.processes import cores, map_surviving
from speechssl.data.audio.decode import AudioFile, AudioInfo, AudioLimits, mono
from speechssl.data.audio.formats import AUDIO_EXTENSIONS, HEAD_BYTES, sniff
from speechssl.data.audio.pauses import LevelMeter, SpeechMeter, cut, quiet_frames

__all__ = ["Scan", "ScanSettings", "scan_file", "scan_files"]


@dataclass(frozen=True)
class ScanSettings:
    """The settings of a worker."""

    min_seconds: float
    max_seconds: float
    """Longer recordings are cut into pieces."""
    segmenter: Literal["energy", "silero"]
    limits: AudioLimits


@dataclass(frozen=True)
class Scan:
    """The result of scanning one file."""

    path: str
    info: AudioInfo | None = None
    """None: not audio (``reason`` empty: ignored) or unusable audio (``reason`` says why)."""
    digest: str = ""
    """Digest of the file's bytes."""
    pieces: tuple[tuple[float, float], ...] = ()
    """(start, duration) of a recording longer than ``max_seconds``."""
    reason: str = ""
    detail: str = ""

    @property
    def is_audio(self) -> bool:
        """Whether the file is audio, or has an audio extension."""
        return self.info is not None or bool(self.reason)


def scan_file(path: Path, settings: ScanSettings) -> Scan:
    """Read one file; its content never raises an error."""
    name = str(path)
    promised = path.suffix.lower() in AUDIO_EXTENSIONS
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if sniff(head) is None and not promised:
            return Scan(name)
        info, pieces = _listen(path, settings)
        return Scan(name, info, _digest(path), tuple(pieces))
    except AudioError as error:
        return Scan(name, reason=error.reason, detail=error.detail)
    except OSError as error:
        return Scan(name, reason="unreadable", detail=str(error)) if promised else Scan(name)


def _listen(path: Path, settings: ScanSettings) -> tuple[AudioInfo, list[tuple[float, float]]]:
    """Decode a file to its end; return what is known of it, and its pieces when it is long."""
    with AudioFile(path, str(path), settings.limits) as audio:
        rate = audio.info.sample_rate
        maybe_long = audio.info.frames < 0 or audio.info.duration > settings.max_seconds
        levels = LevelMeter(rate) if maybe_long else None
        speech = SpeechMeter(rate) if maybe_long and settings.segmenter == "silero" else None
        frames = 0
        for block in audio.blocks():
            frames += len(block)
            if levels is not None:
                wave = mono(block)
                levels.add(wave)
                if speech is not None:
                    speech.add(wave)
        info = AudioInfo(audio.info.format, rate, audio.info.channels, frames, frames / rate)
    if levels is None or info.duration <= settings.max_seconds:
        return info, []
    level, step = levels.levels(), levels.frame_seconds
    quiet = quiet_frames(level) if speech is None else speech.quiet(speech.probabilities(), len(level), step)
    bounds = {"min_seconds": settings.min_seconds, "max_seconds": settings.max_seconds}
    return info, cut(level, quiet, step, total=info.duration, **bounds)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_files(
    paths: Sequence[Path], settings: ScanSettings, workers: int, progress: Callable[[int, int], None] | None = None
) -> list[Scan]:
    """Read all files with ``workers`` processes (1: in this one; 0: one per core); scans are in the order of paths."""
    workers = workers or cores()
    scan = partial(scan_file, settings=settings)
    found: list[Scan] = []
    for each in map(scan, paths) if workers == 1 else map_surviving(scan, paths, workers, _died):
        found.append(each)
        if progress is not None:
            progress(len(found), len(paths))
    return found


def _died(path: Path) -> Scan:
    detail = "the process that decoded it died; is the file damaged?"
    return Scan(str(path), reason="decoder_crash", detail=detail)
