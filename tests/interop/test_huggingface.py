"""Weights to and from transformers: the same numbers layer by layer, and an exact round trip."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.any_model import load_any_encoder
from speechssl.interop.huggingface import (
    encoder_from_huggingface,
    encoder_to_huggingface,
    preprocessor_config,
    save_huggingface,
)
from speechssl.models.encoder import SpeechEncoder

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (16, 24, 24),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def peer(kind: str, **changes):
    """Return a randomly initialised model of transformers whose norms are not trivial."""
    config_class, model_class = {
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    }[kind]
    torch.manual_seed(3)
    model = model_class(config_class(**SMALL | changes))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name or name.endswith("bias") or "original0" in name or "rel_" in name:
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def config_of(model) -> dict:
    return json.loads(model.config.to_json_string(use_diff=False))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
def test_same_numbers_layer_by_layer(kind, stable, norm, bias):
    model = peer(kind, do_stable_layer_norm=stable, feat_extract_norm=norm, conv_bias=bias)
    encoder = encoder_from_huggingface(model.state_dict(), config_of(model), normalize=False)
    wave = torch.randn(2, 1200)
    with torch.no_grad():
        ours = encoder(wave, layers=True)
        theirs = model(wave, output_hidden_states=True)
    assert len(ours.layers) == len(theirs.hidden_states) == 4
    for mine, other in zip(ours.layers, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.x, theirs.last_hidden_state, atol=1e-5, rtol=0)
    if kind == "wav2vec2":  # extract_features is the layer-normed output of the stem
        torch.testing.assert_close(
            encoder.normalise_features(ours.features), theirs.extract_features, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("stable", [False, True])
def test_same_numbers_on_a_padded_batch(stable):
    model = peer("wav2vec2", do_stable_layer_norm=stable, feat_extract_norm="layer", conv_bias=True)
    encoder = encoder_from_huggingface(model.state_dict(), config_of(model), normalize=False)
    lengths = torch.tensor([1200, 700])
    attention = (torch.arange(1200)[None] < lengths[:, None]).long()
    wave = torch.randn(2, 1200) * attention
    with torch.no_grad():
        ours = encoder(wave, lengths)
        theirs = model(wave, attention_mask=attention).last_hidden_state
    for row, frames in enumerate(ours.frame_lengths.tolist()):
        torch.testing.assert_close(ours.x[row, :frames], theirs[row, :frames], atol=1e-5, rtol=0)


def test_same_numbers_with_a_mask():
    model = peer("wav2vec2")
    encoder = encoder_from_huggingface(model.state_dict(), config_of(model), normalize=False)
    wave = torch.randn(2, 1200)
    mask = torch.rand(2, encoder.frames(1200)) < 0.5
    with torch.no_grad():
        theirs = model(wave, mask_time_indices=mask).last_hidden_state
        torch.testing.assert_close(encoder(wave, mask=mask).x, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("stable", [False, True])
def test_round_trip_is_exact(kind, stable, tmp_path):
    cfg = ModelConfig(
        normalize=stable,
        frontend=FrontendConfig(
            conv_layers=((16, 10, 5), (24, 3, 2)), norm="layer" if stable else "group", bias=stable, grad_scale=0.1
        ),
        encoder=EncoderConfig(
            dim=32, layers=2, heads=2, ffn_dim=64, norm="pre" if stable else "post", pos_kernel=9, pos_groups=4
        ),
    )
    encoder = SpeechEncoder(cfg).eval()
    save_huggingface(tmp_path / "export", encoder, kind)
    # transformers itself reads the folder, finds every tensor, and agrees.
    model = transformers.AutoModel.from_pretrained(tmp_path / "export").eval()
    assert type(model).__name__ == {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[kind]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "export")
    assert extractor.do_normalize is stable
    wave = 0.01 * torch.randn(1, 1000) + 0.02
    inputs = extractor([wave[0].numpy()], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(inputs.input_values).last_hidden_state
        torch.testing.assert_close(encoder(wave).x, theirs, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "again")
    extractor.save_pretrained(tmp_path / "again")
    back = load_any_encoder(tmp_path / "again")
    assert back.cfg == cfg
    state = back.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_export_covers_every_tensor_of_the_peer():
    model = peer("hubert")
    state, config = encoder_to_huggingface(
        encoder_from_huggingface(model.state_dict(), config_of(model)), architecture="hubert"
    )
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(config_of(model)[name] == value or name == "architectures" for name, value in config.items())


@pytest.mark.parametrize("stable", [False, True])
def test_wavlm_is_read_with_its_relative_positions(stable):
    model = peer("wavlm", do_stable_layer_norm=stable, feat_extract_norm="layer")
    state = {f"wavlm.{name}": value for name, value in model.state_dict().items()}
    encoder = encoder_from_huggingface(state | {"lm_head.bias": torch.zeros(1)}, config_of(model), normalize=False)
    assert encoder.cfg.encoder.relative_position == "gated"
    wave = torch.randn(2, 1200)
    with torch.no_grad():
        ours = encoder(wave, layers=True)
        theirs = model(wave, output_hidden_states=True)
        for mine, other in zip(ours.layers[:3], theirs.hidden_states[:3], strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.x, theirs.last_hidden_state, atol=1e-5, rtol=0)
        encoder.relative_position.embedding.zero_()
        assert (encoder(wave).x - ours.x).abs().max() > 1e-3
    gate = "wavlm.encoder.layers.1.attention.gru_rel_pos_"
    with pytest.raises(CheckpointError, match="1 missing"):
        encoder_from_huggingface({k: v for k, v in state.items() if k != gate + "const"}, config_of(model))
    with pytest.raises(CheckpointError, match="do not fit"):
        encoder_from_huggingface(state | {gate + "linear.bias": torch.zeros(6)}, config_of(model))


def test_old_weight_norm_layout():
    model = peer("wav2vec2")
    state = model.state_dict()
    conv = "encoder.pos_conv_embed.conv."
    state[conv + "weight_g"] = state.pop(conv + "parametrizations.weight.original0")
    state[conv + "weight_v"] = state.pop(conv + "parametrizations.weight.original1")
    old = encoder_from_huggingface(state, config_of(model)).state_dict()
    new = encoder_from_huggingface(model.state_dict(), config_of(model)).state_dict()
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_heads_of_task_models_are_left_out():
    torch.manual_seed(0)
    task = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**SMALL)).eval()
    encoder = encoder_from_huggingface(task.state_dict(), config_of(task), normalize=False)
    wave = torch.randn(1, 900)
    with torch.no_grad():
        torch.testing.assert_close(encoder(wave).x, task.wav2vec2(wave).last_hidden_state, atol=1e-5, rtol=0)
    ctc = transformers.HubertForCTC(transformers.HubertConfig(**SMALL))
    encoder_from_huggingface(ctc.state_dict(), config_of(ctc))


def test_mask_embedding_may_be_absent():
    model = peer("wav2vec2", mask_time_prob=0.0)
    assert "masked_spec_embed" not in model.state_dict()
    encoder = encoder_from_huggingface(model.state_dict(), config_of(model))
    assert encoder.mask_embedding.std() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unispeech-sat"}, "model_type 'unispeech-sat'"),
        ({"model_type": "wavlm", "num_buckets": 32}, "num_buckets = 32"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim"),
        ({"conv_kernel": [10, 3]}, "ValueError"),
        ({"feat_extract_norm": "batch"}, "KeyError 'batch'"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(changes, message):
    model = peer("wav2vec2")
    with pytest.raises(ConfigError, match=message):
        encoder_from_huggingface(model.state_dict(), config_of(model) | changes)


def test_missing_unknown_and_misshapen_tensors():
    model = peer("wav2vec2")
    config, state = config_of(model), model.state_dict()
    with pytest.raises(CheckpointError, match=r"1 missing .'encoder.layer_norm.bias'.*0 unknown"):
        encoder_from_huggingface({k: v for k, v in state.items() if k != "encoder.layer_norm.bias"}, config)
    with pytest.raises(CheckpointError, match=r"0 missing.*1 unknown .'adapter.w'"):
        encoder_from_huggingface(state | {"adapter.w": torch.zeros(1)}, config)
    with pytest.raises(CheckpointError, match="size mismatch"):
        encoder_from_huggingface(state | {"encoder.layer_norm.bias": torch.zeros(3)}, config)
    prefixed = {"wav2vec2." + name: value for name, value in state.items()} | {"oddity.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"'oddity.weight'"):
        encoder_from_huggingface(prefixed, config)


def test_folders_that_cannot_be_read(tmp_path):
    model = peer("wav2vec2")
    (tmp_path / "config.json").write_text(json.dumps(config_of(model)))
    with pytest.raises(CheckpointError, match="no weights; there must be"):
        load_any_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: not a checkpoint that torch reads safely"):
        load_any_encoder(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert load_any_encoder(tmp_path).cfg.normalize is False  # no preprocessor: a group-norm stem decides
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match="not a Hugging Face model folder"):
        load_any_encoder(tmp_path)


def test_export_errors(tmp_path):
    small = EncoderConfig(dim=16, layers=1, heads=2, ffn_dim=16, pos_kernel=4, pos_groups=2)
    logmel = SpeechEncoder(ModelConfig(frontend=FrontendConfig(kind="logmel"), encoder=small))
    with pytest.raises(ConfigError, match="log-mel"):
        encoder_to_huggingface(logmel)
    causal = SpeechEncoder(ModelConfig(frontend=FrontendConfig(norm="layer"), encoder=replace(small, causal=True)))
    with pytest.raises(ConfigError, match="causal"):
        encoder_to_huggingface(causal)
    stem = FrontendConfig(conv_layers=((8, 10, 5),))
    encoder = SpeechEncoder(ModelConfig(normalize=True, frontend=stem, encoder=replace(small, layers=2)))
    assert preprocessor_config(encoder)["do_normalize"] is True
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CheckpointError, match="taken"):
        save_huggingface(tmp_path / "taken", encoder)
    save_huggingface(tmp_path / "new", encoder)
    assert load_file(tmp_path / "new" / "model.safetensors")["masked_spec_embed"].shape == (16,)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_gradients_in_bfloat16_are_as_exact_as_those_of_the_peer(norm):
    """Median over tensors of the relative error against float32, both under autocast, from the same weights."""
    model = peer("wav2vec2", feat_extract_norm=norm, conv_bias=norm == "layer", hidden_size=96, intermediate_size=192)
    encoder = encoder_from_huggingface(model.state_dict(), config_of(model), normalize=False)
    wave, towards = torch.randn(4, 4000), torch.randn(4, 199, 96)

    def gradients(run, module, bf16):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = run()
        (y.float() * towards[:, : y.shape[1]]).sum().backward()
        return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

    def errors(run, module):
        exact, rough = (gradients(run, module, bf16) for bf16 in (False, True))
        return sorted(float((rough[name] - exact[name]).norm() / exact[name].norm()) for name in exact)

    theirs = errors(lambda: model(wave).last_hidden_state, model)
    ours = errors(lambda: encoder(wave).x, encoder)
    assert len(ours) > 30 and len(theirs) > 30
    assert ours[len(ours) // 2] <= 1.02 * theirs[len(theirs) // 2]
    assert ours[-1] <= 2 * theirs[-1]


def test_weights_that_git_lfs_did_not_fetch_are_named(tmp_path):
    save_huggingface(tmp_path, SpeechEncoder(ModelConfig()))
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"git-lfs pointer.*git lfs pull"):
        load_any_encoder(tmp_path)


def test_sharded_weights_are_read(tmp_path):
    model = peer("wav2vec2")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    whole = encoder_from_huggingface(model.state_dict(), config_of(model))
    for name, value in load_any_encoder(tmp_path).state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="not a Hugging Face model folder"):
        load_any_encoder(tmp_path)


XVECTOR = {"tdnn_dim": (8, 8), "tdnn_kernel": (5, 3), "tdnn_dilation": (1, 2), "xvector_output_dim": 8}


@pytest.mark.parametrize(("task", "more"), [
    ("Wav2Vec2ForSequenceClassification", {"use_weighted_layer_sum": True}),
    ("Wav2Vec2ForAudioFrameClassification", {"use_weighted_layer_sum": True}),
    ("HubertForSequenceClassification", {"use_weighted_layer_sum": True}),
    ("Wav2Vec2ForXVector", XVECTOR),
    ("Wav2Vec2ForCTC", {}), ("Wav2Vec2ForPreTraining", {"codevector_dim": 16, "proj_codevector_dim": 16}),
])  # fmt: skip
def test_heads_of_saved_task_models_are_left_out(tmp_path, task, more):
    model_class = getattr(transformers, task)
    model = model_class(model_class.config_class(**SMALL | more))
    model.save_pretrained(tmp_path)
    encoder = load_any_encoder(tmp_path)
    base = getattr(model, model.base_model_prefix)
    want = encoder_from_huggingface(base.state_dict(), config_of(model))
    for name, value in encoder.state_dict().items():
        assert name == "mask_embedding" or torch.equal(value, want.state_dict()[name]), name
