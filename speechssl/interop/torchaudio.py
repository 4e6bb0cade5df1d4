"""Models of torchaudio: wav2vec 2.0, HuBERT, WavLM.

In: a ``torchaudio.models.Wav2Vec2Model`` (or ``HuBERTPretrainModel``) with its weights, or the state dict of one. Out:
a SpeechEncoder that gives the same numbers, or a ``Foreign``. The names of torchaudio's tensors are nearly those of
transformers, so the same mapping is used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from speechssl.core.errors import ConfigError
from speechssl.core.files import find_json
from speechssl.interop.foreign import Foreign, described
from speechssl.interop.huggingface import WEIGHT_NORM, encoder_from_huggingface
from speechssl.interop.vocabulary import ctc_head, exported_symbols, fairseq_symbols
from speechssl.models.encoder import SpeechEncoder

__all__ = ["encoder_from_torchaudio", "is_torchaudio", "read_torchaudio"]

UNIT_HEADS = {"logit_generator.label_embeddings": "embeddings"}
"""A head of ``HuBERTPretrainModel`` and its name here, where it is not only the beginning that differs."""


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
    state: dict[str, Tensor] = {}
    for name, value in core.state_dict().items():
        if not name.startswith("aux."):
            state |= _renamed(name, value)
    if core is not whole:
        state["masked_spec_embed"] = whole.mask_generator.mask_embedding
    return encoder_from_huggingface(state, _config(core), normalize=normalize)


def is_torchaudio(content: Mapping[str, Any]) -> bool:
    """Whether a state dict has the names of torchaudio."""
    return any(".encoder.transformer." in f".{name}" for name in content)


def read_torchaudio(content: Mapping[str, Any], path: Path) -> Foreign:
    """Return the model of a state dict of torchaudio, such as those of its pipelines.

    A state dict has no configuration: `described` says what is taken for granted. Whether waveforms are normalised is
    in the ``config.json`` that our own export writes beside it. A CTC head is read when its labels are in the file's
    folder: ``labels.txt`` of our export, or ``dict.ltr.txt`` of fairseq.

    Raises
    ------
    CheckpointError
        Tensors of such a model are missing, or the labels do not fit.
    ConfigError
        The stem is another one.
    """
    state = {name.removeprefix("wav2vec2."): value for name, value in content.items()}
    encoder, heads, ctc = {}, {}, {}
    for name, value in state.items():
        if name.startswith("aux."):
            ctc[name.removeprefix("aux.")] = value
        elif name.startswith("logit_generator."):
            heads[UNIT_HEADS.get(name, name.replace("logit_generator.final_proj", "projection"))] = value
        elif name == "mask_generator.mask_embedding":
            encoder["masked_spec_embed"] = value
        elif not name.startswith("feature_grad_mult"):
            encoder |= _renamed(name, value)
    if gates := [value for name, value in encoder.items() if name.endswith("0.attention.gru_rel_pos_const")]:
        embedding = encoder["encoder.layers.0.attention.rel_attn_embed.weight"]
        config = described(encoder, kind="wavlm", heads=gates[0].numel()) | {"num_buckets": len(embedding)}
    else:
        config = described(encoder)
    beside = find_json(path.parent / "config.json")
    normalize = beside.get("normalize_waveform") if isinstance(beside, dict) else None
    if heads:
        return Foreign("torchaudio", encoder, config, normalize, heads, None, "hubert")
    if not ctc:
        return Foreign("torchaudio", encoder, config, normalize)
    outputs = len(ctc["weight"])
    if (symbols := exported_symbols(path, outputs) or fairseq_symbols(path, outputs)) is None:
        why = f"the CTC head (no labels in the file; put dict.ltr.txt of fairseq into {path.parent})"
        return Foreign("torchaudio", encoder, config, normalize, left_out=why)
    head, tokens = ctc_head(ctc["weight"], ctc["bias"], symbols, blank=0)
    return Foreign("torchaudio", encoder, config, normalize, head, tokens, "ctc")


def _renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor of the encoder by its names in transformers."""
    name = name.replace("encoder.transformer.", "encoder.")
    name = name.replace("encoder.feature_projection.", "feature_projection.")
    name = name.replace(".attention.attention.", ".attention.")  # WavLM
    start, _, leaf = name.rpartition(".in_proj_")
    if start:
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{start}.{part}_proj.{leaf}": chunk for part, chunk in parts}
    return {WEIGHT_NORM.get(name, name): value}
