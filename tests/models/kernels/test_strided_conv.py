"""Strided convolution as products of rows: the values and gradients of conv1d, for any kernel and stride."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.kernels.strided_conv import convolve_rows


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_values_and_gradients_are_those_of_conv1d(kernel, stride):
    torch.manual_seed(kernel * 10 + stride)
    frames, rows = stride * 12, 12
    x = torch.randn(frames, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, kernel, dtype=torch.float64, requires_grad=True)
    reference = F.conv1d(x.t()[None], weight, stride=stride)[0].t()
    ours = convolve_rows(x, weight, stride)
    assert ours.shape == (rows, 6)
    count = len(reference)
    assert torch.allclose(ours[:count], reference, atol=1e-12)
    upstream = torch.randn_like(reference)
    mine = torch.autograd.grad(ours[:count], (x, weight), upstream)
    theirs = torch.autograd.grad(reference, (x, weight), upstream)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_rows_beyond_the_last_frame_count_as_zeros():
    x, weight = torch.randn(8, 3), torch.randn(2, 3, 3)
    padded = F.conv1d(F.pad(x.t()[None], (0, 1)), weight, stride=2)[0].t()
    assert torch.allclose(convolve_rows(x, weight, 2), padded, atol=1e-5)


def test_an_input_that_needs_no_gradient_gets_none():
    weight = torch.randn(2, 3, 3, requires_grad=True)
    convolve_rows(torch.randn(8, 3), weight, 2).sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_agree_to_their_rounding(dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(64, 32), torch.randn(16, 32, 3)
    exact = convolve_rows(x.double(), weight.double(), 2)
    error = (convolve_rows(x.to(dtype), weight, 2).double() - exact).norm() / exact.norm()
    assert error < (1e-6 if dtype == torch.float32 else 6e-3)
