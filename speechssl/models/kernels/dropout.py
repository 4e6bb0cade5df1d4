"""Dropout that costs little on a CPU: sixteen random bits per element, drawn sixty-four at a time.

In: activations. Out: the same shape, a share ``p`` of them zero, the others scaled by 1 / (1 - p). PyTorch's CPU kernel
draws one double per element, which takes longer than the layer norm beside it; here ``p`` is rounded to a multiple of
2^-16 instead. On other devices, on the plain path and inside a compiled graph, it is PyTorch's.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.kernels.choice import is_plain

__all__ = ["Dropout", "dropout", "keep_mask"]

_LEVELS = 1 << 16


def keep_mask(x: Tensor, p: float) -> Tensor:
    """Return zeros and ones of the shape and dtype of ``x``, on the CPU: zero with probability ``p`` (to the nearest
    2^-16), less than 1.

    A function of the state of PyTorch's generator of the CPU, like ``torch.rand``.
    """
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    # Compare into a floating-point mask: applying a boolean one costs ten times as much.
    kept = torch.empty(x.shape, dtype=x.dtype)
    return torch.ge(bits, min(round(p * _LEVELS), _LEVELS - 1) - _LEVELS // 2, out=kept)


class _Dropout(torch.autograd.Function):
    """Products with the mask, scaled in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept, ctx.scale = keep_mask(x, p), 1 / (1 - p)
        ctx.save_for_backward(kept)
        return (x * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grads[0] * kept).mul_(ctx.scale), None


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Set each element to zero with probability ``p`` and scale the others by 1 / (1 - p)."""
    if not training or p == 0:
        return x
    if p == 1 or x.device.type != "cpu" or is_plain() or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return cast(Tensor, _Dropout.apply(x, p))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of ``x`` in training."""
        return dropout(x, self.p, training=self.training)
