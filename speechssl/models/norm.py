"""Normalisations whose statistics see valid samples and frames only, always computed in float32.

In: activations and, when a batch is padded, the valid length of each row. Out: the same shape and dtype. An utterance
is normalised alike alone and inside any padded batch; ``lengths=None`` means that nothing is padded and builds no mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LayerNorm", "TimeGroupNorm", "at_least_float32", "frame_mask", "normalise_waveform"]


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


class TimeGroupNorm(nn.Module):
    """Group norm with one group a channel (wav2vec 2.0 BASE stem): statistics of each channel over a row's valid
    frames.

    Without lengths this is ``torch.nn.GroupNorm(C, C)``. With lengths the padding does not enter the statistics, which
    the reference implementations overlook: there, an utterance's features depend on the length of its batch neighbours.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise ``x`` [B, C, F] over the first ``lengths[b]`` frames of each row (None: over all)."""
        y = at_least_float32(x)
        if lengths is None:
            return F.group_norm(y, self.weight.numel(), self.weight, self.bias, self.eps).to(x.dtype)
        valid = frame_mask(lengths, x.shape[2])[:, None, :]
        count = lengths.clamp(min=1).to(y.dtype)[:, None, None]
        mean = y.masked_fill(~valid, 0.0).sum(2, keepdim=True) / count
        variance = (y - mean).masked_fill(~valid, 0.0).square().sum(2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return ((y - mean) * scale + self.bias[:, None]).to(x.dtype)


def normalise_waveform(wave: Tensor, lengths: Tensor | None, eps: float = 1e-7) -> Tensor:
    """Give each utterance zero mean and unit variance over its valid samples; padding stays exactly 0.

    ``eps`` is added to the variance, so digital silence stays 0 instead of turning into NaN; 1e-7 is the value of the
    Hugging Face feature extractor that an exported model meets (``do_normalize``).

    Parameters
    ----------
    wave
        [B, T] samples.
    lengths
        [B] valid samples, or None when nothing is padded.
    """
    wave = at_least_float32(wave)
    if lengths is None:
        return F.layer_norm(wave, wave.shape[1:], eps=eps)
    valid = frame_mask(lengths, wave.shape[1])
    count = lengths.clamp(min=1).to(wave.dtype)[:, None]
    centred = (wave - wave.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + eps)
