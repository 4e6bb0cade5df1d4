"""Counts of samples and frames: an int for one utterance, a tensor for a batch."""

from typing import TypeVar

from torch import Tensor

__all__ = ["Samples", "check_wave", "not_negative"]

Samples = TypeVar("Samples", int, Tensor)


def not_negative(count: Samples) -> Samples:
    """Clamp a count at 0."""
    return count.clamp(min=0) if isinstance(count, Tensor) else max(0, count)


def check_wave(wave: Tensor, receptive: int) -> None:
    """Raise ValueError unless ``wave`` is [B, T] with at least ``receptive`` samples."""
    if wave.ndim != 2:
        raise ValueError(f"expected a wave of shape [batch, samples], got {list(wave.shape)}")
    if wave.shape[1] < receptive:
        raise ValueError(
            f"a batch of {wave.shape[1]} samples is shorter than one frame ({receptive} samples); "
            "leave out shorter utterances (data.min_seconds)"
        )
