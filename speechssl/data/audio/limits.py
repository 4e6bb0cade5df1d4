"""Limits on audio, most of them checked before anything is decoded: sizes, rates, channels, lengths, amplitudes.

In: values of a header, or decoded blocks. Out: nothing, or an AudioError with the reason code that ledgers count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechssl.core.errors import AudioError

__all__ = ["AudioInfo", "AudioLimits", "check_claims", "check_samples"]


@dataclass(frozen=True)
class AudioLimits:
    """Limits that are checked before the first sample is decoded, so that decoding has a bounded cost."""

    max_bytes: int = 64 * 2**20
    """Largest payload taken from memory (a shard member)."""
    max_file_bytes: int = 16 * 2**30
    """Largest file; files are read in blocks, never whole."""
    max_channels: int = 16
    min_rate: int = 4_000
    max_rate: int = 192_000
    max_seconds: float = 6 * 3600.0
    max_amplitude: float = 8.0
    """Full scale is 1; float files above this do not hold audio."""


@dataclass(frozen=True)
class AudioInfo:
    """What a header says; ``frames`` counts samples of one channel at ``sample_rate``."""

    format: str
    sample_rate: int
    channels: int
    frames: int
    duration: float


def check_claims(item: str, sample_rate: int, channels: int, frames: int, limits: AudioLimits) -> None:
    """Raise AudioError when a header is outside the limits (``frames`` < 0: the header does not give the length)."""
    if not limits.min_rate <= sample_rate <= limits.max_rate:
        detail = f"{sample_rate:,} Hz is outside {limits.min_rate:,} to {limits.max_rate:,} Hz"
        raise AudioError(item, "sample_rate", detail)
    if not 1 <= channels <= limits.max_channels:
        raise AudioError(item, "channels", f"{channels} channels; at most {limits.max_channels} are read")
    if frames == 0:
        raise AudioError(item, "no_samples", "a valid header with no audio after it")
    if frames > limits.max_seconds * sample_rate:
        detail = f"its header claims {frames / sample_rate:,.0f} s; the limit is {limits.max_seconds:,.0f} s"
        raise AudioError(item, "too_long", detail)


def check_samples(item: str, block: np.ndarray, limits: AudioLimits) -> None:
    """Raise AudioError when decoded samples are not finite, or far beyond full scale."""
    peak = float(np.max(np.abs(block), initial=0.0))  # max propagates NaN and infinity
    if not np.isfinite(peak):
        raise AudioError(item, "not_finite", "NaN or infinite samples")
    if peak > limits.max_amplitude:
        raise AudioError(item, "out_of_scale", f"a sample of {peak:.3g}; full scale is 1: divide its samples")
