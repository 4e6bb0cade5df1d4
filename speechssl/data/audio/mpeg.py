"""MPEG audio frames (MP3): the true number in a file, and the parts that libsndfile must read to decode them all.

In: an opened MP3 file. Out: the parts it was joined from, each behind a table (Xing) that counts its frames. libsndfile
takes the number of samples from the first table, or estimates it from the first bitrate. So it stops early in joined
files and in files of variable bitrate without a table. It also finds nothing after leading zeros.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import BinaryIO

from speechssl.data.audio.spliced import Part

__all__ = ["MpegPart", "after_tags", "find_parts", "frame_size", "mpeg_parts"]

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBITS = {
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by (1 for MPEG-1 as 3, else 2; layer III as 3, layer II as 2); MPEG-2 and 2.5 share one table for both layers
_SAME = bytes([0xFF, 0xFE, 0x0C])
"""Bits of a header that all frames of a stream share: sync, version, layer, rate."""
_MOST_ZEROS = 2**24
_TOLERANCE = 0.01
_TABLE_BITRATE = 0xE0
Bytes = bytes | mmap.mmap


def frame_size(header: bytes) -> int:
    """Bytes of the MPEG audio frame that starts with this 4-byte header; 0 for any other bytes."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3  # version 3: MPEG-1, 2: MPEG-2, 0: 2.5; layer 1: III, 2: II
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer in (0, 3) or bitrate in (0, 15) or rate == 3:
        return 0
    table = _KBITS[(3, 3 if layer == 1 else 2)] if version == 3 else _KBITS[(2, 3)]
    samples_by_8 = 72 if layer == 1 and version != 3 else 144
    return samples_by_8 * table[bitrate - 1] * 1000 // _RATES[version][rate] + padding


def after_tags(file: BinaryIO) -> int:
    """Return where a file begins after ID3v2 tags and leading zero bytes."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:2] == b"\0\0" and (zeros := _zeros(file, position)):
            position += zeros
        else:
            return position


def _zeros(file: BinaryIO, position: int) -> int:
    file.seek(position)
    count = 0
    while count < _MOST_ZEROS and (block := file.read(65_536)):
        rest = block.lstrip(b"\0")
        count += len(block) - len(rest)
        if rest:
            return count
    return 0


@dataclass
class MpegPart:
    """The frames from one table, or the beginning, to the next table: one encoder's output."""

    start: int
    first: bytes
    """Header of the first frame."""
    table: int | None = None
    """Frames that its table promises (0: the table gives no number); None without a table."""
    count: int = 0
    """Frames of sound; the table does not count."""
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """Bytes that hold frames of sound, (from, to)."""
    bitrates: set[int] = field(default_factory=set)

    def add(self, start: int, end: int) -> None:
        """Add a frame."""
        self.count += 1
        if self.pieces and self.pieces[-1][1] == start:
            self.pieces[-1] = (self.pieces[-1][0], end)
        else:
            self.pieces.append((start, end))

    def counted(self, end: int) -> bool:
        """Whether a decoder finds the true number of frames in a part that ends at byte ``end``.

        A table that promises more also counts: the decoder then reports what is missing.
        """
        if self.table:
            return self.count <= self.table * (1 + _TOLERANCE) + 1
        same = self.table is None and len(self.bitrates) == 1 and len(self.pieces) == 1
        return same and end - self.pieces[0][1] <= _TOLERANCE * (end - self.start)


def find_parts(data: Bytes, start: int = 0) -> list[MpegPart]:
    """Walk through a whole file from frame to frame; tags and other bytes between them are skipped.

    Raises ValueError when the rate, the layer or the number of channels changes on the way.
    """
    parts: list[MpegPart] = []
    first = b""
    position, size = _next_frame(data, start, first)
    while size:
        header = data[position : position + 4]
        first = first or header
        if _differs(header, first):
            raise ValueError(f"at byte {position:,} its rate or channels change: it was joined from unlike parts")
        end = position + size
        promised = _table(data, position)
        if not parts or promised is not None:
            parts.append(MpegPart(position, header, promised))
        if promised is None and end <= len(data):
            parts[-1].bitrates.add(header[2] >> 4)
            parts[-1].add(position, end)
        position, size = end, frame_size(data[end : end + 4])
        if not size or _differs(data[end : end + 4], first):
            position, size = _next_frame(data, end, first)
    return [part for part in parts if part.count]


