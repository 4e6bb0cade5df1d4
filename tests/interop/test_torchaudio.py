"""Weights from torchaudio: the same numbers layer by layer."""

import pytest
import torch
import torchaudio
from torch import nn

from speechssl.core.errors import ConfigError
from speechssl.interop.torchaudio import encoder_from_torchaudio

SHAPES = [(16, 10, 5), (24, 3, 2), (24, 2, 2)]


def peer(mode: str, *, first: bool, bias: bool, aux: int | None = None):
    """Return a small randomly initialised torchaudio model whose norms are not trivial."""
    torch.manual_seed(5)
    model = torchaudio.models.wav2vec2_model(
        extractor_mode=mode,
        extractor_conv_layer_config=SHAPES,
        extractor_conv_bias=bias,
        encoder_embed_dim=48,
        encoder_projection_dropout=0.2,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.05,
        encoder_ff_interm_features=96,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.15,
        encoder_layer_norm_first=first,
        encoder_layer_drop=0.25,
        aux_num_out=aux,
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()


@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_same_numbers_layer_by_layer(mode, first, bias):
    model = peer(mode, first=first, bias=bias)
    encoder = encoder_from_torchaudio(model)
    wave = torch.randn(2, 1300)
    with torch.no_grad():
        ours = encoder(wave, layers=True)
        theirs, _ = model.extract_features(wave)
        last, _ = model(wave)
    for mine, other in zip(ours.layers[1:], theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)
    torch.testing.assert_close(ours.x, last, atol=2e-5, rtol=0)
    assert encoder.cfg.encoder.dropout == 0.15
    assert encoder.cfg.encoder.layer_drop == 0.25
    assert encoder.cfg.encoder.activation_dropout == 0.1
    assert encoder.cfg.encoder.attention_dropout == 0.05
    assert encoder.cfg.encoder.input_dropout == 0.2
    assert encoder.cfg.normalize is False


def test_same_numbers_on_a_padded_batch():
    model = peer("layer_norm", first=True, bias=True, aux=7)
    encoder = encoder_from_torchaudio(model.train(), normalize=True)
    assert encoder.cfg.normalize
    model.aux = None
    model.eval()
    lengths = torch.tensor([1300, 800])
    wave = torch.randn(2, 1300)
    normalised = torch.zeros_like(wave)
    for row, length in enumerate(lengths.tolist()):
        normalised[row, :length] = nn.functional.layer_norm(wave[row, :length], (length,), eps=1e-7)
    with torch.no_grad():
        theirs, frames = model(normalised, lengths)
        ours = encoder(wave, lengths)
    assert torch.equal(frames, ours.frame_lengths)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(ours.x[row, :count], theirs[row, :count], atol=2e-5, rtol=0)


def test_pretraining_model_gives_its_mask_embedding():
    model = torchaudio.models.hubert_pretrain_model(
        extractor_mode="group_norm", extractor_conv_layer_config=SHAPES, extractor_conv_bias=False,
        encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=8, encoder_pos_conv_groups=2,
        encoder_num_layers=1, encoder_num_heads=2, encoder_attention_dropout=0.0, encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0,
        mask_prob=0.8, mask_selection="static", mask_other=0.0, mask_length=10, no_mask_overlap=False, mask_min_space=1,
        mask_channel_prob=0.0, mask_channel_selection="static", mask_channel_other=0.0, mask_channel_length=10,
        no_mask_channel_overlap=False, mask_channel_min_space=1, skip_masked=False, skip_nomask=False, num_classes=10,
        final_dim=16, feature_grad_mult=None,
    )  # fmt: skip
    encoder = encoder_from_torchaudio(model)
    assert torch.equal(encoder.mask_embedding, model.mask_generator.mask_embedding)


def test_other_modules_are_refused():
    with pytest.raises(ConfigError, match="Linear is not a torchaudio"):
        encoder_from_torchaudio(nn.Linear(2, 2))
    wavlm = torchaudio.models.wavlm_model(
        extractor_mode="group_norm", extractor_conv_layer_config=SHAPES, extractor_conv_bias=False,
        encoder_embed_dim=16, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=8, encoder_pos_conv_groups=2,
        encoder_num_layers=1, encoder_num_heads=2, encoder_num_buckets=8, encoder_max_distance=16,
        encoder_attention_dropout=0.0, encoder_ff_interm_features=16, encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="WavLM"):
        encoder_from_torchaudio(wavlm)
