"""Dropout that costs little on a CPU: sixteen random bits an element, drawn sixty-four at a time.

In: activations. Out: the same shape, a share ``p`` of them zero, the others scaled by 1 / (1 - p). PyTorch's CPU kernel
draws one double a element, which takes longer than the layer norm beside it; here ``p`` is rounded to a multiple of
2^-16 instead. On other devices, and on the plain path, it is PyTorch's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.models.paths import is_plain

__all__ = ["Dropout", "drop_mask", "dropout"]

_LEVELS = 1 << 16


def drop_mask(x: Tensor, p: float) -> Tensor:
    """Return a bool tensor of the shape of ``x``, true with probability ``p`` (to the nearest 2^-16).

    A function of the state of PyTorch's generator of the CPU, like ``torch.rand``.
    """
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return bits < round(p * _LEVELS) - _LEVELS // 2


def dropout(x: Tensor, p: float, *, training: bool) -> Tensor:
    """Set each element to zero with probability ``p`` and scale the others by 1 / (1 - p)."""
    if not training or p == 0:
        return x
    if p == 1 or x.device.type != "cpu" or is_plain():
        return F.dropout(x, p)
    return (x * (1 / (1 - p))).masked_fill(drop_mask(x, p), 0.0)


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of ``x`` in training."""
        return dropout(x, self.p, training=self.training)
