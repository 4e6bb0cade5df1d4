"""wav2vec 2.0, its Conformer, HuBERT, WavLM and data2vec encoders in the layout of Hugging Face transformers.

In: a state dict and a config dict. Out: a SpeechEncoder, or the same two back, exactly (except of a Conformer).
transformers itself is not needed. What the encoder cannot express (adapters, batch norm in the positional convolution)
is refused by name, never dropped. ``huggingface_folder`` reads folders.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.core.files import write_atomic, write_json
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.conformer import block_names, block_settings, with_fixed_norms
from speechssl.models.encoder import SpeechEncoder

__all__ = [
    "PREFIXES",
    "encoder_from_huggingface",
    "encoder_to_huggingface",
    "preprocessor_config",
    "save_huggingface",
    "split_heads",
]

Architecture = Literal["wav2vec2", "hubert", "wavlm", "data2vec-audio"]

MODELS: dict[Architecture, str] = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel",
                                   "data2vec-audio": "Data2VecAudioModel"}  # fmt: skip

PREFIXES = {"wav2vec2": "wav2vec2.", "hubert": "hubert.", "wavlm": "wavlm.", "data2vec-audio": "data2vec_audio.",
            "wav2vec2-conformer": "wav2vec2_conformer."}  # fmt: skip
"""Supported ``model_type`` -> what task models write before the names of the encoder's tensors."""

HEADS = ("quantizer.", "project_hid.", "project_q.", "lm_head.", "projector.", "classifier.", "label_embeddings",
         "layer_weights", "feature_extractor.weight", "feature_extractor.bias", "tdnn.", "objective.")  # fmt: skip
"""Parts of task models around the encoder; they are not part of it."""

POSITION = "encoder.pos_conv_embed.conv."
STACKED = "encoder.pos_conv_embed.layers."
WEIGHT_NORM = {
    POSITION + "weight_g": POSITION + "parametrizations.weight.original0",
    POSITION + "weight_v": POSITION + "parametrizations.weight.original1",
}
"""Old layout of a weight-normalised kernel (torch before 2.1) -> new layout."""

