"""Recordings that were joined with ``cat``: where each begins, for containers whose decoder stops after the first.

In: an opened file and its sniffed format. Out: its parts, or nothing when its decoder reads all of it.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import BinaryIO

from speechssl.data.audio.containers import with_size
from speechssl.data.audio.mpeg import Bytes, mpeg_parts
from speechssl.data.audio.spliced import Part, Spliced

__all__ = ["parts_of"]

_FLAC = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
"""A beginning of FLAC: the marker and the header of STREAMINFO, whose length is fixed."""
_CAF = b"caff\x00\x01\x00\x00desc"
"""A beginning of CAF: the marker, version, flags and the name of the first chunk."""
_OGG = b"OggS\x00\x02"
"""The first page of a logical Ogg stream."""
_MOST_KNOWN = 1000
_known: dict[tuple[int, ...], list[Part]] = {}


def parts_of(file: BinaryIO, kind: str, start: int) -> list[Spliced]:
    """Return the parts of a recording, each a file of its own; nothing when ``file`` can be read as it is.

    ``kind`` is what ``sniff`` said; the recording begins at ``start``, behind tags and zeros.

    Raises ValueError when the parts cannot be read as one recording.
    """
    parts = _parts(file, kind, start) if kind in _FIND else []
    if not parts and start and kind != "mp3":
        parts = [(b"", [(start, file.seek(0, os.SEEK_END))])]
    if not parts and (sized := with_size(file, kind)) is not None:
        return [sized]
    return [Spliced(head, file, pieces) for head, pieces in parts]


def _parts(file: BinaryIO, kind: str, start: int) -> list[Part]:
    """Search all bytes of a file; the result is cached, because a long recording is opened once for each piece."""
    if isinstance(file, io.BytesIO):
        return _FIND[kind](file.getvalue(), start)
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _known[key] = _FIND[kind](data, start)
    return _known[key]


def _flac(data: Bytes, start: int) -> list[Part]:
    starts = sorted({start, *(p for marker in _FLAC for p in _places(data, marker, start + 1))})
    return _between(starts, len(data))


def _ogg(data: Bytes, start: int) -> list[Part]:
    """Find where streams begin after others; those that begin together are sound and picture of one recording."""
    starts, end = [], -1
    for place in _places(data, _OGG, start):
        if place != end:
            starts.append(place)
        end = place + 27 + data[place + 26] + sum(data[place + 27 : place + 27 + data[place + 26]])
    return _between(starts, len(data))


def _caf(data: Bytes, start: int) -> list[Part]:
    return _between([start, *_places(data, _CAF, start + 1)], len(data))


def _sized(data: Bytes, start: int) -> list[Part]:
    """Find files that begin exactly where the header of the one before puts its end."""
    starts = []
    while size := _file_size(data, start):
        starts.append(start)
        start += size
    return _between(starts, len(data))


def _file_size(data: Bytes, start: int) -> int:
    """Bytes that the file at ``start`` has by its own header; 0 when none begins there."""
    head = data[start : start + 40]
    if head[:4] == b"RF64" and head[12:16] == b"ds64":
        return 8 + int.from_bytes(head[20:28], "little")
    if (head[:4], head[8:12]) == (b"RIFF", b"WAVE"):
        size = int.from_bytes(head[4:8], "little")
        return 8 + size + size % 2
    if (head[:4], head[8:11]) == (b"FORM", b"AIF"):
        size = int.from_bytes(head[4:8], "big")
        return 8 + size + size % 2
    if head[:8] == b"riff\x2e\x91\xcf\x11":
        return -(-int.from_bytes(head[16:24], "little") // 8) * 8
    if head[:4] == b".snd":
        return int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    return 0


def _places(data: Bytes, marker: bytes, start: int) -> Iterator[int]:
    place = data.find(marker, start)
    while place >= 0:
        yield place
        place = data.find(marker, place + 1)


def _between(starts: list[int], end: int) -> list[Part]:
    if len(starts) < 2:
        return []
    return [(b"", [(one, other)]) for one, other in pairwise([*starts, end])]


_FIND: dict[str, Callable[[Bytes, int], list[Part]]] = {
    "mp3": mpeg_parts, "flac": _flac, "ogg": _ogg, "caf": _caf, "wav": _sized, "aiff": _sized, "w64": _sized,
    "au": _sized,
}  # fmt: skip
