"""One recording decoded once, in bounded blocks, and everything the audit wants to know of its sound.

In: an utterance. Out: a `Measurement`: lengths, levels, silence, clipping, channels, a hash of the samples, bandwidth,
hum, signal-to-noise ratio and a fingerprint; or the reason why it cannot be decoded. Never raises for what is in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE, AudioFile, AudioLimits, mono
from speechssl.data.audio.snr import FFT, HOP, frame_power, snr_of_bands, snr_weights
from speechssl.data.audit.fingerprint import Fingerprint, fingerprint, fingerprint_weights
from speechssl.data.audit.spectrum import Activity, activity, edge_hz, edge_weights, hum_db, hum_power

__all__ = ["Job", "Measurement", "measure"]

_CLIP_WITHIN = 0.99
_HUM_FFT = 4_096


@dataclass(frozen=True)
class Job:
    """What to measure."""

    path: Path
    start: float
    duration: float | None
    """None: to the end of the file."""
    limits: AudioLimits
    thin: int
    """See ``fingerprint``."""


@dataclass(frozen=True)
class Measurement:
    """What one recording is."""

    reason: str = ""
    """Why it cannot be used (a reason of ``AudioError``); everything below is then empty."""
    detail: str = ""
    format: str = ""
    sample_rate: int = 0
    channels: int = 0
    duration: float = 0.0
    """Decoded seconds."""
    samples: int = 0
    """At 16 kHz."""
    digest: str = ""
    """Of the decoded samples, as 16-bit numbers of one channel at the file's own rate."""
    peak: float = 0.0
    clipped: float = 0.0
    """Share of samples within one per cent of the largest or the smallest."""
    dc: float = 0.0
    """Mean of the channel where it is farthest from zero."""
    correlation: float | None = None
    """Of the first two channels."""
    channel_db: tuple[float, ...] = ()
    """Level of each channel."""
    activity: Activity | None = None
    """None: shorter than two frames."""
    snr_db: float | None = None
    bandwidth: float | None = None
    """Hz: a sharp edge with nothing above; None where there is none."""
    hum: tuple[float, float] | None = None
    """(50 or 60 Hz, prominence in decibels)."""
    fingerprint: Fingerprint | None = None


def measure(job: Job) -> Measurement:
    """Decode a recording, or a part of it, and measure it."""
    try:
        with AudioFile(job.path, str(job.path), job.limits) as audio:
            rate = audio.info.sample_rate
            frames = None if job.duration is None else max(1, round(job.duration * rate))
            begin = round(job.start * rate)
            if frames is not None and audio.info.frames >= 0:
                frames = min(frames, max(1, audio.info.frames - begin))
            sound, spectrum = _Sound(audio.info.channels), _Spectrum(rate)
            for block in audio.blocks(begin, frames):
                sound.add(block)
                spectrum.add(mono(block))
            return _result(audio.info.format, rate, sound, spectrum.finish(), job.thin)
    except AudioError as error:
        return Measurement(error.reason, error.detail)


def _result(kind: str, rate: int, sound: _Sound, spectrum: _Spectrum, thin: int) -> Measurement:
    power = np.concatenate([np.zeros((0, _WIDTH), np.float32), *spectrum.power])
    snr, edge, prints = np.split(power, _SPLITS, axis=1)
    hum = np.concatenate(spectrum.hum) if spectrum.hum else None
    return Measurement(
        format=kind,
        sample_rate=rate,
        channels=sound.channels,
        duration=sound.frames / rate,
        samples=spectrum.samples,
        digest=sound.digest.hexdigest(),
        peak=sound.peak,
        clipped=sound.clipped(),
        dc=sound.dc(),
        correlation=sound.correlation(),
        channel_db=sound.levels(),
        activity=activity(edge.sum(axis=1)) if len(edge) >= 2 else None,
        snr_db=snr_of_bands(snr),
        bandwidth=edge_hz(edge),
        hum=hum_db(hum, _HUM_FFT) if hum is not None else None,
        fingerprint=fingerprint(prints, thin=thin),
    )


