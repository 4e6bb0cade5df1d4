"""Encoders of torchaudio's wav2vec 2.0 and HuBERT models.

In: a ``torchaudio.models.Wav2Vec2Model`` (or ``HuBERTPretrainModel``) with its weights, or a file with the state dict
of one. Out: a SpeechEncoder that gives the same numbers. The names of torchaudio's tensors are nearly those of
transformers, so the same mapping is used.
"""

from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.interop.huggingface import encoder_from_huggingface
from speechssl.models.encoder import SpeechEncoder

__all__ = ["encoder_from_torchaudio", "load_torchaudio"]

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""The stem of every published wav2vec 2.0 and HuBERT model."""
HEAD_CHANNELS, MOST_HEADS = 64, 16
"""Heads of 64 channels (BASE 12, LARGE 16), and 16 wider ones in models that are wider still."""
HEADS = ("logit_generator.", "feature_grad_mult")
"""Parts of ``HuBERTPretrainModel`` beside the model and its mask embedding."""
KERNEL = "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"
OLD_KERNEL = "encoder.transformer.pos_conv_embed.conv.weight_v"
"""The positional kernel in the layouts of torch from 2.1 on, and before."""


def _config(model: Any) -> dict[str, Any]:
    """Read the sizes off the modules: torchaudio models carry no configuration."""
    convs = [layer.conv for layer in model.feature_extractor.conv_layers]
    transformer = model.encoder.transformer
    block = transformer.layers[0]
    if type(block.attention).__name__ != "SelfAttention":
        raise ConfigError(f"torchaudio attention {type(block.attention).__name__} (WavLM) is not supported")
    position = transformer.pos_conv_embed.conv
    group = isinstance(model.feature_extractor.conv_layers[0].layer_norm, nn.GroupNorm)
    return {
        "model_type": "wav2vec2",
        "conv_dim": [conv.out_channels for conv in convs],
        "conv_kernel": [conv.kernel_size[0] for conv in convs],
        "conv_stride": [conv.stride[0] for conv in convs],
        "conv_bias": convs[0].bias is not None,
        "feat_extract_norm": "group" if group else "layer",
        "hidden_size": block.attention.embed_dim,
        "num_hidden_layers": len(transformer.layers),
        "num_attention_heads": block.attention.num_heads,
        "intermediate_size": block.feed_forward.intermediate_dense.out_features,
        "do_stable_layer_norm": block.layer_norm_first,
        "num_conv_pos_embeddings": position.kernel_size[0],
        "num_conv_pos_embedding_groups": position.groups,
        "hidden_dropout": block.dropout.p,
        "attention_dropout": block.attention.dropout,
        "activation_dropout": block.feed_forward.intermediate_dropout.p,
        "feat_proj_dropout": model.encoder.feature_projection.dropout.p,
        "layerdrop": transformer.layer_drop,
    }


def encoder_from_torchaudio(model: nn.Module, *, normalize: bool = False) -> SpeechEncoder:
    """Return the encoder of a torchaudio model, in evaluation mode.

    Parameters
    ----------
    model
        ``torchaudio.models.Wav2Vec2Model``, whose CTC head is left out, or ``HuBERTPretrainModel``, whose mask
        embedding is kept and whose label embeddings are left out.
    normalize
        Whether the model expects normalised waveforms (a pipeline's ``_normalize_waveform``); not in the model.

    Raises
    ------
    ConfigError
        Not such a model, or a WavLM.
    """
    whole: Any = model
    core: Any = getattr(whole, "wav2vec2", whole)
    if not hasattr(core, "feature_extractor") or not hasattr(core, "encoder"):
        raise ConfigError(f"{type(model).__name__} is not a torchaudio Wav2Vec2Model or HuBERTPretrainModel")
    state = {}
    for name, value in core.state_dict().items():
        if not name.startswith("aux."):
            name = name.replace("encoder.transformer.", "encoder.")
            state[name.replace("encoder.feature_projection.", "feature_projection.")] = value
    if core is not whole:
        state["masked_spec_embed"] = whole.mask_generator.mask_embedding
    return encoder_from_huggingface(state, _config(core), normalize=normalize)


def load_torchaudio(path: Path) -> SpeechEncoder:
    """Return the encoder of a file with the state dict of a torchaudio model, such as those of its pipelines.

    A state dict has no configuration. Sizes follow from the shapes of its tensors. What shapes do not show is taken
    from the wav2vec 2.0 and HuBERT models that torchaudio publishes. Strides are 5, 2, 2, 2, 2, 2, 2, and heads have 64
    channels, at most 16 of them. Layer norm before each branch and normalised waveforms are assumed exactly where the
    stem has layer norm.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of such a model.
    ConfigError
        The stem is another one, or the model is a WavLM.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a foreign file
        raise CheckpointError(f"{path}: not a state dict that torch reads safely: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict: expected names and tensors of a torchaudio model")
    masks = {name: value for name, value in state.items() if name.startswith("mask_generator.")}
    core = {name.removeprefix("wav2vec2."): value for name, value in state.items() if not name.startswith(HEADS)}
    core = {name: value for name, value in core.items() if not name.startswith(("aux.", "mask_generator."))}
    try:
        settings, normalize = _settings(core)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: no wav2vec 2.0 or HuBERT model of torchaudio: {error} is missing") from error
    model = torchaudio.models.wav2vec2_model(**settings, aux_num_out=None)
    try:
        model.load_state_dict(core)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: no wav2vec 2.0 or HuBERT model of torchaudio: {error}") from error
    encoder = encoder_from_torchaudio(model, normalize=normalize)
    if (mask := masks.get("mask_generator.mask_embedding")) is not None:
        with torch.no_grad():
            encoder.mask_embedding.copy_(mask)
    return encoder


def _settings(state: dict[str, Tensor]) -> tuple[dict[str, Any], bool]:
    """Return the arguments of torchaudio's ``wav2vec2_model``, and whether the waveform is normalised."""
    stem = "feature_extractor.conv_layers."
    convs = [state[f"{stem}{i}.conv.weight"].shape for i in range(len(STRIDES))]
    if tuple(shape[2] for shape in convs) != KERNELS or f"{stem}{len(STRIDES)}.conv.weight" in state:
        raise ConfigError(
            f"a state dict does not hold strides, and kernels {[shape[2] for shape in convs]} are not those of the "
            f"published stem {list(KERNELS)}. Build the torchaudio model, and save what encoder_from_torchaudio gives"
        )
    if any("rel_attn_embed" in name or "gru_rel_pos" in name for name in state):
        raise ConfigError("torchaudio WavLM models have relative positions, which this encoder does not have")
    layers = "encoder.transformer.layers."
    numbers = {int(name.removeprefix(layers).split(".")[0]) for name in state if name.startswith(layers)}
    dim, inner, kernel = state[KERNEL].shape if KERNEL in state else state[OLD_KERNEL].shape
    normed = f"{stem}1.layer_norm.weight" in state
    shapes = [(shape[0], k, stride) for shape, k, stride in zip(convs, KERNELS, STRIDES, strict=True)]
    settings = {
        "extractor_mode": "layer_norm" if normed else "group_norm",
        "extractor_conv_layer_config": shapes,
        "extractor_conv_bias": f"{stem}0.conv.bias" in state,
        "encoder_embed_dim": dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": kernel,
        "encoder_pos_conv_groups": dim // inner,
        "encoder_num_layers": max(numbers) + 1,
        "encoder_num_heads": min(dim // HEAD_CHANNELS, MOST_HEADS),
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": state[f"{layers}0.feed_forward.intermediate_dense.weight"].shape[0],
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": normed,
        "encoder_layer_drop": 0.0,
    }
    return settings, normed
