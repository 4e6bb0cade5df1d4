"""Formats that libsndfile does not read (m4a, webm, amr, wma ...), through the ``ffmpeg`` program if it is installed.

In: a file and its sniffed format. Out: sample rate, channels, and blocks of float32 samples read from a pipe.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speechssl.core.errors import AudioError

__all__ = ["FfmpegReader"]

_AU_HEADER = 24
_AU_FLOAT = 6
_PATIENCE = 30.0  # seconds between the end of the pipe and the end of the program


class FfmpegReader:
    """One run of ``ffmpeg`` that decodes the first audio stream of a file to its own rate and channels.

    The demuxer is forced to the sniffed format and only local files may be opened, so that a playlist in disguise
    cannot make ffmpeg read anything else.

    Parameters
    ----------
    source
        A file, or its bytes (written to a temporary file: most of these formats need seeking).
    item
        Name used in errors.
    demuxer
        ffmpeg's name of the container.
    max_seconds
        Decoding stops soon after this much audio.

    Raises
    ------
    AudioError
        ``needs_ffmpeg`` when the program is not installed; ``corrupt`` when it finds no audio.
    """

    def __init__(self, source: Path | bytes, item: str, demuxer: str, max_seconds: float) -> None:
        program = shutil.which("ffmpeg")
        if program is None:
            detail = f"{demuxer} files need the ffmpeg program, which is not installed; install it, or convert the file"
            raise AudioError(item, "needs_ffmpeg", detail)
        self.item = item
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(source, bytes):
            self._folder = tempfile.TemporaryDirectory(prefix="speechssl-")
            path = Path(self._folder.name) / "audio"
            path.write_bytes(source)
        else:
            path = source.resolve()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        self._process = subprocess.Popen(
            [
                *(program, "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror"),
                *("-protocol_whitelist", "file,pipe", "-f", demuxer, "-i", f"file:{path}"),
                *("-map", "0:a:0", "-vn", "-sn", "-dn", "-t", f"{max_seconds + 1:.3f}"),
                *("-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.sample_rate, self.channels = self._header()
        except AudioError:
            self.close()
            raise

    def _header(self) -> tuple[int, int]:
        """Read the AU header, whose fields have fixed places, and skip its comment."""
        head = self._read(_AU_HEADER)
        if len(head) < _AU_HEADER or head[:4] != b".snd":
            raise AudioError(self.item, "corrupt", f"ffmpeg finds no audio in it{self._complaint()}")
        offset, _, encoding, rate, channels = struct.unpack(">5I", head[4:])
        if encoding != _AU_FLOAT or not _AU_HEADER <= offset <= 65_536:
            raise AudioError(self.item, "corrupt", "the ffmpeg program answered with an unexpected AU header")
        self._read(offset - _AU_HEADER)
        return rate, channels

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read(size)

    def _complaint(self) -> str:
        """Wait for the program, which ends soon after the pipe; return its last error as ``: ...``."""
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    def blocks(self, size: int = 65_536) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] until the end; AudioError ``corrupt`` or ``truncated`` when ffmpeg complains."""
        width = 4 * self.channels
        while data := self._read(size * width):
            whole = len(data) // width * width
            yield np.frombuffer(data[:whole], dtype=">f4").astype(np.float32).reshape(-1, self.channels)
        complaint = self._complaint()
        if self._process.returncode != 0:
            raise AudioError(self.item, "corrupt", f"ffmpeg cannot decode all of it{complaint}")
        if any(words in complaint.lower() for words in ("ended prematurely", "truncat", "partial file")):
            raise AudioError(self.item, "truncated", f"ffmpeg says{complaint}")  # and exits with 0

    def close(self) -> None:
        """End the program (if it still runs) and remove temporary files; safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()
        self._errors.close()
        if self._folder is not None:
            self._folder.cleanup()
