"""Strided convolution as matrix products over rows of frames, without copying a window.

A convolution of kernel K and stride S over channels-last frames needs, for output n, the frames n * S to n * S + K - 1.
The first S of them are row n of the same memory seen as [N, S * C]; the next ones are the beginning of row n + 1. So
the layer is ``ceil(K / S)`` products of (shifted) rows with a part of the kernel: nothing is unfolded, and the matrix
unit does all of the work, in the backward pass too. On a CPU in bfloat16 this takes about half the time of ``conv1d``.
"""

from typing import Any, cast

import torch
from torch import Tensor

from speechssl.models.products import product

__all__ = ["convolve_rows"]


class _RowProducts(torch.autograd.Function):
    """``z[n] = sum over g of x[n + g, :] @ kernel part g``; rows beyond the last count as zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        n, width = x.shape
        z = product(x[:, : len(matrix)], matrix[:width])
        for g, part in enumerate(matrix.split(width)[1:], 1):
            _add_product(z[: n - g], x[g:, : len(part)], part)
        ctx.save_for_backward(x, matrix)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        (dz,) = grads
        x, matrix = ctx.saved_tensors
        n, width = x.shape
        dz = dz.contiguous()
        parts = matrix.split(width)
        d_matrix = torch.cat([product(x[g:, : len(part)].t(), dz[: n - g]) for g, part in enumerate(parts)])
        if not ctx.needs_input_grad[0]:
            return None, d_matrix
        if len(parts[0]) == width:
            dx = product(dz, parts[0].t())
        else:
            dx = x.new_zeros(x.shape)
            dx[:, : len(parts[0])] = product(dz, parts[0].t())
        for g, part in enumerate(parts[1:], 1):
            _add_product(dx[g:, : len(part)], dz[: n - g], part.t())
        return dx, d_matrix


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``out``: in one call where the library accumulates, in float32 on a CPU in two."""
    if out.dtype == torch.float32 and out.device.type == "cpu":
        out.add_(product(a, b))
    else:
        out.addmm_(a, b)


def convolve_rows(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Convolve frames without padding.

    Parameters
    ----------
    x
        [N * S, C] frames, contiguous; several utterances may follow one another, each a multiple of S frames long.
    kernel
        [O, C, K] as in ``nn.Conv1d``.
    stride
        S.

    Returns
    -------
    [N, O]; row n is output frame n. The last ``ceil(K / S) - 1`` rows of an utterance see frames of the next one (or
    zeros): the caller has at least as many frames to spare, or cuts them off.
    """
    rows = x.view(-1, stride * x.shape[1])
    matrix = kernel.permute(2, 1, 0).reshape(-1, kernel.shape[0])
    return cast(Tensor, _RowProducts.apply(rows, matrix.to(x.dtype)))
