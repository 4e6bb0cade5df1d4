"""FLAC payloads to samples, by the fastest decoder at hand; all of them give the same samples.

In: one channel of 16 bits at 16 kHz as FLAC. Out: samples, written where the caller wants them. libsndfile always can;
dr_flac (``speechssl[fast]``) is twice as fast; code compiled for this processor (by numba, which librosa brings) twice
as fast again, once a process has decoded so much that loading the compiler will pay.
"""

import importlib
import io
import logging
import threading
from collections.abc import Callable

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE, encode_flac

__all__ = ["PAYS_AFTER", "decode_flac", "flac_claims"]

PAYS_AFTER = 5 * 3600 * SAMPLE_RATE
"""Samples after which a process uses compiled code: numba takes half a second to a second to load, and the first time
ever on a machine some five seconds to compile; five hours are one and a half seconds of dr_flac."""
REFUSALS = 100
"""Payloads that compiled code may refuse before it is asked no more: these shards are not for it."""

KNOWN = 20_000
"""Samples on which compiled code is tried before it is used."""

log = logging.getLogger("speechssl")

Decode = Callable[[bytes | memoryview, str, int, np.ndarray], None]
Frames = Callable[[np.ndarray, int, int, np.ndarray, np.ndarray], int]


def decode_flac(payload: bytes | memoryview, *, item: str, samples: int, start: int, out: np.ndarray) -> None:
    """Write samples from ``start`` on, as many as ``out`` (int16, contiguous) holds; it should hold ``samples`` in all.

    Raises
    ------
    AudioError
        ``undecodable``, or ``length_mismatch`` with ``samples``.
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
    if not _compiled.decode(payload, start, out):
        (_decode_miniaudio or _decode_soundfile)(payload, item, start, out)


def flac_claims(payload: bytes | memoryview) -> tuple[int, int, int, int] | None:
    """Return (samples, rate, channels, bits) of the STREAMINFO block (RFC 9639, section 8.2); None without one."""
    if len(payload) < 42 or payload[:4] != b"fLaC" or payload[4] & 0x7F or payload[5:8] != b"\x00\x00\x22":
        return None
    packed = int.from_bytes(payload[18:26], "big")
    return packed & ((1 << 36) - 1), packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1


def _first_frame(payload: bytes | memoryview) -> int:
    """Return the byte after all metadata blocks (section 8.1); the end when they do not end before."""
    place, last = 4, False
    while not last and place + 4 <= len(payload):
        last = bool(payload[place] & 0x80)
        place += 4 + int.from_bytes(payload[place + 1 : place + 4], "big")
    return min(place, len(payload))


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


class _Compiled:
    """The decoder of ``flac_frames``, from the moment on that it pays; whatever it refuses is for the others."""

    def __init__(self, pays_after: int = PAYS_AFTER) -> None:
        self._left, self._refused = pays_after, 0
        self._frames: Frames | None = None
        self._scratch = threading.local()

    def decode(self, payload: bytes | memoryview, start: int, out: np.ndarray) -> bool:
        """Write samples as ``decode_flac`` does and return True, or return False: ``out`` is then undefined."""
        if self._frames is None:
            if self._left > 0:  # a race may miscount or load it twice, which is harmless
                self._left -= len(out)
                if self._left <= 0:
                    self._frames = _load()
            return False
        if start > len(out):  # most of it would be decoded for nothing, where the others find a place by search
            return False
        most = int.from_bytes(payload[10:12], "big")
        room = getattr(self._scratch, "room", None)
        if room is None or len(room) < most:
            room = self._scratch.room = np.empty(most, np.int32)
        done = self._frames(_stream(payload), _first_frame(payload), start, out, room) >= start + len(out)
        if not done:
            self._refused += 1
            if self._refused >= REFUSALS:
                self._frames = None
        return done


def _load() -> Frames | None:
    """Return the compiled decoder; None where there is none, or it does not give the samples of a known stream."""
    try:
        decode: Frames = importlib.import_module("speechssl.data.store.flac_frames").decode_frames
        known = (np.random.default_rng(0).normal(0, 2000, KNOWN) * np.hanning(KNOWN)).astype(np.int16)
        stream = encode_flac(known)
        found = np.zeros_like(known)
        done = decode(_stream(stream), _first_frame(stream), 0, found, np.empty(KNOWN, np.int32))
        if done == KNOWN and np.array_equal(found, known):
            return decode
        reason = "compiled code gave other samples"
    except Exception as error:  # a failed compilation costs speed only: fall back
        reason = str(error)
    log.info("FLAC is not decoded by numba: %s", reason)
    return None


def _stream(payload: bytes | memoryview) -> np.ndarray:
    """Return a payload as the read-only bytes that compiled code takes."""
    stream = np.frombuffer(payload, np.uint8)
    stream.flags.writeable = False
    return stream


_compiled = _Compiled()
