"""What kind of audio a file is, told from its bytes and never from its name, and whether its container was cut short.

In: the first (and last) bytes of a file. Out: a format name, and for containers whose decoder would not notice a
missing end (WAV, AIFF, NIST SPHERE, Ogg: libsndfile shortens its count in silence) the reason why it is not whole.
"""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO

__all__ = [
    "AUDIO_EXTENSIONS",
    "FALLBACK_DEMUXERS",
    "FFMPEG_FORMATS",
    "HEAD_BYTES",
    "LOSSY_FORMATS",
    "cut_short",
    "sniff",
]

HEAD_BYTES = 16_384
"""How much of a file ``sniff`` wants to see."""

AUDIO_EXTENSIONS = frozenset({
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".dss", ".flac", ".gsm",
    ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".mpga", ".oga", ".ogg", ".opus", ".ra", ".shn", ".snd",
    ".sph", ".spx", ".voc", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wv",
})  # fmt: skip
"""Names that promise audio: such a file that holds none goes to the ledger, any other file is simply not ours."""

FFMPEG_FORMATS = {
    "matroska": "matroska", "mp4": "mov", "aac": "aac", "amr": "amr", "asf": "asf", "wavpack": "wv", "shorten": "shn",
    "ape": "ape",
}  # fmt: skip
"""Formats that libsndfile does not read, with the name of ffmpeg's demuxer."""

FALLBACK_DEMUXERS = {"wav": "wav", "nist": "nistsphere", "ogg": "ogg", "caf": "caf", "flac": "flac"}
"""Containers that libsndfile reads only in part (MP3 in WAV, shorten in SPHERE, Speex in Ogg, FLAC of no length)."""

