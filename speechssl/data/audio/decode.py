"""Audio in, mono float32 at 16 kHz out.

In: a file of any name, or the bytes of one. Out: ``AudioInfo`` from its header, one waveform, or FLAC bytes. Whatever
is wrong with the input is an AudioError with a reason code for the ledger (data/audio/recording.py says which).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.data.audio.formats import sniff
from speechssl.data.audio.limits import AudioInfo, AudioLimits
from speechssl.data.audio.recording import AudioFile

__all__ = [
    "SAMPLE_RATE",
    "AudioFile",
    "AudioInfo",
    "AudioLimits",
    "decode",
    "encode_flac",
    "fit_scale",
    "mono",
    "probe",
    "resampled",
    "sniff",
    "to_int16",
]

SAMPLE_RATE = 16_000
"""Everything behind the manifest is mono at this rate (wav2vec 2.0 and HuBERT's)."""
FLAC_LEVEL = 2 / 8
"""Level 2 of 8: fixed predictors. Speech is 3 % larger than at level 5, and decoded 26 % faster in every epoch."""

_CANCELLED = 1e-3
"""Energy of the mean of several channels, relative to that of the first: below it, they cancel each other."""
_QUIETEST, _QUIET_PEAK = 2.0**-9, 2.0**-4
"""Peak below which at most six of 16 bits would be used, and the peak that such a recording is scaled to."""
_MOST_CLIPPED = 1e-3
"""Share of samples that may be clipped at full scale: decoders and resamplers overshoot in loud recordings."""

_LIMITS = AudioLimits()


def probe(source: Path | bytes, item: str = "", limits: AudioLimits = _LIMITS) -> AudioInfo:
    """Return what a recording's header says, checked against the limits; nothing is decoded.

    A format without a length in its header (read through ffmpeg) is decoded once to count its frames.

    Raises AudioError as ``AudioFile``.
    """
    with AudioFile(source, item or (str(source) if isinstance(source, Path) else "<bytes>"), limits) as audio:
        info = audio.info
        if info.frames < 0:
            frames = sum(len(block) for block in audio.blocks())
            info = AudioInfo(info.format, info.sample_rate, info.channels, frames, frames / info.sample_rate)
    return info


def decode(
    source: Path | bytes,
    *,
    item: str,
    start: float = 0.0,
    duration: float | None = None,
    channels: Literal["mean", "first"] = "mean",
    limits: AudioLimits = _LIMITS,
    rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Decode a recording, or a part of it, to one channel at ``rate``.

    Parameters
    ----------
    source
        A file or the bytes of one.
    item
        Utterance id or path, for errors.
    start, duration
        Part to decode, in seconds of the recording; None: to its end.
    channels
        How several channels become one.
    limits
        Bounds checked before decoding.
    rate
        Samples a second of the result (soxr, high quality).

    Returns
    -------
    np.ndarray
        float32 [T], full scale 1; T = frames x rate / own rate, rounded.

    Raises
    ------
    AudioError
        As ``AudioFile`` and ``AudioFile.blocks``.
    """
    with AudioFile(source, item, limits) as audio:
        own = audio.info.sample_rate
        frames = None if duration is None else max(0, round(duration * own))
        if frames is not None and audio.info.frames >= 0:  # durations are rounded to milliseconds in manifests
            overshoot = round(start * own) + frames - audio.info.frames
            frames -= min(max(overshoot, 0), own // 100)
        pieces = (mono(block, channels) for block in audio.blocks(round(start * own), frames))
        if own == rate:
            return np.concatenate(list(pieces))
        return np.concatenate(list(resampled(pieces, own, rate)))


def mono(block: np.ndarray, channels: Literal["mean", "first"] = "mean") -> np.ndarray:
    """Return [n] from [n, channels]: their mean, or the first; also the first where the channels cancel in the mean.

    Channels cancel when one has the wrong polarity (right = -left).
    """
    if block.shape[1] == 1 or channels == "first":
        return np.ascontiguousarray(block[:, 0])
    wave = block.mean(axis=1, dtype=np.float32)
    first = np.ascontiguousarray(block[:, 0])
    return first if np.dot(wave, wave) < _CANCELLED * np.dot(first, first) else wave


def resampled(pieces: Iterable[np.ndarray], own: int, rate: int) -> Iterator[np.ndarray]:
    """Yield float32 [n] pieces of one recording at ``rate`` instead of ``own`` samples a second (soxr, high quality).

    How the recording is cut into pieces does not change the samples.
    """
    import soxr

    stream = soxr.ResampleStream(own, rate, 1, dtype="float32", quality="HQ")
    for piece in pieces:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def fit_scale(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a float32 waveform whose speech survives in 16 bits, and the gain applied in dB; mostly (wave, 0).

    Float files have no full scale. One that would be clipped audibly is scaled down to it; one that is too quiet for 16
    bits is scaled up. Recordings with 16 bits stay as they are.
    """
    size = np.abs(wave)
    peak = float(size.max(initial=0.0))
    if peak > 2.0 or (peak > 1.0 and np.mean(size > 1.0) > _MOST_CLIPPED):
        gain = 1.0 / peak
    elif 0.0 < peak < _QUIETEST and not np.array_equal(np.rint(wave * 32768.0), wave * 32768.0):
        gain = _QUIET_PEAK / peak
    else:
        return wave, 0.0
    return (wave * np.float32(gain)).astype(np.float32), 20.0 * float(np.log10(gain))


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Return a non-empty float32 or int16 [T] as int16: rounded, clipped at full scale; else a ValueError."""
    if wave.ndim != 1 or not len(wave) or wave.dtype not in (np.float32, np.int16):
        raise ValueError(f"samples to encode are a non-empty float32 or int16 [T], not {wave.dtype} {wave.shape}")
    if wave.dtype == np.float32:
        return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    return wave


def encode_flac(wave: np.ndarray) -> bytes:
    """Encode one channel at 16 kHz as 16-bit FLAC; equal samples give equal bytes.

    The wave is float32 [T] with full scale 1 (rounded; clipped at full scale) or int16 [T]; ``decode`` gives int16 /
    32768. Raises ValueError for another type or shape, or no samples.
    """
    import soundfile

    buffer = io.BytesIO()
    options = {"format": "FLAC", "subtype": "PCM_16", "compression_level": FLAC_LEVEL}
    soundfile.write(buffer, to_int16(wave), SAMPLE_RATE, **options)
    return buffer.getvalue()
