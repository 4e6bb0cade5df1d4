"""The audio format of a file, recognised by its bytes and never by its name.

In: the first bytes of a file. Out: a format name; which formats libsndfile reads, which only ffmpeg.
"""

from __future__ import annotations

from speechssl.data.audio.mpeg import frame_size

__all__ = [
    "AUDIO_EXTENSIONS",
    "FALLBACK_DEMUXERS",
    "FFMPEG_FORMATS",
    "HEAD_BYTES",
    "LOSSY_FORMATS",
    "sniff",
]

HEAD_BYTES = 16_384
"""Bytes at the start of a file that ``sniff`` needs."""

AUDIO_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".8svx", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".asf", ".au", ".avi", ".avr",
    ".awb", ".caf", ".dsf", ".dss", ".dts", ".eac3", ".f4v", ".flac", ".flv", ".gsm", ".m2ts", ".m4a", ".m4b", ".m4v",
    ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpc", ".mpeg", ".mpg", ".mpga", ".mts", ".oga", ".ogg", ".ogv",
    ".opus", ".pvf", ".ra", ".rf64", ".rm", ".rmvb", ".shn", ".snd", ".sph", ".spx", ".tta", ".vob", ".voc", ".w64",
    ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv",
})  # fmt: skip
"""Extensions of audio: such a file without audio goes to the ledger, any other file is ignored."""

FFMPEG_FORMATS = {
    "matroska": "matroska", "mp4": "mov", "aac": "aac", "amr": "amr", "asf": "asf", "wavpack": "wv", "shorten": "shn",
    "ape": "ape", "avi": "avi", "mpegts": "mpegts", "mpegps": "mpeg", "flv": "flv", "tta": "tta", "ac3": "ac3",
    "dts": "dts", "dsf": "dsf", "realmedia": "rm", "musepack": "mpc8",
}  # fmt: skip
"""Formats that libsndfile does not read, with the name of ffmpeg's demuxer."""

FALLBACK_DEMUXERS = {"wav": "wav", "nist": "nistsphere", "ogg": "ogg", "caf": "caf", "flac": "flac", "mp3": "mp3",
                     "aiff": "aiff", "au": "au", "w64": "w64"}  # fmt: skip
"""Containers that libsndfile reads only in part (MP3 in WAV, shorten in SPHERE, Speex in Ogg, FLAC of no length)."""

LOSSY_FORMATS = frozenset({"mp3", "ogg"})
"""Formats whose decoder needs earlier packets before a position in the middle is exact."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "flac"), (b"OggS", "ogg"), (b"NIST_1A", "nist"), (b".snd", "au"), (b"dns.", "au"),
    (b"caff", "caf"), (b"\x1a\x45\xdf\xa3", "matroska"), (b"#!AMR", "amr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"), (b"wvpk", "wavpack"), (b"ajkg", "shorten"),
    (b"MAC ", "ape"), (b"riff\x2e\x91\xcf\x11", "w64"), (b"Creative Voice File\x1a", "voc"), (b"ID3", "mp3"),
    (b"FLV\x01", "flv"), (b"TTA1", "tta"), (b"TTA2", "tta"), (b"\x7f\xfe\x80\x01", "dts"),
    (b"DSD ", "dsf"), (b".RMF", "realmedia"), (b"MPCK", "musepack"), (b"\x00\x00\x01\xba", "mpegps"),
    (b"PVF1", "pvf"), (b" paf", "paf"), (b"fap ", "paf"), (b"2BIT", "avr"), (b"\x64\xa3\x01\x00", "ircam"),
)  # fmt: skip
_MOVIE_ATOMS = (b"moov", b"mdat", b"wide", b"skip", b"free", b"pnot")
_PACKETS = ((0, 188), (4, 192))
"""(first sync byte, packet size) of transport streams: broadcast, cameras."""
_AC3 = b"\x0b\x77"
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_IMAGE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc")


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
        ``w64``, ``voc``, ``svx``, ``pvf``, ``paf``, ``avr``, ``ircam`` for libsndfile; a key of ``FFMPEG_FORMATS``
        for what only the ``ffmpeg`` program reads.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "mp3" if head[12:16] == b"fmt " and head[20:22] == b"\x55\x00" else "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"):
        return "svx"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _IMAGE_BRANDS else "mp4"
    if head[4:8] in _MOVIE_ATOMS and head[0] < 0x20:  # a size: smaller than any letters
        return "mp4"
    if any(_has_packets(head, first, step) for first, step in _PACKETS):
        return "mpegts"
    if head[:2] == _AC3 and len(head) > 5 and _is_ac3(head):
        return "ac3"
    if head[:1] == b"\xff" and len(head) > 7 and head[1] & 0xF6 == 0xF0 and _is_adts(head):
        return "aac"
    return "mp3" if _has_mpeg_frames(head) else None


def _has_packets(head: bytes, first: int, step: int) -> bool:
    """Whether three packets of a transport stream follow each other, each with a payload or adaptation field."""
    starts = range(first, first + 3 * step, step)
    return len(head) > starts[-1] + 3 and all(head[p] == 0x47 and head[p + 3] & 0x30 for p in starts)


def _is_ac3(head: bytes) -> bool:
    """Whether two AC-3 or E-AC-3 frames follow each other."""
    stream, rate, code = head[5] >> 3, head[4] >> 6, head[4] & 63
    if 11 <= stream <= 16:
        size = 2 * (((head[2] & 7) << 8 | head[3]) + 1)
    elif stream < 11 and rate < 3 and code < 2 * len(_AC3_KBITS):
        kbits = _AC3_KBITS[code >> 1]
        size = (4 * kbits, 2 * (kbits * 96_000 // 44_100 + (code & 1)), 6 * kbits)[rate]
    else:
        return False
    return head[size : size + 2] == _AC3


def _is_adts(head: bytes) -> bool:
    """Whether two AAC frames (ADTS headers) follow each other."""
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    following = head[size : size + 2]
    return size > 7 and len(following) == 2 and following[0] == 0xFF and following[1] & 0xF6 == 0xF0


def _has_mpeg_frames(head: bytes) -> bool:
    """Whether consecutive MPEG frames are found: two at the very start, three after other leading bytes.

    One sync word is not enough: UTF-16 text starts with one.
    """
    start = head.find(b"\xff")
    while 0 <= start < len(head) - 4:
        position, frames, wanted = start, 0, 2 if start == 0 else 3
        while size := frame_size(head[position : position + 4]):
            frames += 1
            position += size
            if frames >= wanted or (frames and start == 0 and position == len(head)):
                return True
        start = head.find(b"\xff", start + 1)
    return False
