"""The grouped convolution as matrix products against PyTorch's own: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models import grouped
from speechssl.models.grouped import convolve_groups


def tensors(B, frames, dim, groups, taps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(taps)
    x = torch.randn(B, frames, dim, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(dim, dim // groups, taps, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight


def reference(x, weight, groups):
    y = F.conv1d(x.transpose(1, 2), weight, padding=weight.shape[2] // 2, groups=groups)
    return y[..., : x.shape[1]].transpose(1, 2)


@pytest.mark.parametrize("rows", [1, 20, 1024])
@pytest.mark.parametrize(
    "shape", [(3, 13, 12, 3, 8), (2, 5, 8, 2, 16), (4, 9, 6, 1, 7), (1, 1, 4, 4, 4), (5, 11, 4, 2, 1)]
)
def test_values_and_gradients_are_those_of_conv1d(shape, rows, monkeypatch):
    """Kernels even and odd, wider than the utterance, one tap; utterances together and one by one."""
    monkeypatch.setattr(grouped, "ROWS", rows)
    x, weight = tensors(*shape)
    groups = shape[3]
    fast, plain = convolve_groups(x, weight, groups), reference(x, weight, groups)
    assert torch.allclose(fast, plain, atol=1e-12)
    towards = torch.randn(plain.shape, dtype=plain.dtype)
    for a, b in zip(
        torch.autograd.grad(fast, (x, weight), towards), torch.autograd.grad(plain, (x, weight), towards), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_frozen_input_or_kernel_gets_no_gradient():
    x, weight = tensors(2, 9, 8, 2, 4)
    convolve_groups(x.detach(), weight, 2).sum().backward()
    assert x.grad is None and weight.grad is not None
    weight.grad = None
    convolve_groups(x, weight.detach(), 2).sum().backward()
    assert weight.grad is None and x.grad is not None


def test_autocast_rounds_operands_and_nothing_else():
    x, weight = tensors(3, 40, 32, 4, 16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve_groups(x, weight, 4)
    assert y.dtype == torch.bfloat16
    rounded = [t.detach().bfloat16().double().requires_grad_() for t in (x, weight)]
    exact = reference(*rounded, 4)
    assert (y - exact).abs().max() < 2**-8 * exact.abs().max()
    y.float().sum().backward()
    exact.sum().backward()
    for fast, true in zip((x, weight), rounded, strict=True):
        assert fast.grad.dtype == torch.float32
        assert (fast.grad - true.grad).norm() < 4e-3 * true.grad.norm()
