"""Conformer blocks: against Wav2Vec2ConformerModel of transformers, and what transformers does otherwise."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from speechssl.config import EncoderConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.huggingface import encoder_from_huggingface
from speechssl.models.conformer import Convolution
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths
from speechssl.models.relative_position import Rotary
from tests.support.public_models import shake

HEADS, SIZE, KERNEL = 4, 12, 7


def peer(position: str | None):
    """Return a random model of transformers, and our encoder with its weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=HEADS * SIZE, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=96,
        conv_dim=(16, 24), conv_kernel=(10, 3), conv_stride=(5, 2), feat_extract_norm="layer", hidden_act="swish",
        position_embeddings_type=position, conv_depthwise_kernel_size=KERNEL, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, attn_implementation="eager",
    )  # fmt: skip
    model = shake(transformers.Wav2Vec2ConformerModel(config), seed=4)
    for layer in model.encoder.layers:  # large, so that positions matter
        for name, weight in layer.self_attn.named_parameters():
            weight.data.mul_(8.0 if name.startswith(("linear_q.w", "linear_k.w", "linear_pos")) else 1.0)
    known = json.loads(config.to_json_string(use_diff=False))
    return model, encoder_from_huggingface(model.state_dict(), known, normalize=False)


@pytest.mark.parametrize("paths", [nullcontext, plain_paths])
@pytest.mark.parametrize("position", [None, "rotary", "relative"])
def test_equal_to_wav2vec2_conformer_layer_by_layer(position, paths):
    model, encoder = peer(position)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    with paths(), torch.no_grad():
        ours, theirs = encoder(wave, layers=True), model(wave, output_hidden_states=True)
    assert len(ours.layers) == 4
    for a, b in zip([*ours.layers[:3], ours.x], [*theirs.hidden_states[:3], theirs.last_hidden_state], strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)
    if position:
        plain = SpeechEncoder(replace(encoder.cfg, encoder=replace(encoder.cfg.encoder, relative_position="none")))
        plain.load_state_dict(encoder.state_dict(), strict=False)
        with torch.no_grad():
            assert (plain.eval()(wave).x - ours.x).abs().max() > 0.01  # the positions do matter


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_frames_at_positions_are_those_of_all(position):
    _, encoder = peer(position)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[3, 50, 7], [0, 1, 200]])
    with torch.no_grad():
        all_of_them = encoder(wave).x
        some = encoder(wave, positions=positions).x
        attention = encoder.blocks[0].attention
        frames = torch.arange(all_of_them.shape[1])[None]
        relative = encoder.relative_position(frames, frames)
        whole = attention(all_of_them, None, None, relative)
        part = attention(all_of_them, None, positions, relative)
    for few, many in ((some, all_of_them), (part, whole)):
        torch.testing.assert_close(few, many.gather(1, positions[..., None].expand(-1, -1, many.shape[2])))


def test_transformers_rotates_before_the_projections_and_so_sees_more_than_distances():
    attention = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    model, _ = peer("rotary")
    layer = model.encoder.layers[0].self_attn
    torch.manual_seed(0)
    nn.init.normal_(layer.linear_q.weight, std=0.3)
    x, places = torch.randn(1, 1, HEADS * SIZE).expand(1, 30, -1), torch.arange(30)[None]
    rotation = attention.Wav2Vec2ConformerRotaryPositionalEmbedding(model.config)(x)
    with torch.no_grad():
        early = layer._apply_rotary_embedding(x, rotation)
        theirs = [
            linear(early).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for linear in (layer.linear_q, layer.linear_k)
        ]
        ours = [linear(x).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for linear in (layer.linear_q, layer.linear_k)]
        ours = Rotary(SIZE)(places, places)(*ours)
    for (q, k), relative in ((theirs, False), (ours, True)):
        scores = q @ k.transpose(-1, -2)  # frames are all the same, so that scores can differ by distance only
        moved = (scores[..., 2:, 2:] - scores[..., :-2, :-2]).abs().max() / scores.abs().max()
        assert (moved < 1e-4) == relative


def test_padding_is_zero_before_the_depthwise_convolution_where_it_is_not_in_transformers():
    model, encoder = peer(None)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    wave[1, 1_900:] = 0.0
    lengths, count = torch.tensor([3_400, 1_900]), encoder.frames(1_900)
    with torch.no_grad():
        ours, alone = encoder(wave, lengths).x[1, :count], encoder(wave[1:, :1_900]).x[0]
        theirs = model(wave, attention_mask=(torch.arange(3_400) < lengths[:, None]).long()).last_hidden_state
    torch.testing.assert_close(ours, alone, atol=2e-5, rtol=1e-4)
    assert (theirs[1, :count] - alone).abs().max() > 0.01


@pytest.mark.parametrize("causal", [False, True])
def test_convolution_against_loops(causal):
    torch.manual_seed(0)
    cfg = EncoderConfig(dim=6, conv_kernel=5, causal=causal, dropout=0.0)
    module = Convolution(cfg).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(9, 6, dtype=torch.float64)
    gates = [module.gated(module.norm(frame)) for frame in x]
    glu = [gate[:6] * gate[6:].sigmoid() for gate in gates]
    expected = []
    for f in range(9):
        y = module.depthwise.bias.clone()
        for tap in range(5):
            seen = f + tap - (4 if causal else 2)
            if 0 <= seen < 9:
                y += module.depthwise.weight[:, 0, tap] * glu[seen]
        y = (
            module.depthwise_norm.weight * (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
            + module.depthwise_norm.bias
        )
        expected.append(module.out(y * y.sigmoid()))
    torch.testing.assert_close(module(x[None], None)[0], torch.stack(expected))


@pytest.mark.parametrize("kernel", [0, 4])
def test_even_kernels_are_refused(kernel):
    with pytest.raises(ConfigError, match=f"conv_kernel = {kernel} must be odd and positive"):
        Convolution(EncoderConfig(dim=6, conv_kernel=kernel))