class _Sound:
    """Sums over the samples at the file's own rate."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.frames = 0
        self.digest = hashlib.blake2b(digest_size=16)
        self.peak = 0.0
        self._sum = np.zeros(channels)
        self._square = np.zeros(channels)
        self._product = 0.0
        self._counts = np.zeros(65_536, np.int64)

    def add(self, block: np.ndarray) -> None:
        self.frames += len(block)
        wave = mono(block)
        whole = np.clip(np.rint(wave * 32_768.0), -32_768, 32_767).astype("<i2")
        self.digest.update(whole.tobytes())
        self._sum += block.sum(axis=0, dtype=np.float64)
        self._square += np.einsum("tc,tc->c", block, block, dtype=np.float64)
        if self.channels > 1:
            self._product += float(np.dot(block[:, 0].astype(np.float64), block[:, 1]))
            whole = np.clip(np.rint(block.ravel() * 32_768.0), -32_768, 32_767).astype("<i2")
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        low, high = int(whole.min()), int(whole.max())
        self._counts[low + 32_768 : high + 32_769] += np.bincount(
            whole.astype(np.int64) - low, minlength=high - low + 1
        )

    def clipped(self) -> float:
        """Return the share of samples at the two rails; a recording that uses few values cannot be judged."""
        (used,) = np.nonzero(self._counts)
        low, high = int(used[0]) - 32_768, int(used[-1]) - 32_768
        if high - low < 400:
            return 0.0
        top = self._counts[round(max(high, 1) * _CLIP_WITHIN) + 32_768 :].sum() if high > 0 else 0
        bottom = self._counts[: round(min(low, -1) * _CLIP_WITHIN) + 32_769].sum() if low < 0 else 0
        return float(max(top, bottom) / self._counts.sum())

    def dc(self) -> float:
        mean = self._sum / max(self.frames, 1)
        return float(mean[np.argmax(np.abs(mean))])

    def levels(self) -> tuple[float, ...]:
        return tuple(float(x) for x in 10 * np.log10(self._square / max(self.frames, 1) + 1e-12))

    def correlation(self) -> float | None:
        if self.channels < 2 or min(self._square[:2]) <= 0:
            return None
        return self._product / float(np.sqrt(self._square[0] * self._square[1]))


_WEIGHTS = np.concatenate([snr_weights(), edge_weights(), fingerprint_weights()], axis=1)
_SPLITS = (snr_weights().shape[1], snr_weights().shape[1] + edge_weights().shape[1])
_WIDTH = _WEIGHTS.shape[1]


class _Spectrum:
    """Band powers of 16 kHz frames, from blocks of any size at any rate."""

    def __init__(self, rate: int) -> None:
        import soxr

        same = rate == SAMPLE_RATE
        self._stream = None if same else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._rest = np.zeros(0, np.float32)
        self._hum_rest = np.zeros(0, np.float32)
        self.power: list[np.ndarray] = []
        self.hum: list[np.ndarray] = []
        self.samples = 0

    def add(self, wave: np.ndarray) -> None:
        self._take(wave if self._stream is None else self._stream.resample_chunk(wave))

    def finish(self) -> _Spectrum:
        if self._stream is not None:
            self._take(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        return self

    def _take(self, wave: np.ndarray) -> None:
        self.samples += len(wave)
        joined = np.concatenate([self._rest, wave])
        for begin in range(0, max(len(joined) - FFT, 0) + 1, 1_000 * HOP):  # the spectra of a minute would be large
            self.power.append(frame_power(joined[begin : begin + 999 * HOP + FFT]) @ _WEIGHTS)
        frames = max(0, (len(joined) - FFT) // HOP + 1)
        self._rest = joined[frames * HOP :]
        joined = np.concatenate([self._hum_rest, wave])
        whole = len(joined) // _HUM_FFT * _HUM_FFT
        if whole:
            self.hum.append(hum_power(joined[:whole].reshape(-1, _HUM_FFT)))
        self._hum_rest = joined[whole:]
