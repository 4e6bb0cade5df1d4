"""FLAC payloads to samples, by the fastest decoder at hand; all of them give the same samples.

In: one channel of 16 bits at 16 kHz as FLAC. Out: samples, written where the caller wants them. libsndfile always can;
dr_flac (``speechssl[fast]``) is twice as fast.
"""

import io
from collections.abc import Callable

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["decode_flac", "flac_claims"]

Decode = Callable[[bytes | memoryview, str, int, np.ndarray], None]


def decode_flac(payload: bytes | memoryview, *, item: str, samples: int, start: int, out: np.ndarray) -> None:
    """Write samples from ``start`` on, as many as ``out`` (int16, contiguous) holds; it should hold ``samples`` in all.

    Raises AudioError ``undecodable``, or ``length_mismatch`` with ``samples``.
    """
    # Check first: a header that claims 2^36 samples would make the decoder allocate them.
    claimed = flac_claims(payload)
    if claimed is None:
        raise AudioError(item, "undecodable", "not a FLAC file")
    if claimed[1:] != (SAMPLE_RATE, 1, 16):
        raise AudioError(
            item, "undecodable", "{} Hz, {} channels, {} bits; shards hold 16000, 1, 16".format(*claimed[1:])
        )
    if claimed[0] != samples:
        raise AudioError(item, "length_mismatch", f"{claimed[0]} samples, the index says {samples}")
    (_decode_miniaudio or _decode_soundfile)(payload, item, start, out)


def flac_claims(payload: bytes | memoryview) -> tuple[int, int, int, int] | None:
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
