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

HEADS, SIZE, KERNEL = 4, 12, 7


def commuting(generator: torch.Generator) -> torch.Tensor:
    """Return a matrix [D, D] of which ``rotate(W x) = W rotate(x)``: it mixes channels of the same frequency only.

    Channels c and c + C/2 of a head are the real and imaginary part of a number that is multiplied by another.
    """
    weight = torch.zeros(HEADS, 2, SIZE // 2, HEADS, 2, SIZE // 2)
    for c in range(SIZE // 2):
        real, imaginary = 0.5 * torch.randn(2, HEADS, HEADS, generator=generator)
        weight[:, 0, c, :, 0, c] = weight[:, 1, c, :, 1, c] = real
        weight[:, 0, c, :, 1, c], weight[:, 1, c, :, 0, c] = -imaginary, imaginary
    return weight.reshape(HEADS * SIZE, HEADS * SIZE)


def peer(position: str | None):
    """Return a random model of transformers, and our encoder with its weights.

    Its batch norm, in evaluation a factor and a shift of each channel, is part of our depthwise convolution, whose own
    norm is taken out.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=HEADS * SIZE, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=96,
        conv_dim=(16, 24), conv_kernel=(10, 3), conv_stride=(5, 2), feat_extract_norm="layer", hidden_act="swish",
        position_embeddings_type=position, conv_depthwise_kernel_size=KERNEL, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Wav2Vec2ConformerModel(config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and "inv_freq" not in name:
                noise = 0.1 * torch.randn(value.shape, generator=generator)
                value.add_(noise.abs() if name.endswith("running_var") else noise)
        for layer in model.encoder.layers if position == "rotary" else ():
            for linear in (layer.self_attn.linear_q, layer.self_attn.linear_k):
                linear.weight.copy_(commuting(generator))
                linear.bias.zero_()
    state = model.state_dict()
    own = {}
    for ours, theirs in {"feature_norm": "feature_projection.layer_norm", "projection": "feature_projection.projection",
                         "norm": "encoder.layer_norm"}.items():  # fmt: skip
        own |= {f"{ours}.{leaf}": state[f"{theirs}.{leaf}"] for leaf in ("weight", "bias")}
    modules = {"attention_norm": "self_attn_layer_norm", "attention.out": "self_attn.linear_out",
               "norm": "final_layer_norm",
               "first.norm": "ffn1_layer_norm", "first.up": "ffn1.intermediate_dense",
               "first.down": "ffn1.output_dense",
               "last.norm": "ffn2_layer_norm", "last.up": "ffn2.intermediate_dense", "last.down": "ffn2.output_dense",
               "convolution.norm": "conv_module.layer_norm"}  # fmt: skip
    for i in range(3):
        block, layer = f"blocks.{i}.", f"encoder.layers.{i}."
        for leaf in ("weight", "bias"):
            own |= {f"{block}{ours}.{leaf}": state[f"{layer}{theirs}.{leaf}"] for ours, theirs in modules.items()}
            own[f"{block}attention.qkv.{leaf}"] = torch.cat(
                [state[f"{layer}self_attn.linear_{p}.{leaf}"] for p in "qkv"]
            )
        for ours, theirs, width in (("gated", "pointwise_conv1", 2), ("out", "pointwise_conv2", 1)):
            own[f"{block}convolution.{ours}.weight"] = state[f"{layer}conv_module.{theirs}.weight"][..., 0]
            own[f"{block}convolution.{ours}.bias"] = torch.zeros(width * HEADS * SIZE)
        batch = model.encoder.layers[i].conv_module.batch_norm
        factor = batch.weight / torch.sqrt(batch.running_var + batch.eps)
        depthwise = state[f"{layer}conv_module.depthwise_conv.weight"]
        own[f"{block}convolution.depthwise.weight"] = depthwise * factor[:, None, None]
        own[f"{block}convolution.depthwise.bias"] = batch.bias - batch.running_mean * factor
    stem = {f"feature_extractor.{name}": value for name, value in model.feature_extractor.state_dict().items()}
    known = json.loads(config.to_json_string(use_diff=False)) | {
        "model_type": "wav2vec2", "do_stable_layer_norm": True, "num_hidden_layers": 0, "hidden_act": "gelu",
    }  # fmt: skip
    rest = {
        name: value for name, value in state.items() if name.startswith(("feature_projection", "encoder.layer_norm"))
    }
    rest |= {name: value for name, value in state.items() if name.startswith("encoder.pos_conv_embed.")}
    same = encoder_from_huggingface(stem | rest, known, normalize=False)
    cfg = replace(
        same.cfg.encoder, layers=3, block="conformer", conv_kernel=KERNEL, pos_depth=0,
        relative_position="rotary" if position == "rotary" else "none",
    )  # fmt: skip
    encoder = SpeechEncoder(replace(same.cfg, encoder=cfg))
    for block in encoder.blocks:
        block.convolution.depthwise_norm = nn.Identity()
    kept = {name: value for name, value in same.state_dict().items() if not name.startswith("position.")}
    encoder.load_state_dict(kept | own)
    return model, encoder.eval()


@pytest.mark.parametrize("paths", [nullcontext, plain_paths])
@pytest.mark.parametrize("position", [None, "rotary"])
def test_equal_to_wav2vec2_conformer_layer_by_layer(position, paths):
    """Transformers rotates before the projections: both are the same where these commute with the rotation."""
    model, encoder = peer(position)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    with paths(), torch.no_grad():
        ours, theirs = encoder(wave, layers=True), model(wave, output_hidden_states=True)
    assert len(ours.layers) == 4
    for a, b in zip([*ours.layers[:3], ours.x], [*theirs.hidden_states[:3], theirs.last_hidden_state], strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)
    if position:
        plain = SpeechEncoder(replace(encoder.cfg, encoder=replace(encoder.cfg.encoder, relative_position="none")))
        for block in plain.blocks:
            block.convolution.depthwise_norm = nn.Identity()
        plain.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            assert (plain.eval()(wave).x - ours.x).abs().max() > 0.01  # the rotation does matter


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
