"""Products through oneDNN: the values and gradients of F.linear, in true float32."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.kernels.choice import plain_paths
from speechssl.models.kernels.linear import Linear, linear_product, product


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("shape", [(7, 33), (2, 5, 33), (1, 1, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_linear(shape, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, requires_grad=True), torch.randn(19, 33, requires_grad=True)
    shift = torch.randn(19, requires_grad=True) if bias else None
    inputs = [x, weight] + ([shift] if bias else [])
    ours = linear_product(x, weight, shift)
    theirs = F.linear(x.double(), weight.double(), shift.double() if bias else None)
    assert ours.shape == (*shape[:-1], 19)
    assert relative(ours.double(), theirs) < 3e-7  # float32 products and sums: bfloat16 inside would give 3e-3
    upstream = torch.randn_like(ours)
    for mine, exact in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream.double()), strict=True
    ):
        assert mine.shape == exact.shape
        assert relative(mine.double(), exact.double()) < 5e-7


def test_matrices_with_any_strides():
    torch.manual_seed(1)
    a, b = torch.randn(40, 24)[:, 3:20], torch.randn(30, 17).t()
    assert relative(product(a, b), a @ b) < 1e-6
    assert relative(product(a.t(), a), a.t() @ a) < 1e-6
    assert relative(product(b.t(), a[:17]), b.t() @ a[:17]) < 1e-6  # gaps between the rows of the second
    assert relative(product(a, a.t()), a @ a.t()) < 1e-6
    assert product(a[:0], b).shape == (0, 30)


def test_what_is_not_float32_is_left_to_pytorch():
    layer = Linear(8, 4)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer.double()(x.double()), F.linear(x.double(), layer.weight, layer.bias))
    assert layer(x.double()[:0]).shape == (0, 4)


def test_frozen_weights_and_inputs_get_no_gradient():
    layer = Linear(6, 5)
    layer.weight.requires_grad_(False)
    x = torch.randn(2, 6, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert torch.allclose(layer.bias.grad, torch.full((5,), 2.0))


def test_the_plain_path_is_pytorchs():
    layer, x = Linear(6, 5), torch.randn(2, 6)
    with plain_paths():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
