"""What a shard holds for one utterance: 16-bit samples at 16 kHz, as FLAC or as they are in a WAV file.

In: samples to bytes, bytes to samples. FLAC is half the size; PCM is read several times faster. Both are
lossless, so the encoding of the shards does not change a training run by a bit.
"""

import io
import struct
from collections.abc import Callable
from typing import Literal

import numpy as np

from speechssl.data.audio import SAMPLE_RATE, encode_flac, to_int16
from speechssl.errors import AudioError, DataError

__all__ = ["EXTENSIONS", "Encoding", "decode_payload", "encode_payload", "encoding_of"]

Encoding = Literal["flac", "pcm16"]

EXTENSIONS: dict[str, str] = {"flac": "flac", "pcm16": "wav"}
"""File name extension of a payload in the tar."""

WAV_HEADER = 44


def encoding_of(settings: dict[str, object], where: str) -> Encoding:
    """Return the encoding that a folder's ``summary.json`` names.

    Raises
    ------
    DataError
        It names another one.
    """
    name = settings.get("encoding", "flac")
    if name == "flac":
        return "flac"
    if name == "pcm16":
        return "pcm16"
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
    payload: bytes | memoryview, encoding: Encoding, *, item: str, samples: int, start: int, out: np.ndarray
) -> None:
    """Write samples from ``start`` on, as many as ``out`` holds, of a payload that should hold ``samples`` of them.

    Parameters
    ----------
    out
        int16 [n], contiguous; receives the samples. Undefined after an error.

    Raises
    ------
    AudioError
        ``undecodable``, or ``length_mismatch`` with the index.
    """
    if encoding == "pcm16":
        if payload[:WAV_HEADER] != _wav_header(max(0, len(payload) - WAV_HEADER)):
            raise AudioError(item, "undecodable", "not the WAV header that was written")
        if len(payload) != WAV_HEADER + 2 * samples:
            raise AudioError(item, "length_mismatch", f"{len(payload)} bytes, the index says {samples} samples")
        np.copyto(out, np.frombuffer(payload, "<i2", len(out), WAV_HEADER + 2 * start))
        return
    # Before a decoder sees it: a header that claims 2^36 samples would make it ask for the memory.
    claimed = _flac_claims(payload)
    if claimed is None:
        raise AudioError(item, "undecodable", "not a FLAC file")
    if claimed[1:] != (SAMPLE_RATE, 1, 16):
        raise AudioError(
            item, "undecodable", "{} Hz, {} channels, {} bits; shards hold 16000, 1, 16".format(*claimed[1:])
        )
    if claimed[0] != samples:
        raise AudioError(item, "length_mismatch", f"{claimed[0]} samples, the index says {samples}")
    (_decode_miniaudio or _decode_soundfile)(payload, item, start, out)


def _flac_claims(payload: bytes | memoryview) -> tuple[int, int, int, int] | None:
    """Return (samples, rate, channels, bits) of the STREAMINFO block (RFC 9639, section 8.2); None without one."""
    if len(payload) < 42 or payload[:4] != b"fLaC" or payload[4] & 0x7F or payload[5:8] != b"\x00\x00\x22":
        return None
    packed = int.from_bytes(payload[18:26], "big")
    return packed & ((1 << 36) - 1), packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1


def _decode_soundfile(payload: bytes | memoryview, item: str, start: int, out: np.ndarray) -> None:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            if start:
                file.seek(start)
            found = len(file.read(dtype="int16", out=out)) if len(out) else 0
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(item, "undecodable", str(error)) from error
    if found != len(out):
        raise AudioError(item, "length_mismatch", f"{found} of {len(out)} samples decoded")


Decode = Callable[[bytes | memoryview, str, int, np.ndarray], None]


def _faster() -> Decode | None:
    """Return a decoder by the dr_flac in miniaudio when that is installed: the same samples in half the time.

    It is called as the C library that it is (dr_flac.h): miniaudio's own ``flac_read_s16`` decodes the whole file and
    copies it twice.
    """
    try:
        from miniaudio import ffi, lib
    except ImportError:
        return None
    if not hasattr(lib, "ma_dr_flac_read_pcm_frames_s16"):
        return None

    def decode(payload: bytes | memoryview, item: str, start: int, out: np.ndarray) -> None:
        flac = lib.ma_dr_flac_open_memory(ffi.from_buffer(payload), len(payload), ffi.NULL)
        if flac == ffi.NULL:
            raise AudioError(item, "undecodable", "not a FLAC file that dr_flac can open")
        try:
            if start and not lib.ma_dr_flac_seek_to_pcm_frame(flac, start):
                raise AudioError(item, "undecodable", f"no sample {start} in it")
            found = lib.ma_dr_flac_read_pcm_frames_s16(flac, len(out), ffi.from_buffer("short[]", out))
        finally:
            lib.ma_dr_flac_close(flac)
        if found != len(out):
            raise AudioError(item, "length_mismatch", f"{found} of {len(out)} samples decoded")

    return decode


_decode_miniaudio = _faster()
