"""What a shard holds for one utterance: 16-bit samples at 16 kHz, as FLAC or as they are in a WAV file.

In: samples to bytes, bytes to samples. FLAC is half the size; PCM is read several times faster. Both are
lossless, so the encoding of the shards does not change a training run by a bit. Tars that others made hold ``foreign``
payloads: audio of any format, rate and number of channels, converted each time it is read. The CRC-32 of a payload is
checked each time, by ISA-L where it is installed (``speechssl[fast]``): eight times as fast as zlib, the same number.
"""

import struct
from typing import Literal

import numpy as np

from speechssl.core.errors import AudioError, DataError
from speechssl.data.audio.decode import SAMPLE_RATE, AudioInfo, decode, encode_flac, fit_scale, probe, to_int16
from speechssl.data.store.flac import decode_flac, flac_claims

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = [
    "EXTENSIONS",
    "Encoding",
    "StoredEncoding",
    "crc32",
    "decode_foreign",
    "decode_payload",
    "encode_payload",
    "encoding_of",
]

Encoding = Literal["flac", "pcm16"]
"""What shards are written with."""
StoredEncoding = Literal["flac", "pcm16", "foreign"]
"""What is read."""

EXTENSIONS: dict[str, str] = {"flac": "flac", "pcm16": "wav"}
"""File name extension of a payload in the tar."""

WAV_HEADER = 44


def encoding_of(settings: dict[str, object], where: str) -> StoredEncoding:
    """Return the encoding that a folder's ``summary.json`` names; DataError when it names an unknown one."""
    name = settings.get("encoding", "flac")
    if name == "flac":
        return "flac"
    if name == "pcm16":
        return "pcm16"
    if name == "foreign":
        return "foreign"
    raise DataError(f"{where}: shards in encoding {name!r}, this program reads {', '.join(EXTENSIONS)}")


def encode_payload(wave: np.ndarray, encoding: Encoding) -> bytes:
    """Return the bytes of one channel at 16 kHz; equal samples give equal bytes. Errors as in ``encode_flac``."""
    if encoding == "flac":
        return encode_flac(wave)
    data = to_int16(wave).astype("<i2").tobytes()
    return _wav_header(len(data)) + data


def _wav_header(size: int) -> bytes:
    """Return the 44 bytes before ``size`` bytes of 16-bit mono samples at 16 kHz."""
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + kind + struct.pack("<4sI", b"data", size)


def decode_payload(
    payload: bytes | memoryview, encoding: StoredEncoding, *, item: str, samples: int, start: int, out: np.ndarray
) -> None:
    """Write samples from ``start`` on, as many as ``out`` holds, of a payload that should hold ``samples`` of them.

    ``out`` is int16 [n], contiguous, and undefined after an error.

    Raises AudioError ``undecodable``, or ``length_mismatch`` with the index; of a foreign payload also as ``decode``.
    """
    if encoding == "foreign":
        encoding = _kind_of(payload, samples) or "foreign"
    if encoding == "foreign":
        _, wave, _ = decode_foreign(bytes(payload), item=item)
        if len(wave) != samples:
            raise AudioError(item, "length_mismatch", f"{len(wave)} samples decoded, the index says {samples}")
        np.copyto(out, wave[start : start + len(out)])
        return
    if encoding == "pcm16":
        if payload[:WAV_HEADER] != _wav_header(max(0, len(payload) - WAV_HEADER)):
            raise AudioError(item, "undecodable", "not the WAV header that was written")
        if len(payload) != WAV_HEADER + 2 * samples:
            raise AudioError(item, "length_mismatch", f"{len(payload)} bytes, the index says {samples} samples")
        np.copyto(out, np.frombuffer(payload, "<i2", len(out), WAV_HEADER + 2 * start))
        return
    decode_flac(payload, item=item, samples=samples, start=start, out=out)


def _kind_of(payload: bytes | memoryview, samples: int) -> Encoding | None:
    """Return the encoding of a payload that shards could hold as it is, or None."""
    if flac_claims(payload) == (samples, SAMPLE_RATE, 1, 16):
        return "flac"
    if len(payload) == WAV_HEADER + 2 * samples and payload[:WAV_HEADER] == _wav_header(2 * samples):
        return "pcm16"
    return None


def decode_foreign(payload: bytes, *, item: str) -> tuple[AudioInfo, np.ndarray, bool]:
    """Return the header, the samples as a shard would hold them, and whether the payload is one that shards hold.

    Returns
    -------
    (AudioInfo, int16 array [T] at 16 kHz, bool)

    Raises
    ------
    AudioError
        As ``decode``; ``no_samples`` when nothing is left at 16 kHz.
    """
    info = probe(payload, item)
    wave = decode(payload, item=item)
    if not len(wave):
        raise AudioError(item, "no_samples", "shorter than a sample at 16 kHz")
    samples = to_int16(fit_scale(wave)[0])
    return info, samples, _kind_of(payload, len(samples)) is not None
