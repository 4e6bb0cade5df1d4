"""Several positional convolutions: against Data2VecAudioModel of transformers, and padded, causal and none."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.huggingface import encoder_from_huggingface
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths
from speechssl.models.position import DeepPositionalConvolution, build_position

PATHS = pytest.mark.parametrize("paths", [nullcontext, plain_paths])
TINY = EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=5, pos_groups=2, pos_depth=3)


def data2vec(kernel: int):
    """Return a random data2vec model of transformers, and our encoder with its weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.Data2VecAudioConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, conv_dim=(16, 24),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=4,
        conv_pos_kernel_size=kernel,
    )  # fmt: skip
    model = transformers.Data2VecAudioModel(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    state = model.state_dict()
    deep = "encoder.pos_conv_embed.layers."
    own = {
        f"position.layers.{i}.{leaf}": state[f"{deep}{i}.conv.{leaf}"] for i in range(5) for leaf in ("weight", "bias")
    }
    position = "encoder.pos_conv_embed.conv."
    plain = {name: value for name, value in state.items() if not name.startswith(deep)} | {
        position + "parametrizations.weight.original0": torch.ones(1, 1, 1),
        position + "parametrizations.weight.original1": torch.ones(48, 12, 1),
        position + "bias": torch.ones(48),
    }
    known = json.loads(config.to_json_string(use_diff=False)) | {
        "model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": False,
        "num_conv_pos_embeddings": 1,
    }  # fmt: skip
    same = encoder_from_huggingface(plain, known, normalize=False)
    cfg = replace(same.cfg.encoder, pos_depth=5, pos_kernel=kernel)
    encoder = SpeechEncoder(replace(same.cfg, encoder=cfg))
    shared = {name: value for name, value in same.state_dict().items() if not name.startswith("position.")}
    encoder.load_state_dict(shared | own)
    return model, encoder.eval()


@PATHS
@pytest.mark.parametrize("kernel", [19, 6])
def test_data2vec_layer_by_layer(kernel, paths):
    model, encoder = data2vec(kernel)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    with paths(), torch.no_grad():
        ours, theirs = encoder(wave, layers=True), model(wave, output_hidden_states=True)
    assert len(ours.layers) == 4
    for a, b in zip(ours.layers, theirs.hidden_states, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_padding_is_zero_before_every_convolution_where_it_is_not_in_transformers():
    model, encoder = data2vec(19)
    wave = torch.randn(2, 3_400, generator=torch.Generator().manual_seed(1))
    wave[1, 1_900:] = 0.0
    lengths, count = torch.tensor([3_400, 1_900]), encoder.frames(1_900)
    with torch.no_grad():
        ours, alone = encoder(wave, lengths).x[1, :count], encoder(wave[1:, :1_900]).x[0]
        theirs = model(wave, attention_mask=(torch.arange(3_400) < lengths[:, None]).long()).last_hidden_state
        torch.testing.assert_close(alone, model(wave[1:, :1_900]).last_hidden_state[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours, alone, atol=2e-5, rtol=1e-4)
    assert (theirs[1, :count] - alone).abs().max() > 0.05  # its last frames change with the batch


@PATHS
@pytest.mark.parametrize("kernel", [5, 4, 1])
def test_causal_convolutions_see_their_reach_and_no_more(kernel, paths):
    torch.manual_seed(0)
    position = DeepPositionalConvolution(16, kernel, 2, 3, causal=True).double()
    assert position.reach == (3 * (kernel - 1), 0)
    x = torch.randn(1, 30, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 9] += 1
    with paths(), torch.no_grad():
        moved = (position(x) - position(changed)).abs().amax(-1)[0] > 1e-9
    assert moved.nonzero().flatten().tolist() == list(range(9, 9 + 3 * (kernel - 1) + 1))


@pytest.mark.parametrize("kernel", [5, 4])
def test_reach_on_both_sides(kernel):
    torch.manual_seed(0)
    position = DeepPositionalConvolution(16, kernel, 2, 3).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 20] += 1
    with torch.no_grad():
        moved = ((position(x) - position(changed)).abs().amax(-1)[0] > 1e-9).nonzero().flatten()
    before, after = position.reach
    assert moved.max() == 20 + before  # frames after see it among those before them
    assert moved.min() == 20 - (after if kernel % 2 else 3)  # an even kernel sees one frame less ahead


def test_no_positional_convolution_and_wrong_depths():
    frontend = FrontendConfig(conv_layers=((8, 10, 5), (12, 3, 2)), norm="layer")
    encoder = SpeechEncoder(ModelConfig(frontend=frontend, encoder=replace(TINY, pos_depth=0))).eval()
    assert encoder.position is None
    wave = torch.randn(1, 900)
    x = encoder.project(encoder.features(wave))
    shuffled = torch.randperm(x.shape[1])
    torch.testing.assert_close(
        encoder.context(x[:, shuffled]).x, encoder.context(x).x[:, shuffled], atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ConfigError, match="pos_depth = -1 must be 0 or more"):
        build_position(replace(TINY, pos_depth=-1))
    with pytest.raises(ConfigError, match="multiple of pos_groups = 3"):
        build_position(replace(TINY, pos_groups=3))
