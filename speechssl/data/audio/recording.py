"""One opened recording: its checked header, and its samples in bounded blocks.

In: a file of any name, or the bytes of one. Out: ``AudioInfo`` and float32 blocks at the recording's own rate. Headers
are not trusted: limits are checked before decoding, memory does not depend on the header, and the decoded length is
compared with it.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.containers import cut_short
from speechssl.data.audio.ffmpeg import FfmpegReader
from speechssl.data.audio.formats import FALLBACK_DEMUXERS, FFMPEG_FORMATS, HEAD_BYTES, LOSSY_FORMATS, sniff
from speechssl.data.audio.joined import parts_of
from speechssl.data.audio.limits import AudioInfo, AudioLimits, check_claims, check_samples
from speechssl.data.audio.mpeg import after_tags
from speechssl.data.audio.spliced import JoinedSound

if TYPE_CHECKING:
    import soundfile

__all__ = ["LENGTH_TOLERANCE", "AudioFile"]

LENGTH_TOLERANCE = 0.01
"""Share by which decoded and promised length may differ (encoder delay, a damaged last frame)."""

_BLOCK_SAMPLES = 262_144  # of all channels together: 1 MB of float32
_PREROLL_SECONDS = 1.0  # decoding this much before a cut makes lossy formats sample-exact there
_IMPOSTORS = (
    (b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull`"),
    (b"<!doctype html", "a web page: download the file again"),
    (b"<html", "a web page: download the file again"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
)
_UNKNOWN_FRAMES = 2**62


class AudioFile:
    """An opened recording whose header has been checked; a context manager.

    Attributes
    ----------
    info
        What the header says. ``frames`` is -1 when it does not say (formats read through ffmpeg).

    Raises
    ------
    AudioError
        With one of the reasons ``missing_file``, ``unreadable``, ``empty_file``, ``too_large``, ``not_audio``,
        ``needs_ffmpeg``, ``corrupt``, ``joined``, ``truncated``, ``unknown_length``, ``sample_rate``, ``channels``,
        ``no_samples``, ``too_long``.
    """

    def __init__(self, source: Path | bytes, item: str, limits: AudioLimits) -> None:
        self.item, self.limits = item, limits
        self._sound: soundfile.SoundFile | JoinedSound | None = None
        self._ffmpeg: FfmpegReader | None = None
        self._file = _open_source(source, item, limits)
        try:
            kind, begin = self._sniffed()
            if reason := cut_short(self._file, kind):
                raise AudioError(item, "truncated", reason)
            self.info = (
                self._open_ffmpeg(source, kind) if kind in FFMPEG_FORMATS else self._open_sndfile(source, kind, begin)
            )
        except OSError as error:
            self.close()
            raise AudioError(item, "unreadable", str(error)) from error
        except BaseException:
            self.close()
            raise

    def _sniffed(self) -> tuple[str, int]:
        """Return the format, and where the recording begins: after tags, and after zeros in MP3."""
        head = self._file.read(HEAD_BYTES)
        kind, begin = sniff(head), 0
        if kind in (None, "mp3"):
            begin = after_tags(self._file)
            self._file.seek(begin)
            behind = sniff(self._file.read(HEAD_BYTES)) if begin else None
            kind = behind if kind == "mp3" and behind is not None else kind or ("mp3" if behind == "mp3" else None)
        if kind is None:
            what = next(
                (said for mark, said in _IMPOSTORS if head.lstrip().lower().startswith(mark)), "no audio format"
            )
            raise AudioError(self.item, "not_audio", f"its content is {what}")
        return kind, begin

    def _open_sndfile(self, source: Path | bytes, kind: str, begin: int) -> AudioInfo:
        import soundfile

        try:
            parts = parts_of(self._file, kind, begin)
            self._file.seek(0)
            if isinstance(source, Path) and not parts:
                os.lseek(
                    self._file.fileno(), 0, os.SEEK_SET
                )  # the buffer of a Python file hides the descriptor's position
            # A descriptor has no name, so the extension cannot mislead libsndfile or soundfile.
            handle = self._file if isinstance(source, bytes) else self._file.fileno()
            with _quiet(kind == "mp3"):
                sources: list[Any] = [*parts] or [handle]
                opened = [soundfile.SoundFile(part, closefd=False) for part in sources]
                sound = self._sound = opened[0] if len(opened) == 1 else JoinedSound(opened)
        except ValueError as error:
            raise AudioError(self.item, "joined", f"{error}; convert its parts one by one") from error
        except soundfile.LibsndfileError as error:
            if kind in FALLBACK_DEMUXERS and shutil.which("ffmpeg"):
                return self._open_ffmpeg(source, kind)
            hint = "; ffmpeg may read it: install it, or convert the file" if kind in FALLBACK_DEMUXERS else ""
            raise AudioError(self.item, "corrupt", f"looks like {kind}, but: {_said(error)}{hint}") from error
        rate, channels, frames = int(sound.samplerate), int(sound.channels), int(sound.frames)
        if frames >= _UNKNOWN_FRAMES:  # a FLAC written to a pipe: libsndfile cannot find its end
            if kind in FALLBACK_DEMUXERS and shutil.which("ffmpeg"):
                return self._open_ffmpeg(source, kind)
            detail = "its header does not say how long it is; install ffmpeg, or write it again with `flac`"
            raise AudioError(self.item, "unknown_length", detail)
        check_claims(self.item, rate, channels, frames, self.limits)
        return AudioInfo(kind, rate, channels, frames, frames / rate)

    def _open_ffmpeg(self, source: Path | bytes, kind: str) -> AudioInfo:
        demuxer = FFMPEG_FORMATS.get(kind) or FALLBACK_DEMUXERS[kind]
        self._ffmpeg = FfmpegReader(source, self.item, demuxer, self.limits.max_seconds)
        check_claims(self.item, self._ffmpeg.sample_rate, self._ffmpeg.channels, -1, self.limits)
        return AudioInfo(kind, self._ffmpeg.sample_rate, self._ffmpeg.channels, -1, -1.0)

    def blocks(self, start: int = 0, frames: int | None = None) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] at the file's own rate, each checked; memory does not grow with the file.

        Parameters
        ----------
        start, frames
            First frame and number of frames; None: to the end. Exact for every format. Call it once for each opening.

        Raises
        ------
        AudioError
            ``out_of_range``, ``corrupt``, ``truncated``, ``too_long``, ``not_finite``, ``out_of_scale``.
        """
        wanted = frames if frames is not None else (self.info.frames - start if self.info.frames >= 0 else None)
        if 0 <= self.info.frames <= start or (wanted is not None and wanted <= 0):
            raise AudioError(
                self.item, "out_of_range", f"nothing to read from {start / self.info.sample_rate:.3f} s on"
            )
        most = int(self.limits.max_seconds * self.info.sample_rate)
        given = 0
        for block in self._skip(start) if self._ffmpeg is not None else self._sndfile_blocks(start, wanted):
            if wanted is not None:
                block = block[: wanted - given]
            if not len(block):
                break
            check_samples(self.item, block, self.limits)
            given += len(block)
            if given > most:
                raise AudioError(self.item, "too_long", f"more than {self.limits.max_seconds:,.0f} s of audio")
            yield block
        if given == 0:
            raise AudioError(self.item, "no_samples" if start == 0 else "out_of_range", "no audio could be decoded")
        if wanted is not None and abs(given - wanted) > LENGTH_TOLERANCE * wanted:
            rate = self.info.sample_rate
            raise AudioError(
                self.item, "truncated", f"{given / rate:.3f} s of the promised {wanted / rate:.3f} s are there"
            )

    def _sndfile_blocks(self, start: int, wanted: int | None) -> Iterator[np.ndarray]:
        import soundfile

        sound = self._sound
        assert sound is not None
        noisy = self.info.format == "mp3"
        lossy = self.info.format in LOSSY_FORMATS
        skip = min(start, int(_PREROLL_SECONDS * self.info.sample_rate)) if lossy else 0
        left = None if wanted is None else wanted + skip
        size = max(1, _BLOCK_SAMPLES // self.info.channels)
        try:
            if start - skip:
                with _quiet(noisy):
                    sound.seek(start - skip)
            while left is None or left > 0:
                with _quiet(noisy):
                    block = sound.read(size if left is None else min(size, left), dtype="float32", always_2d=True)
                if not len(block):
                    return
                left = None if left is None else left - len(block)
                drop = min(skip, len(block))
                skip -= drop
                if drop < len(block):
                    yield block[drop:]
        except (soundfile.LibsndfileError, RuntimeError, MemoryError, ValueError) as error:
            raise AudioError(self.item, "corrupt", f"decoding stops with: {_said(error)}") from error

    def _skip(self, start: int) -> Iterator[np.ndarray]:
        assert self._ffmpeg is not None
        for block in self._ffmpeg.blocks():
            drop = min(start, len(block))
            start -= drop
            if drop < len(block):
                yield block[drop:]

    def close(self) -> None:
        """Close what is open; safe to call twice."""
        if self._sound is not None:
            self._sound.close()
            self._sound = None
        if self._ffmpeg is not None:
            self._ffmpeg.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_source(source: Path | bytes, item: str, limits: AudioLimits) -> BinaryIO:
    """Open a regular, non-empty, not too large file (never a pipe or a device, which could block)."""
    if isinstance(source, bytes):
        size, limit = len(source), limits.max_bytes
    else:
        try:
            status = source.stat()
        except FileNotFoundError as error:
            raise AudioError(item, "missing_file", f"no file {source}") from error
        except (OSError, ValueError) as error:
            raise AudioError(item, "unreadable", str(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(item, "unreadable", "not a regular file")
        size, limit = status.st_size, limits.max_file_bytes
    if size == 0:
        raise AudioError(item, "empty_file", "0 bytes")
    if size > limit:
        raise AudioError(item, "too_large", f"{size:,} bytes; the limit is {limit:,}")
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise AudioError(item, "unreadable", str(error)) from error


def _said(error: BaseException) -> str:
    """Return an exception's message in one line, without the ``Error opening <object>`` prefix of soundfile."""
    text = getattr(error, "error_string", "") or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_saved = -1


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keep libmpg123 from writing to standard error: it warns about valid MP3 files too, once per packet."""
    if not wanted:
        yield
        return
    global _quiet_depth, _quiet_saved  # noqa: PLW0603  (file descriptor 2 belongs to the whole process)
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            try:
                _quiet_saved = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            except OSError:  # standard error is closed: nothing to redirect
                _quiet_saved = -1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_saved >= 0:
                os.dup2(_quiet_saved, 2)
                os.close(_quiet_saved)
