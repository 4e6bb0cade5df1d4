"""Feed-forward branches as outputs, and blocks that see some frames only, against an encoder in plain matrices."""

import math
from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths

FRONTEND = FrontendConfig(conv_layers=((8, 10, 5), (12, 3, 2)), norm="layer")
TINY = EncoderConfig(
    dim=16, layers=3, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2,
    dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
)  # fmt: skip


def build(**changes) -> SpeechEncoder:
    """Return an encoder in float64 none of whose weights is trivial."""
    torch.manual_seed(0)
    encoder = SpeechEncoder(ModelConfig(frontend=FRONTEND, encoder=replace(TINY, **changes))).double()
    for parameter in encoder.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return encoder


def normed(norm, x):
    """Layer norm of one frame [D]."""
    return norm.weight * (x - x.mean()) / torch.sqrt(x.var(correction=0) + norm.eps) + norm.bias


def attended(module, frames):
    """Self-attention of frames [T][D], one query and one head at a time."""
    size = len(frames[0]) // module.heads
    projected = [module.qkv.weight @ x + module.qkv.bias for x in frames]
    out = []
    for query in projected:
        heads = []
        for h in range(module.heads):
            q, k, v = ((3 * module.heads * size // 3) * part + h * size for part in range(3))
            weights = torch.stack([query[q : q + size] @ x[k : k + size] / math.sqrt(size) for x in projected])
            heads.append(sum(w * x[v : v + size] for w, x in zip(weights.softmax(0), projected, strict=True)))
        out.append(module.out.weight @ torch.cat(heads) + module.out.bias)
    return out


def fed(block, x):
    """Feed-forward branch of one frame [D]."""
    return block.down.weight @ torch.nn.functional.gelu(block.up.weight @ x + block.up.bias) + block.down.bias


def reference(encoder, frames):
    """Return output and branches, [T][D] each, of frames that stand behind the positional convolution."""
    pre = encoder.cfg.encoder.norm == "pre"
    frames = frames if pre else [normed(encoder.norm, x) for x in frames]
    branches = []
    for block in encoder.blocks:
        if pre:
            sums = [
                x + y
                for x, y in zip(
                    frames, attended(block.attention, [normed(block.attention_norm, x) for x in frames]), strict=True
                )
            ]
            branch = [fed(block, normed(block.ffn_norm, x)) for x in sums]
            frames = [x + y for x, y in zip(sums, branch, strict=True)]
        else:
            mixed = attended(block.attention, frames)
            sums = [normed(block.attention_norm, x + y) for x, y in zip(frames, mixed, strict=True)]
            branch = [fed(block, x) for x in sums]
            frames = [normed(block.ffn_norm, x + y) for x, y in zip(sums, branch, strict=True)]
        branches.append(torch.stack(branch))
    return torch.stack([normed(encoder.norm, x) for x in frames] if pre else frames), branches


def positioned(encoder, x):
    """Return x [T, D] plus its positional embedding."""
    return x + encoder.position(x[None])[0]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_branches_are_those_of_the_slow_encoder(norm, plain):
    encoder = build(norm=norm).eval()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    lengths = [9, 6]
    with torch.no_grad():
        if plain:
            with plain_paths():
                output = encoder.context(x, torch.tensor(lengths), branches=True)
        else:
            output = encoder.context(x, torch.tensor(lengths), branches=True)
        assert len(output.branches) == 3
        assert torch.equal(output.x, encoder.context(x, torch.tensor(lengths)).x) or plain
        assert encoder.context(x).branches == ()
        for row, length in enumerate(lengths):
            final, branches = reference(encoder, list(positioned(encoder, x[row, :length])))
            torch.testing.assert_close(output.x[row, :length], final)
            for ours, theirs in zip(output.branches, branches, strict=True):
                torch.testing.assert_close(ours[row, :length], theirs)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_blocks_see_the_visible_frames_alone(norm):
    encoder = build(norm=norm).eval()
    x = torch.randn(3, 9, 16, dtype=torch.float64)
    lengths, rows = [9, 6, 0], [[0, 2, 3, 8], [1, 5], []]
    positions = torch.tensor([row + [0] * (4 - len(row)) for row in rows])
    output = encoder.context(
        x, torch.tensor(lengths), visible=(positions, torch.tensor([4, 2, 0])), layers=True, branches=True
    )
    assert output.x.shape == (3, 4, 16) and output.frame_lengths.tolist() == [4, 2, 0]
    assert output.x.isfinite().all()
    for row, (length, seen) in enumerate(zip(lengths[:2], rows[:2], strict=True)):
        final, branches = reference(encoder, list(positioned(encoder, x[row, :length])[seen]))
        torch.testing.assert_close(output.x[row, : len(seen)], final)
        torch.testing.assert_close(output.branches[1][row, : len(seen)], branches[1])
        assert output.layers[0].shape == (3, 4, 16)


def test_hidden_frames_reach_the_blocks_through_the_positional_convolution_alone():
    encoder = build().eval()
    x = torch.randn(1, 30, 16, dtype=torch.float64, requires_grad=True)
    visible = torch.tensor([[0, 1, 2, 3]]), torch.tensor([4])
    encoder.context(x, visible=visible).x.square().sum().backward()
    reach = 3 + TINY.pos_kernel // 2
    assert x.grad[0, :reach].abs().sum(1).min() > 0
    assert x.grad[0, reach:].abs().max() < 1e-12  # rounding of the Fourier transform


def test_positions_with_visible_frames_are_refused():
    encoder, x = build(), torch.randn(1, 4, 16, dtype=torch.float64)
    some = torch.tensor([[0]])
    with pytest.raises(ValueError, match="all frames"):
        encoder.context(x, positions=some, visible=(some, torch.tensor([1])))
    with pytest.raises(ValueError, match="all frames"):
        encoder.context(x, positions=some, branches=True)


def test_hidden_frames_become_the_mask_embedding():
    encoder, x = build(), torch.randn(1, 4, 16, dtype=torch.float64)
    hidden = encoder.hide(x, torch.tensor([[False, True, False, False]]))
    assert torch.equal(hidden[0, 1], encoder.mask_embedding)
    assert torch.equal(hidden[0, [0, 2, 3]], x[0, [0, 2, 3]])
