"""Transformer parts against PyTorch's own modules and plain formulas."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from speechssl.config import EncoderConfig
from speechssl.models.kernels.choice import plain_paths
from speechssl.models.position import PositionalConvolution
from speechssl.models.transformer import Attention, Block

CFG = EncoderConfig(dim=16, heads=4, ffn_dim=24)


@pytest.mark.parametrize("kernel", [8, 7, 1])
def test_positional_convolution_is_torchs_weight_norm(kernel):
    torch.manual_seed(0)
    ours = PositionalConvolution(12, kernel, 3)
    conv = nn.utils.parametrizations.weight_norm(
        nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3), name="weight", dim=2
    )
    with torch.no_grad():
        ours.magnitude.mul_(1.3)
        ours.bias.normal_()
        conv.bias.copy_(ours.bias)
        conv.parametrizations.weight.original0.copy_(ours.magnitude)
        conv.parametrizations.weight.original1.copy_(ours.direction)
    x = torch.randn(2, 30, 12)
    expected = nn.functional.gelu(conv(x.transpose(1, 2))[..., :30]).transpose(1, 2)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("kernel", [8, 7, 1])
@pytest.mark.parametrize("paths", [nullcontext, plain_paths])
def test_causal_positional_convolution_against_loops(kernel, paths):
    torch.manual_seed(0)
    position = PositionalConvolution(6, kernel, 3, causal=True).double()
    nn.init.normal_(position.bias)
    x, weight = torch.randn(11, 6, dtype=torch.float64), position.weight()
    expected = position.bias.detach().repeat(11, 1)
    for f in range(11):
        for channel in range(6):
            first = channel // 2 * 2  # of the two inputs of its group
            for tap in range(kernel):
                before = f - (kernel - 1) + tap
                if before >= 0:
                    expected[f, channel] += weight[channel, :, tap] @ x[before, first : first + 2]
    with paths():
        torch.testing.assert_close(position(x[None])[0], nn.functional.gelu(expected))
    assert position.reach == (kernel - 1, 0)


def test_positional_convolution_keeps_its_kernel_in_float32_under_autocast():
    position = PositionalConvolution(8, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert position.weight().dtype == torch.float32
        assert torch.equal(position.weight(), position.weight())


def plain_attention(module: Attention, x: torch.Tensor, keys: int) -> torch.Tensor:
    """Softmax attention by loops over heads and queries, the first ``keys`` positions (or those so far) being valid."""
    q, k, v = (x @ module.qkv.weight.T + module.qkv.bias).chunk(3, -1)
    size = x.shape[1] // module.heads
    out = torch.zeros_like(x)
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        for t in range(x.shape[0]):
            seen = range(t + 1 if module.causal else keys)
            weights = torch.stack([q[t, part] @ k[j, part] / math.sqrt(size) for j in seen]).softmax(0)
            out[t, part] = sum(w * v[j, part] for j, w in enumerate(weights))
    return out @ module.out.weight.T + module.out.bias


@pytest.mark.parametrize("keys", [5, 9])
def test_attention_against_loops(keys):
    torch.manual_seed(0)
    module = Attention(EncoderConfig(dim=16, heads=4, attention_dropout=0.0)).double()
    nn.init.normal_(module.qkv.weight)
    nn.init.normal_(module.qkv.bias)
    x = torch.randn(9, 16, dtype=torch.float64)
    mask = None if keys == 9 else (torch.arange(9) < keys)[None, None, None]
    torch.testing.assert_close(module(x[None], mask)[0], plain_attention(module, x, keys))


@pytest.mark.parametrize("paths", [nullcontext, plain_paths])
@pytest.mark.parametrize("bf16", [False, True])
def test_causal_attention_against_loops(paths, bf16):
    """All frames, and some alone; in bfloat16 by the kernels of that precision."""
    torch.manual_seed(0)
    module = Attention(EncoderConfig(dim=16, heads=4, attention_dropout=0.0, causal=True)).eval()
    nn.init.normal_(module.qkv.weight, std=0.3)
    nn.init.normal_(module.qkv.bias)
    x, positions = torch.randn(2, 9, 16), torch.tensor([[8, 0, 3], [1, 1, 6]])
    expected = torch.stack([plain_attention(module, row, 9) for row in x])
    with torch.no_grad(), paths(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole, some = module(x, None), module(x, None, positions)
    close = {"atol": 0.05, "rtol": 0.05} if bf16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(whole.float(), expected, **close)
    for row in range(2):
        torch.testing.assert_close(some[row].float(), expected[row, positions[row]], **close)


def test_causal_attention_with_dropout_drops_no_future_in():
    """Where dropout leaves the fused kernel: a change of the last frame changes no frame before it."""
    module = Attention(EncoderConfig(dim=16, heads=4, attention_dropout=0.5, causal=True)).train()
    x = torch.randn(1, 9, 16)
    other = torch.cat([x[:, :-1], x[:, -1:] + 3], dim=1)
    results = []
    for given in (x, other):
        torch.manual_seed(1)
        results.append(module(given, None)[0])
    assert torch.equal(results[0][:-1], results[1][:-1])
    assert not torch.equal(results[0][-1], results[1][-1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_block_is_torchs_encoder_layer(norm, causal):
    torch.manual_seed(0)
    block = Block(replace(CFG, norm=norm, causal=causal)).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    peer = nn.TransformerEncoderLayer(16, 4, 24, activation="gelu", norm_first=norm == "pre", batch_first=True)
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight", "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.out.weight", "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "up.weight", "linear1.bias": "up.bias",
        "linear2.weight": "down.weight", "linear2.bias": "down.bias",
        "norm1.weight": "attention_norm.weight", "norm1.bias": "attention_norm.bias",
        "norm2.weight": "ffn_norm.weight", "norm2.bias": "ffn_norm.bias",
    }  # fmt: skip
    state = block.state_dict()
    peer.load_state_dict({theirs: state[ours] for theirs, ours in names.items()})
    x = torch.randn(2, 7, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(7) if causal else None
    expected = peer.eval()(x, src_mask=mask, is_causal=causal)
    torch.testing.assert_close(block(x, None), expected, atol=1e-5, rtol=1e-5)


def test_dropouts_act_in_training_only_and_where_they_should():
    torch.manual_seed(0)
    x = torch.randn(1, 200, 16)
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        off = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        block = Block(replace(CFG, **off | {name: 0.5}))
        assert not torch.equal(block(x, None), block(x, None)), name
        block.eval()
        assert torch.equal(block(x, None), block(x, None)), name
    block = Block(replace(CFG, dropout=1.0, norm="pre"))
    assert torch.equal(block(x, None), x)  # both branches dropped: only the residual is left