EXPECTED: dict[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""Settings with only one supported value, which is also the default of transformers."""
BUCKETS = {"num_buckets": 320, "max_bucket_distance": 800}
"""The same of WavLM alone."""


def _names(cfg: ModelConfig) -> dict[str, str]:
    """Return our name -> their name for every tensor that is copied as it is (queries, keys and values are joined)."""
    names = {"mask_embedding": "masked_spec_embed"}
    if cfg.encoder.pos_depth == 1:
        names["position.magnitude"] = POSITION + "parametrizations.weight.original0"
        names["position.direction"] = POSITION + "parametrizations.weight.original1"
        names["position.bias"] = POSITION + "bias"
    modules = {
        "feature_norm": "feature_projection.layer_norm",
        "projection": "feature_projection.projection",
        "norm": "encoder.layer_norm",
    }
    for i in range(len(cfg.frontend.conv_layers)):
        ours, theirs = f"frontend.layers.{i}.", f"feature_extractor.conv_layers.{i}."
        names[ours + "conv.weight"] = theirs + "conv.weight"
        if cfg.frontend.bias:
            names[ours + "conv.bias"] = theirs + "conv.bias"
        if cfg.frontend.norm == "layer" or i == 0:
            modules[ours + "norm"] = theirs + "layer_norm"
    parts = {
        "attention.out": "attention.out_proj",
        "attention_norm": "layer_norm",
        "up": "feed_forward.intermediate_dense",
        "down": "feed_forward.output_dense",
        "ffn_norm": "final_layer_norm",
    }
    if cfg.encoder.block == "conformer":
        blocks, single = block_names(cfg.encoder)
        modules, names, parts = modules | blocks, names | single, {}
    for i in range(cfg.encoder.layers):
        modules |= {f"blocks.{i}.{ours}": f"encoder.layers.{i}.{theirs}" for ours, theirs in parts.items()}
    if cfg.encoder.relative_position == "gated":
        names["relative_position.embedding"] = "encoder.layers.0.attention.rel_attn_embed.weight"
        for i in range(cfg.encoder.layers):
            ours, theirs = f"blocks.{i}.attention.gate.", f"encoder.layers.{i}.attention.gru_rel_pos_"
            names[ours + "scale"] = theirs + "const"
            modules[ours + "project"] = theirs + "linear"
    if cfg.encoder.pos_depth > 1:
        modules |= {f"position.layers.{i}": f"{STACKED}{i}.conv" for i in range(cfg.encoder.pos_depth)}
    for ours, theirs in modules.items():
        names |= {f"{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in ("weight", "bias")}
    return names


def _joined(cfg: ModelConfig) -> dict[str, list[str]]:
    """Return our joined projection -> their queries, keys, values."""
    theirs = "self_attn.linear_{}" if cfg.encoder.block == "conformer" else "attention.{}_proj"
    return {
        f"blocks.{i}.attention.qkv.{leaf}": [f"encoder.layers.{i}.{theirs.format(part)}.{leaf}" for part in "qkv"]
        for i in range(cfg.encoder.layers)
        for leaf in ("weight", "bias")
    }


def _config_in(config: Mapping[str, Any], normalize: bool | None) -> ModelConfig:
    kind = config.get("model_type")
    if kind not in PREFIXES:
        raise ConfigError(f"Hugging Face model_type {kind!r} is not supported; supported: {', '.join(PREFIXES)}")
    if kind == "data2vec-audio":
        config = {"feat_extract_norm": "layer", "do_stable_layer_norm": False, **config}
    if kind == "wav2vec2-conformer":
        if config.get("hidden_act", "gelu") not in ("swish", "silu"):
            raise ConfigError(
                f"Hugging Face config: hidden_act = {config.get('hidden_act')!r}: a Conformer has 'swish'"
            )
        config = {**config, "hidden_act": "gelu", "do_stable_layer_norm": True}
    for name, value in (EXPECTED | (BUCKETS if kind == "wavlm" else {})).items():
        if config.get(name, value) != value:
            raise ConfigError(f"Hugging Face config: {name} = {config[name]!r} is not supported, only {value!r} is")
    try:
        dims, kernels, strides = (tuple(config[name]) for name in ("conv_dim", "conv_kernel", "conv_stride"))
        norm = {"group": "group", "layer": "layer"}[config["feat_extract_norm"]]
        frontend = FrontendConfig(
            conv_layers=tuple(zip(dims, kernels, strides, strict=True)),
            norm=norm,  # type: ignore[arg-type]
            bias=bool(config["conv_bias"]),
        )
        sizes = EncoderConfig(
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            ffn_dim=config["intermediate_size"],
            norm="pre" if config["do_stable_layer_norm"] else "post",
            pos_kernel=config["conv_pos_kernel_size" if kind == "data2vec-audio" else "num_conv_pos_embeddings"],
            pos_depth=config["num_conv_pos_embeddings"] if kind == "data2vec-audio" else 1,
            pos_groups=config["num_conv_pos_embedding_groups"],
            relative_position="gated" if kind == "wavlm" else "none",
            dropout=float(config.get("hidden_dropout", 0.1)),
            attention_dropout=float(config.get("attention_dropout", 0.1)),
            activation_dropout=float(config.get("activation_dropout", 0.1)),
            input_dropout=float(config.get("feat_proj_dropout", 0.0)),
            layer_drop=float(config.get("layerdrop", 0.1)),
        )
        encoder = replace(sizes, **block_settings(config)) if kind == "wav2vec2-conformer" else sizes
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"Hugging Face config cannot be used: {type(error).__name__} {error}") from error
    return ModelConfig(
        normalize=norm == "layer" if normalize is None else normalize, frontend=frontend, encoder=encoder
    )


def split_heads(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder's tensors, under bare names and in the new weight-norm layout, and those of known heads.

    Raises CheckpointError when a task model has a tensor that is neither.
    """
    prefix = next((p for p in PREFIXES.values() if any(name.startswith(p) for name in state)), "")
    bare, heads = {}, {}
    for name, value in state.items():
        if prefix and not name.startswith(prefix):
            if not name.startswith(HEADS):
                raise CheckpointError(f"Hugging Face weights hold {name!r}, which is neither encoder nor a known head")
            heads[name] = value
        else:
            short = name.removeprefix(prefix)
            bare[WEIGHT_NORM.get(short, short)] = value
    return bare, heads


def _converted(ours: str, value: Tensor) -> Tensor:
    """Return a tensor of theirs in our shape. WavLM's gate has eight outputs there, which are added up in fours."""
    if ".gate.project." in ours:
        return value.unflatten(0, (2, 4)).sum(1)
    return value.flatten() if ours.endswith(".gate.scale") else value


def _theirs(ours: str, value: Tensor) -> Tensor:
    """Return a copy of a tensor of ours in their shape, such that `_converted` gives it back exactly."""
    if ".gate.project." in ours:
        return functional.pad(value[:, None], (0, 0) * (value.dim() - 1) + (0, 3)).flatten(0, 1)
    return value.view(1, -1, 1, 1).clone() if ours.endswith(".gate.scale") else value.clone()


def encoder_from_huggingface(
    state_dict: Mapping[str, Tensor], hf_config: Mapping[str, Any], *, normalize: bool | None = None
) -> SpeechEncoder:
    """Return the encoder of a model of transformers that `PREFIXES` names, in evaluation mode.

    Parameters
    ----------
    state_dict
        Weights of the bare model or of a task model around it (its heads are left out); both layouts of the
        weight-normalised positional kernel are understood. A model without a mask embedding gets a new one,
        always the same.
    hf_config
        The content of ``config.json``, complete (as ``model.config.to_dict()``).
    normalize
        ``do_normalize`` of ``preprocessor_config.json``; None: true exactly for models with a layer-norm stem.

    Raises
    ------
    ConfigError
        The configuration has something that this encoder does not support.
    CheckpointError
        Tensors are missing, left over, or of another shape.
    """
    cfg = _config_in(hf_config, normalize)
    encoder = SpeechEncoder(cfg)
    bare, _ = split_heads(state_dict)
    if "masked_spec_embed" not in bare:
        bare["masked_spec_embed"] = torch.rand(encoder.dim, generator=torch.Generator().manual_seed(1))
    if cfg.encoder.block == "conformer":
        try:
            bare = with_fixed_norms(bare)
        except KeyError as error:
            raise CheckpointError(f"Hugging Face weights do not fit their config: {error} is missing") from error
    names, joined = _names(cfg), _joined(cfg)
    wanted = set(names.values()).union(*joined.values())
    missing, extra = sorted(wanted - bare.keys()), sorted(bare.keys() - wanted)
    if missing or extra:
        raise CheckpointError(
            f"Hugging Face weights do not fit their config: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    try:
        new = {ours: _converted(ours, bare[theirs]) for ours, theirs in names.items()}
        new |= {ours: torch.cat([bare[part] for part in parts]) for ours, parts in joined.items()}
        encoder.load_state_dict(new)
    except RuntimeError as error:
        raise CheckpointError(f"Hugging Face weights do not fit their config: {error}") from error
    return encoder.eval()


def encoder_to_huggingface(
    encoder: SpeechEncoder, architecture: Architecture = "wav2vec2"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return state dict and config dict for a model of transformers that `MODELS` names.

    ``do_normalize`` is not part of that config: :func:`preprocessor_config` gives the dict that carries it. On a padded
    batch a model with a group-norm stem gives other numbers in transformers, where the padding enters its statistics.

    An encoder with gated relative positions is a WavLM, and one with several positional convolutions, layer norm in its
    stem and post-norm blocks a data2vec-audio, whatever ``architecture`` says.

    Raises ConfigError when the encoder has a log-mel stem, is causal, or has blocks or positions of no such model.
    """
    cfg = encoder.cfg
    if cfg.encoder.causal:
        raise ConfigError("a causal encoder has no counterpart in transformers: its attention sees all frames")
    sizes = cfg.encoder
    gated = sizes.relative_position == "gated"
    deep = sizes.pos_depth > 1 and sizes.norm == "post" and cfg.frontend.norm == "layer"
    if gated and replace(sizes, relative_position="none").is_standard:
        architecture = "wavlm"
    elif deep and replace(sizes, pos_depth=1).is_standard:
        architecture = "data2vec-audio"
    elif not sizes.is_standard:
        raise ConfigError(
            f"model.encoder: block = {cfg.encoder.block!r}, pos_depth = {cfg.encoder.pos_depth}, relative_position = "
            f"{cfg.encoder.relative_position!r} cannot be exported: Wav2Vec2Model has 'transformer', 1, 'none', and "
            "Data2VecAudioModel has a pos_depth above 1 with norm = 'post' and layer norm in the stem"
        )
    if cfg.frontend.kind != "waveform":
        raise ConfigError("a log-mel encoder has no counterpart in transformers: only waveform stems can be exported")
    own = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
    state = {theirs: _theirs(ours, own[ours]) for ours, theirs in _names(cfg).items()}
    for ours, parts in _joined(cfg).items():
        state |= {part: value.clone() for part, value in zip(parts, own[ours].chunk(3), strict=True)}
    dims, kernels, strides = zip(*cfg.frontend.conv_layers, strict=True)
    config = {
        "model_type": architecture,
        "architectures": [MODELS[architecture]],
        "hidden_size": cfg.encoder.dim,
        "num_hidden_layers": cfg.encoder.layers,
        "num_attention_heads": cfg.encoder.heads,
        "intermediate_size": cfg.encoder.ffn_dim,
        "do_stable_layer_norm": cfg.encoder.norm == "pre",
        "num_conv_pos_embeddings": cfg.encoder.pos_kernel,
        "num_conv_pos_embedding_groups": cfg.encoder.pos_groups,
        "hidden_dropout": cfg.encoder.dropout,
        "attention_dropout": cfg.encoder.attention_dropout,
        "activation_dropout": cfg.encoder.activation_dropout,
        "feat_proj_dropout": cfg.encoder.input_dropout,
        "layerdrop": cfg.encoder.layer_drop,
        "feat_extract_norm": cfg.frontend.norm,
        "conv_bias": cfg.frontend.bias,
        "conv_dim": list(dims),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        **EXPECTED,
        **(BUCKETS if gated else {}),
    }
    if architecture == "hubert":
        del config["add_adapter"], config["adapter_attn_dim"]
    if architecture == "data2vec-audio":
        config |= {"num_conv_pos_embeddings": cfg.encoder.pos_depth, "conv_pos_kernel_size": cfg.encoder.pos_kernel}
        for other in ("feat_extract_norm", "do_stable_layer_norm", "feat_proj_layer_norm", "conv_pos_batch_norm",
                      "adapter_attn_dim"):  # fmt: skip
            del config[other]
    return state, config


def preprocessor_config(encoder: SpeechEncoder) -> dict[str, Any]:
    """Return the content of ``preprocessor_config.json`` (``Wav2Vec2FeatureExtractor``) for this encoder."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": encoder.cfg.normalize,
        # transformers advises no attention mask for group-norm stems; with one, padding is at least never attended to.
        "return_attention_mask": True,
    }


def save_huggingface(folder: Path, encoder: SpeechEncoder, architecture: Architecture = "wav2vec2") -> None:
    """Write ``model.safetensors``, ``config.json`` and ``preprocessor_config.json`` for ``from_pretrained(folder)``.

    Raises
    ------
    ConfigError
        As :func:`encoder_to_huggingface`.
    CheckpointError
        The folder cannot be written.
    """
    from safetensors.torch import save

    state, config = encoder_to_huggingface(encoder, architecture)
    try:
        write_atomic(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
        for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor_config(encoder))):
            write_json(folder / name, content, indent=2)
    except OSError as error:
        raise CheckpointError(f"{folder}: the export was not written: {error}") from error
