"""Strided convolution as matrix products over rows of frames, without copying a window.

A convolution of kernel K and stride S over channels-last frames needs, for output n, the frames n * S to n * S + K - 1.
The first S of them are row n of the same memory seen as [N, S * C]; the next ones are the beginning of row n + 1. So
the layer is ``ceil(K / S)`` products of (shifted) rows with a part of the kernel. Nothing is unfolded, and all work is
matrix products, in the backward pass too. On a CPU in bfloat16 this takes about half the time of ``conv1d``.
"""

from typing import Any, cast

import torch
from torch import Tensor

from speechssl.models.kernels.linear import product, widened

__all__ = ["convolve_rows"]


class _RowProducts(torch.autograd.Function):
    """``z[n] = sum over g of x[n + g, :] @ part[g].t()``; rows beyond the last count as zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        width = x.shape[1]
        n = len(x)
        # Cast to the compute dtype before transposing: the strided copy dominates. [O, taps * C] each.
        taps = kernel.to(x.dtype).split(width // kernel.shape[1], dim=2)
        parts = [some.permute(0, 2, 1).flatten(1).contiguous() for some in taps]
        z = product(x[:, : parts[0].shape[1]], parts[0].t())
        for g, part in enumerate(parts[1:], 1):
            _add_product(z[: n - g], x[g:, : part.shape[1]], part.t())
        ctx.save_for_backward(x, *parts)
        ctx.shape, ctx.dtype = kernel.shape, kernel.dtype
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        (dz,) = grads
        x, *parts = ctx.saved_tensors
        n, width = x.shape
        dz = dz.contiguous()
        d_parts = [product(dz[: n - g].t(), x[g:, : part.shape[1]]) for g, part in enumerate(parts)]
        out, channels, taps = ctx.shape
        d_kernel = torch.cat(d_parts, dim=1).view(out, taps, channels).permute(0, 2, 1).contiguous().to(ctx.dtype)
        if not ctx.needs_input_grad[0]:
            return None, d_kernel
        if parts[0].shape[1] == width:
            dx = product(dz, parts[0])
        else:
            dx = x.new_zeros(x.shape)
            dx[:, : parts[0].shape[1]] = product(dz, parts[0])
        for g, part in enumerate(parts[1:], 1):
            _add_product(dx[g:, : part.shape[1]], dz[: n - g], part)
        return dx, d_kernel


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``out``: in one call where the library accumulates, in float32 on a CPU in two."""
    if out.dtype == torch.float32 and out.device.type == "cpu":
        out.add_(product(a, b))
    elif out.dtype == torch.bfloat16 and widened(out):
        out.copy_(torch.addmm(out.float(), a.float(), b.float()))
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
    return cast(Tensor, _RowProducts.apply(x.view(-1, stride * x.shape[1]), kernel))