LOSSY_FORMATS = frozenset({"mp3", "ogg"})
"""Formats whose decoder needs earlier packets before a position in the middle is exact."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "flac"), (b"OggS", "ogg"), (b"NIST_1A", "nist"), (b".snd", "au"), (b"dns.", "au"),
    (b"caff", "caf"), (b"\x1a\x45\xdf\xa3", "matroska"), (b"#!AMR", "amr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"), (b"wvpk", "wavpack"), (b"ajkg", "shorten"),
    (b"MAC ", "ape"), (b"riff\x2e\x91\xcf\x11", "w64"), (b"Creative Voice File\x1a", "voc"), (b"ID3", "mp3"),
)  # fmt: skip
_IMAGE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc")
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_KBITS = {
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by (1 for MPEG-1 as 3, else 2; layer III as 3, layer II as 2); MPEG-2 and 2.5 share one table for both layers
_UNKNOWN_SIZES = frozenset({0, -1, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x80000000, 0xFFFFF000})
"""Sizes that writers to a pipe leave in a header because they cannot know better."""


_CHUNKS = {
    "wav": (b"data", 4, "<I", 12, 2, False),
    "aiff": (b"SSND", 4, ">I", 12, 2, False),
    "w64": (b"data", 16, "<q", 40, 8, True),
    "caf": (b"data", 4, ">q", 8, 1, False),
}
"""(name of the chunk of samples, bytes of a name, type of a size, place of the first chunk, alignment, size counts the
chunk's header) of each chunked container."""


def sniff(head: bytes) -> str | None:
    """Return the format of a file from its first bytes, or None when it is not audio.

    Parameters
    ----------
    head
        The first ``HEAD_BYTES`` of the file (fewer for a short file; with very few, MP3 cannot be recognised).

    Returns
    -------
    str or None
        ``wav``, ``aiff``, ``flac``, ``ogg`` (Vorbis, Opus, FLAC or Speex inside), ``mp3``, ``nist``, ``au``, ``caf``,
        ``w64``, ``voc`` for libsndfile; a key of ``FFMPEG_FORMATS`` for what only the ``ffmpeg`` program reads.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _IMAGE_BRANDS else "mp4"
    if head[:1] == b"\xff" and len(head) > 7 and head[1] & 0xF6 == 0xF0 and _is_adts(head):
        return "aac"
    return "mp3" if _has_mpeg_frames(head) else None


def _is_adts(head: bytes) -> bool:
    """Whether two AAC frames (ADTS headers) follow each other."""
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    following = head[size : size + 2]
    return size > 7 and len(following) == 2 and following[0] == 0xFF and following[1] & 0xF6 == 0xF0


def _mpeg_frame_size(header: bytes) -> int:
    """Bytes of the MPEG audio frame that starts with this 4-byte header; 0 when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3  # version 3: MPEG-1, 2: MPEG-2, 0: 2.5; layer 1: III, 2: II
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer in (0, 3) or bitrate in (0, 15) or rate == 3:
        return 0
    table = _MP3_KBITS[(3, 3 if layer == 1 else 2)] if version == 3 else _MP3_KBITS[(2, 3)]
    samples_by_8 = 72 if layer == 1 and version != 3 else 144
    return samples_by_8 * table[bitrate - 1] * 1000 // _MP3_RATES[version][rate] + padding


def _has_mpeg_frames(head: bytes) -> bool:
    """Whether consecutive MPEG frames are found: two at the very start, three after leading rubbish.

    One sync word proves nothing: UTF-16 text starts with one.
    """
    start = head.find(b"\xff")
    while 0 <= start < len(head) - 4:
        position, frames, wanted = start, 0, 2 if start == 0 else 3
        while size := _mpeg_frame_size(head[position : position + 4]):
            frames += 1
            position += size
            if frames >= wanted or (frames and start == 0 and position == len(head)):
                return True
        start = head.find(b"\xff", start + 1)
    return False


def cut_short(file: BinaryIO, kind: str) -> str | None:
    """Return why the end of a container is missing, or None when it is whole (or its format cannot tell).

    Parameters
    ----------
    file
        A seekable binary file, read at its start and its end only.
    kind
        What ``sniff`` said.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    head = _read(file, 0, 4096)
    if kind == "nist":
        return _nist_cut_short(head, size)
    if kind == "ogg":
        return _ogg_cut_short(_read(file, max(0, size - 65_600), 65_600))
    claim = _au_claim(head) if kind == "au" else _chunk_claim(file, kind, head)
    if claim is None or claim[1] in _UNKNOWN_SIZES or claim[1] - (size - claim[0]) <= max(claim[1] // 100, 2):
        return None
    return f"its header promises {claim[1]:,} bytes of samples, the file holds {max(size - claim[0], 0):,}"


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _au_claim(head: bytes) -> tuple[int, int] | None:
    """Return (offset of the samples, bytes promised) of a Sun audio file."""
    order = ">" if head[:4] == b".snd" else "<"
    return (*struct.unpack(order + "II", head[4:12]),) if len(head) >= 12 else None


def _chunk_claim(file: BinaryIO, kind: str, head: bytes) -> tuple[int, int] | None:
    """Follow the chunks of RIFF, RF64, W64, IFF or CAF to the samples; return (their offset, bytes promised)."""
    if kind not in _CHUNKS:
        return None
    wanted, name_bytes, number, position, aligned, inclusive = _CHUNKS[kind]
    if head[:4] == b"RIFX":
        number = ">I"
    header_bytes = name_bytes + struct.calcsize(number)
    for _ in range(1000):
        header = _read(file, position, header_bytes)
        if len(header) < header_bytes:
            return None  # no such chunk: the decoder says so itself
        claimed = struct.unpack(number, header[name_bytes:])[0] - (header_bytes if inclusive else 0)
        if header[:4] == wanted:
            if head[:4] == b"RF64" and head[12:16] == b"ds64":
                claimed = struct.unpack("<Q", head[28:36])[0]
            return position + header_bytes, claimed
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
        return None  # the decoder judges a header it cannot read
    if b"shorten" in fields.get(b"sample_coding", b"") or claimed - (size - start) <= claimed // 100:
        return None
    return f"its header promises {claimed:,} bytes of samples, the file holds {max(size - start, 0):,}"


def _ogg_cut_short(tail: bytes) -> str | None:
    """Look whether the last Ogg page is complete. A file cut exactly between pages cannot be told from a whole one."""
    position = tail.rfind(b"OggS")
    while position >= 0:
        header = tail[position : position + 27]
        if len(header) < 27 or header[4] == 0:  # version 0; anything else is chance inside a payload
            return None if _ogg_page_end(tail, position) <= len(tail) else "its last Ogg page is incomplete"
        position = tail.rfind(b"OggS", 0, position)
    return "its last Ogg page is missing"


def _ogg_page_end(tail: bytes, position: int) -> int:
    """Where the page at ``position`` ends, or a place past the end of ``tail`` when its header is cut."""
    if len(tail) < position + 27 or len(tail) < position + 27 + tail[position + 26]:
        return len(tail) + 1
    lacing = tail[position + 27 : position + 27 + tail[position + 26]]
    return position + 27 + len(lacing) + sum(lacing)
