"""Several pieces of a file, or several files of a recording, read as one.

In: an opened file and byte ranges; or the opened parts of a recording. Out: something that reads like one file, or like
one ``soundfile.SoundFile``.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import soundfile
    from _typeshed import WriteableBuffer

__all__ = ["JoinedSound", "Part", "Spliced"]

Part = tuple[bytes, list[tuple[int, int]]]
"""Bytes to read first, then ranges of bytes of a file, (from, to)."""


class Spliced(io.RawIOBase):
    """A read-only file: first bytes in memory, then pieces of another file."""

    def __init__(self, head: bytes, file: BinaryIO, pieces: Sequence[tuple[int, int]]) -> None:
        self._head, self._file = head, file
        self._starts = [0]
        for begin, end in pieces:
            self._starts.append(self._starts[-1] + end - begin)
        self._pieces = list(pieces)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._head) + self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer``; return how many bytes there were, fewer only at the end."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and (part := self._part(len(view) - done)):
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _part(self, size: int) -> bytes:
        if self._position < len(self._head):
            return self._head[self._position : self._position + size]
        inside = self._position - len(self._head)
        number = bisect_right(self._starts, inside) - 1
        if number == len(self._pieces):
            return b""
        begin, end = self._pieces[number]
        place = begin + inside - self._starts[number]
        self._file.seek(place)
        return self._file.read(min(size, end - place))


class JoinedSound:
    """Several opened sound files of one rate and number of channels, read as one.

    Raises
    ------
    ValueError
        They differ in rate or channels.
    """

    def __init__(self, sounds: Sequence[soundfile.SoundFile]) -> None:
        forms = {(sound.samplerate, sound.channels) for sound in sounds}
        if len(forms) != 1:
            raise ValueError("it was joined from parts of different rates or channels")
        ((self.samplerate, self.channels),) = forms
        self._sounds = list(sounds)
        self._starts = [0]
        for sound in sounds:
            self._starts.append(self._starts[-1] + sound.frames)
        self.frames = self._starts[-1]
        self._number = 0

    def seek(self, frame: int) -> int:
        """Move to a frame."""
        self._number = min(bisect_right(self._starts, frame) - 1, len(self._sounds) - 1)
        self._sounds[self._number].seek(frame - self._starts[self._number])
        for sound in self._sounds[self._number + 1 :]:
            sound.seek(0)
        return frame

    def read(self, frames: int, dtype: str, *, always_2d: bool) -> np.ndarray:
        """Return the next frames, fewer only at the end; as ``SoundFile.read``."""
        blocks = []
        while frames > 0 and self._number < len(self._sounds):
            block = self._sounds[self._number].read(frames, dtype=dtype, always_2d=always_2d)
            frames -= len(block)
            if len(block):
                blocks.append(block)
            else:
                self._number += 1
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), dtype)

    def close(self) -> None:
        """Close all parts."""
        for sound in self._sounds:
            sound.close()
