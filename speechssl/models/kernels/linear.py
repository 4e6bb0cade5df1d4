"""Matrix products of layers on a CPU, by the library that is fastest on the processor.

In: activations and weights. Out: what ``F.linear`` gives, up to rounding. PyTorch sends float32 products to MKL, which
uses at most AVX2 on processors that are not Intel's. With AVX-512 they go to oneDNN here, which is twice as fast on an
AMD EPYC and also computes in float32 (no bfloat16 inside). Products of bfloat16 tensors on a processor without bfloat16
are computed in float32 and rounded: PyTorch's own take over ten times as long. Other dtypes, other devices and the
plain path are PyTorch's own.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.processor import processor
from speechssl.models.kernels.choice import is_plain

__all__ = ["Linear", "linear_product", "matmul", "product", "widened"]


def _onednn(x: Tensor) -> bool:
    """Say whether a float32 product with ``x`` goes to oneDNN. With AVX2 alone MKL is as fast, or faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not is_plain()
        and not torch.compiler.is_compiling()  # the compiler cannot lower it, and chooses products itself
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and processor().avx512
    )


def widened(x: Tensor) -> bool:
    """Say whether products of bfloat16 tensors on the device of ``x`` are computed in float32 and rounded."""
    return (
        x.device.type == "cpu" and not is_plain() and not torch.compiler.is_compiling() and not processor().bf16
    )  # fmt: skip


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.t() + bias`` for [N, I] and [O, I], any strides."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        # With gaps between rows oneDNN takes twice as long, or a reference kernel a thousand times as slow.
        weight = weight.t().contiguous().t() if weight.stride(0) == 1 else weight.contiguous()
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` [N, M] of two matrices, without gradients: for use inside autograd functions."""
    return _multiply(a, b.t()) if _onednn(a) and a.numel() and b.numel() else matmul(a, b)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return ``torch.matmul(a, b)``, with gradients."""
    if a.dtype == torch.bfloat16 and widened(a):
        return torch.matmul(a.float(), b.float()).to(a.dtype)
    return torch.matmul(a, b)


class _Linear(torch.autograd.Function):
    """``x @ weight.t() + bias`` and its gradients, all by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        dy = dy.contiguous()
        dx = _multiply(dy, weight.t()) if ctx.needs_input_grad[0] else None
        d_weight = _multiply(dy.t(), x.t()) if ctx.needs_input_grad[1] else None
        return dx, d_weight, dy.sum(0) if ctx.needs_input_grad[2] else None


def _rounds(x: Tensor) -> bool:
    """Say whether autocast rounds ``x`` to bfloat16."""
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and x.dtype in (torch.float32, torch.bfloat16)
    )


def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``F.linear(x, weight, bias)`` for x [..., I]."""
    if _rounds(x) and widened(x):
        with torch.autocast("cpu", enabled=False):
            x, weight = x.bfloat16().float(), weight.bfloat16().float()
            return F.linear(x, weight, None if bias is None else bias.bfloat16().float()).bfloat16()
    if not _onednn(x) or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not x.numel():
        return F.linear(x, weight, bias)
    y = cast(Tensor, _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias))
    return y.view(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear_product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        return linear_product(x, self.weight, self.bias)
