"""Encoders of torchaudio's wav2vec 2.0 and HuBERT models.

In: a ``torchaudio.models.Wav2Vec2Model`` (or ``HuBERTPretrainModel``) with its weights. Out: a SpeechEncoder that gives
the same numbers. The names of torchaudio's tensors are nearly those of transformers, so the same mapping does the work.
"""

from typing import Any

from torch import nn

from speechssl.errors import ConfigError
from speechssl.interop.huggingface import encoder_from_huggingface
from speechssl.models.encoder import SpeechEncoder

__all__ = ["encoder_from_torchaudio"]


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
        Whether the model expects normalised waveforms (a pipeline's ``_normalize_waveform``): the model cannot tell.

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
