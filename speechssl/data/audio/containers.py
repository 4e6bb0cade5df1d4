"""Checks whether a container is truncated, and whether its size field was filled in.

In: an opened file and its sniffed format. Out: the reason why the container is not whole, for those in which libsndfile
does not report a missing end (WAV, AIFF, NIST SPHERE, Ogg). For a container that was written to a pipe and has no size,
a file that has it.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from speechssl.data.audio.spliced import Spliced

__all__ = ["cut_short", "with_size"]

_TOPS = {"I": (2**31, 2**32), "q": (2**63,)}
_NEAR = 2**16
"""Writers to a pipe leave the largest number of their kind, less some headers, or rounded to a page."""


@dataclass(frozen=True)
class _Claim:
    """What a container's header says about its samples."""

    start: int
    """First byte of the samples."""
    size: int
    """Bytes that the header promises."""
    place: int
    """Where in the file the size is written."""
    number: str
    """How it is written, for ``struct``."""
    more: int = 0
    """Bytes that the written number counts beside the samples."""

    def unknown(self, there: int) -> bool:
        """Whether the size was never filled in, in a file that holds ``there`` bytes of samples."""
        near = any(abs(top - self.size - self.more) <= _NEAR for top in _TOPS[self.number[1]])
        return self.size <= 0 or (self.size > there and near)


_CHUNKS = {
    "wav": (b"data", 4, "<I", 12, 2, False),
    "aiff": (b"SSND", 4, ">I", 12, 2, False),
    "w64": (b"data", 16, "<q", 40, 8, True),
    "caf": (b"data", 4, ">q", 8, 1, False),
}
"""(name of the chunk of samples, bytes of a name, type of a size, place of the first chunk, alignment, size counts the
chunk's header) of each chunked container."""
_INSIDE = {"wav": 0, "aiff": 8, "w64": 0, "caf": 4}
"""Bytes between the header of the chunk and the samples."""