def _differs(header: bytes, first: bytes) -> bool:
    """Whether two headers belong to streams of different version, layer, rate or number of channels."""
    alike = all((one ^ other) & mask == 0 for one, other, mask in zip(header, first, _SAME, strict=False))
    return not alike or (header[3] >> 6 == 3) != (first[3] >> 6 == 3)


def _next_frame(data: Bytes, start: int, first: bytes) -> tuple[int, int]:
    """Return where the next frame begins that another frame or the end follows, and its size; (end, 0) without one."""
    if data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        head = data[start : start + 10]
        start += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    position = data.find(b"\xff", start)
    while position >= 0:
        header = data[position : position + 4]
        if size := frame_size(header):
            following = data[position + size : position + size + 4]
            same = bool(frame_size(following)) and not _differs(following, header)
            ends = position + size == len(data) or following[:3] == b"TAG"
            if same or (ends and first and not _differs(header, first)):
                return position, size
        position = data.find(b"\xff", position + 1)
    return len(data), 0


def _table(data: Bytes, position: int) -> int | None:
    """Return the number of frames that a table (Xing, Info, VBRI) in this frame promises; 0: it gives no number."""
    header = data[position : position + 4]
    place = position + 4 + _side_bytes(header)
    if data[place : place + 4] in (b"Xing", b"Info"):
        return int.from_bytes(data[place + 8 : place + 12], "big") if data[place + 7] & 1 else 0
    if data[position + 36 : position + 40] == b"VBRI":
        return int.from_bytes(data[position + 50 : position + 54], "big")
    return None


def mpeg_parts(data: Bytes, start: int) -> list[Part]:
    """Return the parts that a decoder must read one after the other: (bytes to put before, pieces of the file).

    Nothing when it reads all of the file at once. ``start`` is ``after_tags`` of the file. Errors as in ``find_parts``.
    """
    if data[start : start + 1] == b"\xff" and _measured(data, start):
        return []
    parts = find_parts(data, start)
    if not parts:
        return []
    zeros = start > 1 and data[start - 1] == 0 == data[0]
    hidden = zeros or parts[0].start > start  # libsndfile needs a frame at the beginning
    if len(parts) == 1 and parts[0].counted(len(data)) and not hidden:
        return []
    ends = [part.start for part in parts[1:]] + [len(data)]
    return [
        (b"", [(part.start, end)]) if part.counted(end) else (_xing(part), part.pieces)
        for part, end in zip(parts, ends, strict=True)
    ]


def _measured(data: Bytes, start: int) -> bool:
    """Whether a table at the beginning gives the true number of bytes: then nothing was joined."""
    place = start + 4 + _side_bytes(data[start : start + 4])
    if _table(data, start) is None or data[start + 36 : start + 40] == b"VBRI" or data[place + 7] & 3 != 3:
        return False
    promised = int.from_bytes(data[place + 12 : place + 16], "big")
    return abs(promised - (len(data) - start)) <= _TOLERANCE * promised and data[0] != 0


def _xing(part: MpegPart) -> bytes:
    """Return a frame that holds nothing but the number of frames that follow."""
    header = bytes([0xFF, part.first[1] | 1, _TABLE_BITRATE | part.first[2] & 0x0C, part.first[3]])
    table = b"Xing" + (1).to_bytes(4, "big") + part.count.to_bytes(4, "big")
    return (header + bytes(_side_bytes(header)) + table).ljust(frame_size(header), b"\0")


def _side_bytes(header: bytes) -> int:
    """Bytes between the header of a frame and its table."""
    wide, single = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return (17 if single else 32) if wide else (9 if single else 17)
