"""Layers whose weights are laid out once for oneDNN, with GELU in the epilogue of the product: for inference on a CPU.

In: weights of a trained layer. Out: a callable on frames, in the dtype it was made for. oneDNN otherwise reorders the
weights at every call, and a GELU of its own reads and writes every activation once more. On a processor without
bfloat16, for which oneDNN has no such layout, rounded factors are multiplied in float32 and the result is rounded.
"""

from typing import cast

import torch
from torch import Tensor

from speechssl.models.kernels.linear import widened

__all__ = ["Convolution", "Dense", "available", "dense"]

_ROWS = 512
"""Number of rows for which the layout of weights is chosen; any number of rows gives the same result."""


def available() -> bool:
    """Say whether this build of PyTorch has oneDNN and the operators used here."""
    names = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight", "_reorder_convolution_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _epilogue(*, gelu: bool) -> tuple[str, list[float], str]:
    return ("gelu", [], "none") if gelu else ("none", [], "")


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """Return ``x @ weight.t() + bias`` for [N, I] and [O, I], and its GELU if asked for; in the dtype of ``x``."""
    if x.dtype == torch.bfloat16 and widened(x):
        return dense(x.float(), weight.float(), None if bias is None else bias.float(), gelu=gelu).to(x.dtype)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_epilogue(gelu=gelu)))


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in ``dtype``; bfloat16 as float32 again where the processor does not compute in it."""
    weight = weight.to(dtype)
    return weight.float() if dtype == torch.bfloat16 and widened(weight) else weight


class Dense:
    """A linear layer; ``weight`` [O, I] and ``bias`` [O] are copied."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, *, gelu: bool = False) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(_rounded(weight, dtype).contiguous(), _ROWS)
        self.bias = _rounded(bias, dtype).clone()
        self.gelu = gelu

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, I] to [N, O]."""
        return dense(x, self.weight, self.bias, gelu=self.gelu)


class Convolution:
    """A convolution without padding over frames [F, C] that lie channels-last; ``weight`` [O, C, K]."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, stride: int, gelu: bool = False
    ) -> None:
        self.geometry = [0, 0], [1, stride], [1, 1], 1
        flat = _rounded(weight[:, :, None], dtype).contiguous(memory_format=torch.channels_last)
        size = [1, weight.shape[1], 1, stride * _ROWS + weight.shape[2]]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(flat, *self.geometry, size)
        self.bias = None if bias is None else _rounded(bias, dtype).clone()
        self.gelu = gelu

    def __call__(self, x: Tensor) -> Tensor:
        """Map [F, C] to [F', O]."""
        if x.dtype == torch.bfloat16 and self.weight.dtype == torch.float32:
            return self(x.float()).to(x.dtype)
        image = x.view(1, 1, *x.shape).permute(0, 3, 1, 2)
        y = torch.ops.mkldnn._convolution_pointwise(
            image, self.weight, self.bias, *self.geometry, *_epilogue(gelu=self.gelu)
        )
        return cast(Tensor, y.permute(0, 2, 3, 1)[0, 0])
