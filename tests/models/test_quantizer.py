"""The Gumbel product quantiser: values, gradients, statistics, precision."""

import math

import pytest
import torch
from torch.nn import functional as F

from speechssl.core.errors import ConfigError
from speechssl.models.quantizer import GumbelQuantizer


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return GumbelQuantizer(dim_in=12, groups=2, entries=5, dim_out=8)


def lookup(quantizer, indices):
    """Return the chosen entries by plain loops."""
    rows = [torch.cat([quantizer.codebooks[g, int(v)] for g, v in enumerate(row)]) for row in indices]
    return torch.stack(rows)


def test_evaluation_takes_the_largest_logit(quantizer):
    x = torch.randn(40, 12)
    out = quantizer.eval()(x, 2.0)
    logits = (x @ quantizer.weight_proj.weight.T + quantizer.weight_proj.bias).view(40, 2, 5)
    assert torch.equal(out.indices, logits.argmax(-1))
    assert torch.equal(out.codes_vectors, lookup(quantizer, out.indices))
    assert torch.equal(quantizer(x).codes_vectors, out.codes_vectors)  # no noise at all
    torch.testing.assert_close(out.probs_mean, logits.softmax(-1).mean(0))


def test_training_is_hard_forward_and_soft_backward(quantizer):
    x = torch.randn(6, 12, requires_grad=True)
    noise = -torch.log(-torch.log(torch.rand(6, 2, 5)))
    weight = torch.randn(6, 8)
    out = quantizer(x, 0.7, noise=noise)
    assert torch.equal(out.codes_vectors, lookup(quantizer, out.indices))
    (out.codes_vectors * weight).sum().backward()
    gradient, x.grad = x.grad.clone(), None
    books, quantizer.codebooks.grad = quantizer.codebooks.grad.clone(), None
    soft = ((F.linear(x, quantizer.weight_proj.weight).view(6, 2, 5) + noise) / 0.7).softmax(-1)
    assert torch.equal(out.indices, soft.argmax(-1))
    mixed = torch.einsum("ngv,gvd->ngd", soft, quantizer.codebooks.detach()).flatten(1)
    (mixed * weight).sum().backward()
    torch.testing.assert_close(gradient, x.grad)
    # The codebook's gradient is that of the hard choice: only chosen entries move.
    expected = torch.zeros_like(books)
    for n, row in enumerate(out.indices):
        for g, v in enumerate(row):
            expected[g, v] += weight[n].view(2, 4)[g]
    torch.testing.assert_close(books, expected)


def test_temperature_sharpens_the_gradient_path_only(quantizer):
    x, noise = torch.randn(6, 12), torch.zeros(6, 2, 5)
    hot, cold = (quantizer(x, t, noise=noise) for t in (2.0, 0.1))
    assert torch.equal(hot.indices, cold.indices)
    assert torch.equal(hot.probs_mean, cold.probs_mean)


def test_choices_follow_the_softmax():
    """The Gumbel maximum of logits l is distributed as softmax(l) (Jang et al., 2017)."""
    torch.manual_seed(1)
    quantizer = GumbelQuantizer(1, 1, 4, 2)
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    with torch.no_grad():
        quantizer.weight_proj.weight.zero_()
        quantizer.weight_proj.bias.copy_(logits)
    out = quantizer(torch.zeros(40_000, 1), 2.0)
    shares = torch.bincount(out.indices[:, 0], minlength=4) / 40_000
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)
    torch.testing.assert_close(out.probs_mean[0], logits.softmax(0))


def test_perplexities_of_known_distributions():
    quantizer = GumbelQuantizer(3, 2, 4, 2).eval()
    with torch.no_grad():
        quantizer.weight_proj.weight.zero_()
        quantizer.weight_proj.bias.copy_(torch.tensor([0.0, 0, 0, 0, 200, 0, 0, 0]))
    out = quantizer(torch.randn(9, 3))
    torch.testing.assert_close(out.perplexity, torch.tensor([4.0, 1.0]))  # uniform, certain
    torch.testing.assert_close(out.code_perplexity, torch.tensor([1.0, 1.0]))
    out.perplexity.sum().backward()
    assert quantizer.weight_proj.bias.grad.isfinite().all()  # also where a probability underflows to 0


def test_statistics_average_over_the_given_frames(quantizer):
    quantizer.eval()
    x = torch.randn(10, 12)
    whole = quantizer(x)
    parts = [quantizer(row[None]).probs_mean for row in x]
    torch.testing.assert_close(whole.probs_mean, torch.stack(parts).mean(0))
    counts = torch.bincount(whole.indices[:, 0], minlength=5).double() / 10
    entropy = -sum(p * math.log(p) for p in counts.tolist() if p > 0)
    assert float(whole.code_perplexity[0]) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_no_frames_at_all(quantizer):
    out = quantizer(torch.zeros(0, 12), 1.0)
    assert out.codes_vectors.shape == (0, 8)
    assert out.indices.shape == (0, 2)
    (out.codes_vectors.sum() + out.perplexity.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantizer.parameters())


def test_float32_inside_autocast(quantizer):
    x = torch.randn(30, 12)
    quantizer.eval()
    expected = quantizer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(x)
    assert out.codes_vectors.dtype == out.probs_mean.dtype == torch.float32
    assert torch.equal(out.probs_mean, expected.probs_mean)
    assert quantizer(x.bfloat16()).probs_mean.dtype == torch.float32


def test_initialisation():
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(256, 2, 320, 256).requires_grad_(False)
    assert float(quantizer.weight_proj.weight.std()) == pytest.approx(1.0, abs=0.01)
    assert not quantizer.weight_proj.bias.any()
    assert 0 <= float(quantizer.codebooks.min()) < float(quantizer.codebooks.max()) < 1
    assert float(quantizer.codebooks.mean()) == pytest.approx(0.5, abs=0.01)


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="256 dimensions cannot be split into 3 groups"):
        GumbelQuantizer(16, 3, 320, 256)
