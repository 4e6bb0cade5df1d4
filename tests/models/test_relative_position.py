"""Relative positions in attention: against transformers, and at the places of visible frames."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.huggingface import encoder_from_huggingface
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.relative_position import Alibi, BucketedBias, Rotary

FRONTEND = FrontendConfig(conv_layers=((8, 10, 5), (12, 3, 2)), norm="layer")
TINY = EncoderConfig(
    dim=16, layers=3, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2,
    dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
)  # fmt: skip
KINDS = pytest.mark.parametrize("kind", ["gated", "alibi", "rotary"])


def build(kind: str, **changes: object) -> SpeechEncoder:
    """Return an encoder in float64 none of whose weights is trivial."""
    torch.manual_seed(0)
    cfg = replace(TINY, relative_position=kind, **changes)  # type: ignore[arg-type]
    encoder = SpeechEncoder(ModelConfig(frontend=FRONTEND, encoder=cfg)).double()
    for name, parameter in encoder.named_parameters():
        parameter.data.add_((2.0 if "relative" in name or "gate" in name else 0.2) * torch.randn_like(parameter))
    return encoder


# ------------------------------------------------------------------------------------------- transformers


def wavlm(*, stable: bool):
    """Return a random WavLM of transformers, and our encoder with its weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.WavLMConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, conv_dim=(16, 24),
        conv_kernel=(10, 3), conv_stride=(5, 2), feat_extract_norm="layer", num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, do_stable_layer_norm=stable, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.WavLMModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            wide = any(part in name for part in ("rel_attn", "gru_rel", "q_proj", "k_proj"))
            value.add_((0.5 if wide else 0.1) * torch.randn_like(value))
    state = model.state_dict()
    plain = {name: value for name, value in state.items() if "rel_attn" not in name and "gru_rel" not in name}
    known = json.loads(config.to_json_string(use_diff=False)) | {"model_type": "wav2vec2"}
    same = encoder_from_huggingface(plain, known, normalize=False)
    own = {"relative_position.embedding": state["encoder.layers.0.attention.rel_attn_embed.weight"]}
    for i in range(3):
        theirs, ours = f"encoder.layers.{i}.attention.gru_rel_pos_", f"blocks.{i}.attention.gate."
        for leaf in ("weight", "bias"):  # theirs has eight outputs and adds them four by four
            own[f"{ours}project.{leaf}"] = state[f"{theirs}linear.{leaf}"].unflatten(0, (2, 4)).sum(1)
        own[f"{ours}scale"] = state[f"{theirs}const"].flatten()
    encoder = SpeechEncoder(replace(same.cfg, encoder=replace(same.cfg.encoder, relative_position="gated")))
    encoder.load_state_dict(same.state_dict() | own)
    return model, encoder.eval()


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("stable", [False, True])
def test_gated_bias_is_that_of_wavlm_layer_by_layer(stable):
    model, encoder = wavlm(stable=stable)
    generator = torch.Generator().manual_seed(1)
    wave, lengths = torch.randn(2, 3_400, generator=generator), torch.tensor([3_400, 1_900])
    wave[1, 1_900:] = 0.0
    given = torch.arange(3_400) < lengths[:, None]
    with torch.no_grad():
        ours = encoder(wave, lengths, layers=True)
        theirs = model(wave, attention_mask=given.long(), output_hidden_states=True)
        encoder.relative_position.embedding.zero_()
        assert (encoder(wave, lengths).x - ours.x).abs().max() > 0.05  # the bias does matter
    assert len(ours.layers) == len(theirs.hidden_states) == 4
    final = [*theirs.hidden_states[:3], theirs.last_hidden_state]
    for row, count in enumerate(ours.frame_lengths.tolist()):
        for a, b in zip([*ours.layers[:3], ours.x], final, strict=True):
            torch.testing.assert_close(a[row, :count], b[row, :count], atol=2e-5, rtol=1e-4)


def test_buckets_are_those_of_wavlm():
    attention = pytest.importorskip("transformers.models.wavlm.modeling_wavlm").WavLMAttention
    offset = torch.arange(-2_000, 2_001)
    for buckets, distance in ((320, 800), (32, 100)):
        theirs = attention(8, 2, num_buckets=buckets, max_distance=distance)._relative_positions_bucket(offset)
        assert torch.equal(BucketedBias(2, buckets, distance).bucket(offset), theirs)
        assert set(theirs.tolist()) <= set(range(buckets))


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 20])
def test_slopes_are_those_of_alibi(heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    theirs = bloom.build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(Alibi(heads).slopes, theirs)


def test_alibi_falls_by_the_learned_slope_on_both_sides():
    alibi = Alibi(4).double()
    torch.testing.assert_close(alibi.scale, torch.ones(4, dtype=torch.float64), rtol=0, atol=0)
    alibi.scale.data.copy_(torch.tensor([1.0, 2.5, 0.5, -3.0]))
    queries, keys = torch.tensor([[2, 9], [0, 1]]), torch.tensor([[0, 2, 5], [4, 4, 8]])
    bias = alibi(queries, keys)
    slopes = [2.0**-2, 2.5 * 2.0**-4, 0.5 * 2.0**-6, 0.0]  # a negative scale counts as 0
    for row, head, i, j in itertools.product(range(2), range(4), range(2), range(3)):
        expected = -slopes[head] * abs(int(queries[row, i]) - int(keys[row, j]))
        assert bias[row, head, i, j].item() == pytest.approx(expected, abs=1e-12)
    assert "slopes" not in alibi.state_dict()


def test_rotary_is_that_of_llama():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 16)
    places = torch.arange(40)[None]
    angles = places[0, :, None] / 10_000.0 ** (torch.arange(0, 16, 2) / 16)
    angles = torch.cat([angles, angles], dim=1)[None]
    theirs = llama.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for a, b in zip(Rotary(16)(places, places)(q, k), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(1, 2, 1, 8, dtype=torch.float64), torch.randn(1, 2, 1, 8, dtype=torch.float64)
    products = []
    for i, j in ((0, 7), (5, 12), (90, 97), (7, 0)):
        a, b = Rotary(8)(torch.tensor([[i]]), torch.tensor([[j]]))(q, k)
        products.append((a * b).sum(-1))
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[2])
    assert (products[0] - products[3]).abs().min() > 1e-3
    with pytest.raises(ConfigError, match="even number of channels a head, dim / heads = 7"):
        build("rotary", dim=14, heads=2)


@KINDS
def test_visible_frames_keep_their_places(kind):
    """Blocks that see some frames equal blocks that see all of them and attend to these alone."""
    encoder = build(kind).eval()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    places = torch.tensor([[0, 2, 7, 11], [3, 4, 0, 0]])
    seen = encoder.context(x, torch.tensor([12, 9]), visible=(places, torch.tensor([4, 2]))).x
    for row, (length, chosen) in enumerate(((12, [0, 2, 7, 11]), (9, [3, 4]))):
        frames = x[row : row + 1, :length]
        y = encoder.dropout(encoder.norm(frames + encoder.position(frames)))
        mask = torch.zeros(1, 1, 1, length, dtype=torch.bool)
        mask[..., chosen] = True
        every = torch.arange(length)[None]
        relative = encoder.relative_position(every, every)
        for block in encoder.blocks:
            y = block(y, mask, None, relative)
        torch.testing.assert_close(seen[row, : len(chosen)], y[0, chosen])
