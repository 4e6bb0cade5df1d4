"""The waveform stem of one utterance, in pieces that stay in the processor's cache: for inference on a CPU.

In: samples [T]. Out: features [F, C]. The activations of the first layers are the largest of the whole model: a second
of audio is 1.6 million numbers. Frames see only their own samples, so pieces of two seconds give the same features. No
block is larger than a few megabytes: the operating system maps larger blocks anew each time, which takes longer than
the arithmetic of the first layer.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.asr.engine.onednn import Convolution, dense
from speechssl.models.norm import LayerNorm
from speechssl.models.waveform import ConvLayer, WaveformStem, folded_group_norm

__all__ = ["PackedStem"]

_ROWS = 6_400
"""Frames of the first layer in a piece: two seconds at its usual stride."""


class PackedStem:
    """The layers of a ``WaveformStem`` with the weights they had when it was made."""

    def __init__(self, stem: WaveformStem, dtype: torch.dtype) -> None:
        self.stem = stem
        self.dtype = dtype
        first, *others = (cast(ConvLayer, layer) for layer in stem.layers)
        self.first = first
        self.others = [_prepared(layer, dtype) for layer in others]
        self.unit = math.prod(layer.conv.stride[0] for layer in others)
        hop = first.conv.stride[0]
        self.reach = (stem.receptive - first.conv.kernel_size[0]) // hop + 1
        """Frames of the first layer that a frame of the last one sees."""

    def __call__(self, wave: Tensor) -> Tensor:
        """Return features [F, C] of samples [T], at least as many as one frame sees."""
        frames = self.stem.frames(len(wave))
        windows, first = self._first(wave)
        count = max(1, _ROWS // self.unit)
        pieces = []
        for start in range(0, frames, count):
            end = min(start + count, frames)
            x = first(windows[start * self.unit : (end - 1) * self.unit + self.reach])
            for layer in self.others:
                x = layer(x)
            pieces.append(x)
        return torch.cat(pieces)

    def _first(self, wave: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the windows of the first layer, and the function that maps them to its output."""
        conv, norm = self.first.conv, self.first.norm
        if isinstance(norm, torch.nn.GroupNorm):
            centred, kernels, shift = folded_group_norm(wave[None], conv, norm, None)
            kernel, shift = kernels[0].to(self.dtype), shift.to(self.dtype)
            return centred[0].to(self.dtype), lambda windows: dense(windows, kernel, shift, gelu=True)
        kernel = conv.weight[:, 0].to(self.dtype)
        bias = None if conv.bias is None else conv.bias.to(self.dtype)
        windows = wave.unfold(0, conv.kernel_size[0], conv.stride[0]).to(self.dtype)
        if norm is None:
            return windows, lambda windows: dense(windows, kernel, bias, gelu=True)
        return windows, lambda windows: F.gelu(norm(dense(windows, kernel, bias)))


def _prepared(layer: ConvLayer, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    norm = layer.norm
    product = Convolution(
        layer.conv.weight, layer.conv.bias, dtype, stride=layer.conv.stride[0], gelu=norm is None
    )  # fmt: skip
    if norm is None:
        return product
    assert isinstance(norm, LayerNorm)
    return lambda x: F.gelu(norm(product(x)))