def cut_short(file: BinaryIO, kind: str) -> str | None:
    """Return why the end of a container is missing, or None when it is whole (or its format cannot tell).

    The file is seekable, and is read at its start and its end only; ``kind`` is what ``sniff`` said.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    head = _read(file, 0, 4096)
    if kind == "nist":
        return _nist_cut_short(head, size)
    if kind == "ogg":
        return _ogg_cut_short(_read(file, max(0, size - 65_600), 65_600))
    claim = _claim(file, kind, head)
    if (
        claim is None
        or claim.unknown(size - claim.start)
        or claim.size - (size - claim.start) <= max(claim.size // 100, 2)
    ):
        return None
    return f"its header promises {claim.size:,} bytes of samples, the file holds {max(size - claim.start, 0):,}"


def with_size(file: BinaryIO, kind: str) -> Spliced | None:
    """Return a file whose header has the true size of the samples, or None when the size needs no correction.

    Three sizes need it: one that was never filled in; one that was last filled in when the recorder had hardly begun
    (more bytes without any structure follow than it counts); and that of a WAV file beyond 4 GiB, known modulo 2**32
    only.
    """
    size = file.seek(0, os.SEEK_END)
    claim = _claim(file, kind, _read(file, 0, 4096))
    if claim is None or claim.start >= size:
        return None
    there = size - claim.start
    wrapped = claim.number == "<I" and there > claim.size and (there - claim.size) % 2**32 == 0
    behind = claim.start + max(0, claim.size + claim.size % 2)
    early = claim.number[1] == "I" and there > 2 * claim.size
    if not (claim.unknown(there) or wrapped or early) or (
        early and not wrapped and _is_chunk(file, claim, behind, size)
    ):
        return None
    most = {"I": 2**32 - 1, "q": 2**63 - 1}[claim.number[1]]
    written = struct.pack(claim.number, min(there + claim.more, most))
    return Spliced(_read(file, 0, claim.place) + written, file, [(claim.place + len(written), size)])


def _is_chunk(file: BinaryIO, claim: _Claim, place: int, size: int) -> bool:
    """Whether a chunk, and not samples, begins at a place: then the size before it is right."""
    header = _read(file, place, 8)
    if len(header) < 8 or claim.number[1] != "I" or not all(0x20 <= byte < 0x7F for byte in header[:4]):
        return False
    return place + 8 + int(struct.unpack(claim.number, header[4:])[0]) <= size


def _claim(file: BinaryIO, kind: str, head: bytes) -> _Claim | None:
    return _au_claim(head) if kind == "au" else _chunk_claim(file, kind, head)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _au_claim(head: bytes) -> _Claim | None:
    """Return what the header of a Sun audio file says."""
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 12:
        return None
    start, size = struct.unpack(order + "II", head[4:12])
    return _Claim(start, size, 8, order + "I")


def _chunk_claim(file: BinaryIO, kind: str, head: bytes) -> _Claim | None:
    """Follow the chunks of RIFF, RF64, W64, IFF or CAF to the samples."""
    if kind not in _CHUNKS:
        return None
    wanted, name_bytes, number, position, aligned, inclusive = _CHUNKS[kind]
    if head[:4] == b"RIFX":
        number = ">I"
    header_bytes = name_bytes + struct.calcsize(number)
    for _ in range(1000):
        header = _read(file, position, header_bytes)
        if len(header) < header_bytes:
            return None  # no such chunk: the decoder reports it
        claimed = struct.unpack(number, header[name_bytes:])[0] - (header_bytes if inclusive else 0)
        if header[:4] == wanted:
            start, place = position + header_bytes, position + name_bytes
            if head[:4] == b"RF64" and head[12:16] == b"ds64":
                return _Claim(start, struct.unpack("<q", head[28:36])[0], 28, "<q")
            extra = _INSIDE[kind]  # offset and block size, or the number of edits
            more = extra + (header_bytes if inclusive else 0)
            return _Claim(start + extra, claimed - extra, place, number, more)
        if claimed < 0:
            return None
        position += header_bytes + -(-claimed // aligned) * aligned
    return None


def _nist_cut_short(head: bytes, size: int) -> str | None:
    """Compare sample_count x channel_count x sample_n_bytes with the size of a NIST SPHERE file."""
    fields = dict(re.findall(rb"^(\w+) -\w+ ([^\r\n]+)", head, re.MULTILINE))
    try:
        start = int(head.split(b"\n", 2)[1])
        samples, channels = int(fields[b"sample_count"]), int(fields.get(b"channel_count", b"1"))
        claimed = samples * channels * int(fields.get(b"sample_n_bytes", b"2"))
    except (KeyError, ValueError, IndexError):
        return None  # the decoder reports a header that it cannot read
    if b"shorten" in fields.get(b"sample_coding", b"") or claimed - (size - start) <= claimed // 100:
        return None
    return f"its header promises {claimed:,} bytes of samples, the file holds {max(size - start, 0):,}"


def _ogg_cut_short(tail: bytes) -> str | None:
    """Look whether the last Ogg page is complete. A cut exactly between pages is not detected."""
    position = tail.rfind(b"OggS")
    while position >= 0:
        header = tail[position : position + 27]
        if len(header) < 27 or header[4] == 0:  # version 0; other values are payload bytes
            return None if _ogg_page_end(tail, position) <= len(tail) else "its last Ogg page is incomplete"
        position = tail.rfind(b"OggS", 0, position)
    return "its last Ogg page is missing"


def _ogg_page_end(tail: bytes, position: int) -> int:
    """Where the page at ``position`` ends, or a place past the end of ``tail`` when its header is cut."""
    if len(tail) < position + 27 or len(tail) < position + 27 + tail[position + 26]:
        return len(tail) + 1
    lacing = tail[position + 27 : position + 27 + tail[position + 26]]
    return position + 27 + len(lacing) + sum(lacing)
