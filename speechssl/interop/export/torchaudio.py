"""State dicts of torchaudio's ``wav2vec2_model``, which recogniser and encoder are the same class of.

In: a model folder's content. Out: ``model.pt``, ``config.json`` with the arguments of ``wav2vec2_model``, and for a
recogniser ``labels.txt``, one symbol a line. The mask embedding has no place there: only training needs it.
"""

import json
from pathlib import Path

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional

from speechssl.core.errors import ConfigError
from speechssl.core.files import atomic_file, write_atomic, write_json
from speechssl.interop.export.peer import Answer, Peer, collapsed, symbols_of
from speechssl.interop.huggingface import encoder_to_huggingface
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.norm import WAVEFORM_EPS

__all__ = ["open_torchaudio", "write_torchaudio"]


def write_torchaudio(folder: Path, model: ModelFolder, encoder: SpeechEncoder) -> str:
    """Fill a folder; return the name of the class.

    Raises ConfigError where torchaudio has no such encoder: log-mel, causal, other blocks or positions.
    """
    cfg = encoder.cfg
    if cfg.encoder.relative_position == "gated":
        raise ConfigError("gated relative positions are not exported to torchaudio; --to hf writes a WavLM")
    if cfg.encoder.pos_depth > 1:
        raise ConfigError(
            "several positional convolutions are not exported to torchaudio; --to hf writes a data2vec-audio"
        )
    theirs, _ = encoder_to_huggingface(encoder)
    del theirs["masked_spec_embed"]
    state = {_name(name): value for name, value in theirs.items()}
    state |= {f"aux.{leaf}": value.clone() for leaf, value in model.part("head").items()}
    pre = cfg.encoder.norm == "pre"
    settings = {
        "extractor_mode": f"{cfg.frontend.norm}_norm",
        "extractor_conv_layer_config": [list(layer) for layer in cfg.frontend.conv_layers],
        "extractor_conv_bias": cfg.frontend.bias,
        "encoder_embed_dim": cfg.encoder.dim,
        "encoder_projection_dropout": cfg.encoder.input_dropout,
        "encoder_pos_conv_kernel": cfg.encoder.pos_kernel,
        "encoder_pos_conv_groups": cfg.encoder.pos_groups,
        "encoder_num_layers": cfg.encoder.layers,
        "encoder_num_heads": cfg.encoder.heads,
        "encoder_attention_dropout": cfg.encoder.attention_dropout,
        "encoder_ff_interm_features": cfg.encoder.ffn_dim,
        "encoder_ff_interm_dropout": cfg.encoder.activation_dropout,
        "encoder_dropout": cfg.encoder.dropout,
        "encoder_layer_norm_first": pre,
        "encoder_layer_drop": cfg.encoder.layer_drop,
        "aux_num_out": len(state["aux.bias"]) if model.tokens else None,
    }
    with atomic_file(folder / "model.pt") as file:
        torch.save(state, file)
    if model.tokens:
        write_atomic(folder / "labels.txt", "\n".join(symbols_of(model, "-", "|")) + "\n")
    write_json(folder / "config.json", {"normalize_waveform": cfg.normalize, "wav2vec2_model": settings}, indent=2)
    return "torchaudio.models.Wav2Vec2Model"


def _name(name: str) -> str:
    """Return torchaudio's name of a tensor of transformers."""
    if name.startswith("feature_projection."):
        return f"encoder.{name}"
    return name.replace("encoder.", "encoder.transformer.", 1) if name.startswith("encoder.") else name


def open_torchaudio(folder: Path) -> Peer:
    """Return what torchaudio makes of a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    module = torchaudio.models.wav2vec2_model(**config["wav2vec2_model"]).eval()
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    labels = folder / "labels.txt"
    symbols = labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []

    @torch.inference_mode()
    def answer(wave: Tensor) -> Answer:
        if config["normalize_waveform"]:
            wave = functional.layer_norm(wave, wave.shape, eps=WAVEFORM_EPS)
        values = module(wave[None])[0][0]
        if not symbols:
            return Answer(values)
        values = values.log_softmax(-1)
        return Answer(values, collapsed(values, symbols, "▁" if "|" not in symbols else "|"))

    return answer
