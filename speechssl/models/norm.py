"""Normalisations whose statistics see valid samples and frames only, always computed in float32.

In: activations and, when a batch is padded, the valid length of each row. Out: the same shape and dtype. An utterance
has the same values alone and in any padded batch; ``lengths=None`` means that nothing is padded and builds no mask.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LayerNorm",
    "at_least_float32",
    "frame_mask",
    "normalise_waveform",
    "standardise",
    "standardise_by_past",
    "weight_norm",
]


WAVEFORM_EPS = 1e-7
"""Added to the variance of a waveform, so that digital silence stays 0 instead of turning into NaN: the value of the
Hugging Face feature extractor that an exported model meets (``do_normalize``)."""


CHANNEL_EPS = 1e-5
"""Added to the variance of a channel over time."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and leave float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """Return [B, frames] bool, true on the first ``lengths[b]`` positions of row b."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dimension: computed in float32 under autocast, returned in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x`` [..., C]."""
        y = F.layer_norm(at_least_float32(x), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype)


class _WeightNorm(torch.autograd.Function):
    """Weight norm over all but the last dimension; the gradient in closed form takes half the passes over memory."""

    @staticmethod
    def forward(ctx: Any, direction: Tensor, magnitude: Tensor) -> Tensor:
        norm = direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
        ctx.save_for_backward(direction, magnitude, norm)
        return direction * (magnitude / norm)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        direction, magnitude, norm = ctx.saved_tensors
        along = (grads[0] * direction).sum(dim=(0, 1), keepdim=True) / norm
        ratio = magnitude / norm
        return (grads[0] * ratio).addcmul_(direction, ratio * along / norm, value=-1), along


def weight_norm(direction: Tensor, magnitude: Tensor) -> Tensor:
    """Return ``direction`` [O, I, K] with the length of each tap ``direction[..., k]`` set to ``magnitude`` [1, 1, K]
    (Salimans and Kingma 2016, equation 2; gradients, equation 3).
    """
    return cast(Tensor, _WeightNorm.apply(direction, magnitude))


def normalise_waveform(wave: Tensor, lengths: Tensor | None) -> Tensor:
    """Give each utterance zero mean and unit variance over its valid samples; padding stays exactly 0.

    Parameters
    ----------
    wave
        [B, T] samples.
    lengths
        [B] valid samples, or None when nothing is padded.
    """
    wave = at_least_float32(wave)
    if lengths is None:
        return F.layer_norm(wave, wave.shape[1:], eps=WAVEFORM_EPS)
    valid = frame_mask(lengths, wave.shape[1])
    count = lengths.clamp(min=1).to(wave.dtype)[:, None]
    centred = (wave - wave.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + WAVEFORM_EPS)


def standardise(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Give each channel of [B, F, C] zero mean and unit variance over each row's valid frames.

    A channel that does not change, as in digital silence, becomes 0: sums are of differences to the first frame.
    """
    x = x - x[:, :1]
    if lengths is None:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + CHANNEL_EPS)
    valid = frame_mask(lengths, x.shape[1])[..., None]
    count = lengths.clamp(min=1).to(x.dtype)[:, None, None]
    mean = x.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count
    variance = (x - mean).masked_fill(~valid, 0.0).square().sum(1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + CHANNEL_EPS)


def standardise_by_past(x: Tensor) -> Tensor:
    """Subtract from each frame of [B, F, C] the mean of the frames up to it, and divide by their deviation.

    The sums run in float64: the variance is a difference of two of them. The first frame becomes 0.
    """
    wide = x.double()
    count = torch.arange(1, x.shape[1] + 1, device=x.device)[None, :, None]
    mean = wide.cumsum(1) / count
    variance = (wide.square().cumsum(1) / count - mean.square()).clamp(min=0.0)
    return ((wide - mean) * torch.rsqrt(variance + CHANNEL_EPS)).to(x.dtype)
