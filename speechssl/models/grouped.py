"""Grouped convolution over frames as matrix products: the positional embedding's, 128 taps wide, on a CPU.

In: channels-last frames and a kernel. Out: what ``F.conv1d`` with half the kernel's width as padding gives. For one
group at a time the windows of some utterances are laid out as a matrix that stays in the cache; then output, gradient
of the input (the same convolution with the kernel turned round) and gradient of the kernel are one product each.
PyTorch's grouped convolution takes 2.5 times as long in bfloat16, most of it in its backward pass.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from speechssl.models.products import product

__all__ = ["convolve_groups"]

ROWS = 1024
"""Windows in a matrix, unless one utterance has more: 12 MB of BASE in bfloat16."""


class _Padded:
    """Frames [B, F, D] by groups, zeros before and after each utterance, and their windows of ``taps`` frames."""

    def __init__(self, x: Tensor, groups: int, taps: int, left: int) -> None:
        self.B, self.F, D = x.shape
        self.taps, self.dim = taps, D // groups
        self.frames = x.new_zeros(groups, self.B, self.F + taps - 1, self.dim)
        self.frames[:, :, left : left + self.F] = x.view(self.B, self.F, groups, self.dim).permute(2, 0, 1, 3)

    def windows(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Yield (group, utterances, their windows [b * F, taps * dim]); the matrix is used again for the next."""
        rows = max(1, ROWS // self.F)
        matrix = self.frames.new_empty(min(rows, self.B), self.F, self.taps, self.dim)
        for group, utterances in enumerate(self.frames):
            for first in range(0, self.B, rows):
                # A window is one run of memory; the next begins one frame later.
                views = utterances[first : first + rows].unfold(1, self.taps, 1).transpose(2, 3)
                filled = matrix[: len(views)].copy_(views)
                yield group, slice(first, first + len(views)), filled.view(-1, self.taps * self.dim)


def _correlate(x: Tensor, kernels: Tensor, left: int) -> Tensor:
    """Return [B, F, D] from frames [B, F, D] and kernels [groups, taps, dim in, dim out]."""
    groups, taps, _, width = kernels.shape
    B, F, _ = x.shape
    y = x.new_empty(groups, B, F, width)
    matrices = kernels.flatten(1, 2)
    for group, some, windows in _Padded(x, groups, taps, left).windows():
        y[group, some] = product(windows, matrices[group]).view(-1, F, width)
    return y.permute(1, 2, 0, 3).reshape(B, F, groups * width)


class _GroupedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
        given = x.dtype
        x, weight = x.to(dtype).contiguous(), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.groups, ctx.dtype = groups, given
        kernels = weight.unflatten(0, (groups, -1)).permute(0, 3, 2, 1)
        return _correlate(x, kernels, weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        groups, taps = ctx.groups, weight.shape[2]
        dy = grads[0].to(x.dtype).contiguous()
        dx = d_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2).unflatten(0, (groups, -1)).permute(0, 3, 1, 2)
            dx = _correlate(dy, turned, taps - 1 - taps // 2).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            width = dy.shape[2] // groups
            by_group = dy.unflatten(2, (groups, width)).permute(2, 0, 1, 3).contiguous()
            kernels = torch.zeros(groups, taps * weight.shape[1], width, dtype=ctx.dtype)
            for group, some, windows in _Padded(x, groups, taps, taps // 2).windows():
                kernels[group] += product(windows.t(), by_group[group, some].flatten(0, 1))
            d_weight = kernels.unflatten(1, (taps, -1)).permute(0, 3, 2, 1).flatten(0, 1)
        return dx, d_weight, None, None


def convolve_groups(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Convolve frames, ``kernel // 2`` zeros before each utterance and as many outputs as frames.

    Parameters
    ----------
    x
        [B, F, D] float32 on a CPU, B and F at least 1; the products are in bfloat16 under autocast.
    weight
        [D, D / groups, K] float32, as in ``nn.Conv1d``.

    Returns
    -------
    [B, F, D] in the dtype of the products.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return cast(Tensor, _GroupedConvolution.apply(x, weight, groups, dtype))
