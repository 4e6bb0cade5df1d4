"""Dropout by bits: the right share, scaled, independent, a function of the generator."""

import pytest
import torch

from speechssl.models.kernels.choice import plain_paths
from speechssl.models.kernels.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_share_and_scale(p):
    torch.manual_seed(3)
    n = 400_003  # not a multiple of four
    y = dropout(torch.ones(n), p, training=True)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / n) ** 0.5 + 2**-17)
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - p)))


def test_neighbours_are_independent():
    torch.manual_seed(4)
    drop = 0.75 - keep_mask(torch.empty(1_000_000), 0.25)
    for lag in (1, 2, 3, 4, 5, 8):  # four elements come from one draw of 64 bits
        correlation = (drop[:-lag] * drop[lag:]).mean() / 0.1875
        assert abs(correlation.item()) < 0.005


def test_it_depends_on_the_generator_alone():
    x = torch.randn(3, 5, 7)
    torch.manual_seed(5)
    a = dropout(x, 0.4, training=True)
    b = dropout(x, 0.4, training=True)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.4, training=True), a)
    assert not torch.equal(a, b)


def test_gradient_is_the_mask():
    x = torch.randn(50, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)
    assert set(x.grad.tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients_in_every_precision(dtype):
    x = torch.randn(4, 33, dtype=dtype, requires_grad=True)
    torch.manual_seed(6)
    y = dropout(x, 0.1, training=True)
    torch.manual_seed(6)
    kept = keep_mask(x, 0.1)
    assert y.dtype == kept.dtype == dtype and set(kept.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(y, (x.detach() * kept) * (1 / 0.9))  # rounded once
    y.backward(torch.full_like(y, 3.0))
    assert torch.equal(x.grad, (3.0 * kept) * (1 / 0.9))


def test_almost_everything_dropped_is_no_error():
    assert dropout(torch.ones(10_000), 1 - 2**-20, training=True).count_nonzero() < 10


def test_in_evaluation_and_at_the_ends():
    layer, x = Dropout(0.5), torch.randn(9)
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert not Dropout(1.0).train()(x).any()
    assert dropout(x[:0], 0.5, training=True).shape == (0,)
    with plain_paths():
        torch.manual_seed(1)
        plain = layer.train()(x)
        torch.manual_seed(1)
        assert torch.equal(plain, torch.nn.functional.dropout(x, 0.5))
