"""A folder that transformers wrote: configuration, weights, waveform settings and vocabulary.

In: a folder of ``save_pretrained``, with safetensors (whole or in shards) or ``pytorch_model.bin``. Out: a ``Foreign``
with the encoder and the heads that our recogniser or objective has, too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.checkpoint_file import read_checkpoint
from speechssl.interop.foreign import Foreign
from speechssl.interop.huggingface import split_heads
from speechssl.interop.vocabulary import ctc_head

__all__ = ["is_huggingface", "read_huggingface"]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a git-lfs pointer, which stands in for a large file that was not fetched."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = "Wav2Vec2CTCTokenizer"


def is_huggingface(folder: Path) -> bool:
    """Whether the configuration of a folder names a model type of transformers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config and "format" not in config


def read_huggingface(folder: Path) -> Foreign:
    """Return the model of a folder.

    Raises
    ------
    CheckpointError
        A file is missing, damaged, a git-lfs pointer, or does not fit the others.
    """
    from safetensors import SafetensorError

    try:
        config = json.loads(_fetched(folder / "config.json").read_text(encoding="utf-8"))
        # One file since transformers 5, with the settings of the feature extractor in it.
        waves = _json(folder / "processor_config.json").get("feature_extractor")
        waves = waves or _json(folder / "preprocessor_config.json")
        if (rate := waves.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
            raise ConfigError(f"{folder}: the model hears {rate} samples a second; only {SAMPLE_RATE} is supported")
        state, rest = split_heads(_weights(folder))
        heads, tokens, objective, left_out = _heads(folder, config, rest)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a Hugging Face model folder that can be read: {error}") from error
    return Foreign("Hugging Face", state, config, waves.get("do_normalize"), heads, tokens, objective, left_out)


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that may be missing."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the first of `WEIGHTS` that is there, whole or as shards that its index names."""
    from safetensors.torch import load_file

    for whole in WEIGHTS:
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            names = [whole]
        elif index.is_file():
            shards = json.loads(_fetched(index).read_text(encoding="utf-8"))["weight_map"].values()
            names = sorted({Path(name).name for name in shards})  # names inside the folder only
        else:
            continue
        read = load_file if whole.endswith("safetensors") else read_checkpoint
        state: dict[str, Tensor] = {}
        for name in names:
            state |= read(_fetched(folder / name))
        return state
    raise CheckpointError(f"{folder}: no weights; there must be {' or '.join(WEIGHTS)}, or their shards and index")


def _fetched(path: Path) -> Path:
    """Return the path of a file that is there, and no git-lfs pointer to it."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{path}: a git-lfs pointer, not the file; run `git lfs pull` in that folder")
    return path


def _heads(
    folder: Path, config: Mapping[str, Any], rest: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any] | None, str, str]:
    """Return the heads by our names, the labels of a CTC head, what they were trained for, and what is left out."""
    if "lm_head.weight" in rest:
        if not (symbols := _symbols(folder)):
            return {}, None, "", "the CTC head (the folder has no vocab.json that a CTC tokenizer of characters wrote)"
        settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
        numbers = {symbol: row for row, symbol in symbols.items()}
        heads, tokens = ctc_head(
            rest["lm_head.weight"],
            rest["lm_head.bias"],
            symbols,
            blank=numbers.get(_token(settings, "pad_token", "<pad>"), int(config.get("pad_token_id") or 0)),
            boundary=_token(settings, "word_delimiter_token", "|"),
            lower=bool(settings.get("do_lower_case")),
        )
        return heads, tokens, "ctc", ""
    if "quantizer.codevectors" in rest:
        groups = int(config["num_codevector_groups"])
        entries = rest["quantizer.codevectors"][0]
        heads = {"quantizer.codebooks": entries.unflatten(0, (groups, -1))}
        for leaf in ("weight", "bias"):
            heads[f"quantizer.weight_proj.{leaf}"] = rest[f"quantizer.weight_proj.{leaf}"]
            heads[f"project_targets.{leaf}"] = rest[f"project_q.{leaf}"]
            heads[f"project_context.{leaf}"] = rest[f"project_hid.{leaf}"]
        return heads, None, "wav2vec2", ""
    others = sorted({name.split(".")[0] for name in rest})
    return {}, None, "", f"heads without a counterpart ({', '.join(others)})" if others else ""


def _token(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Return a special token of a tokenizer, which is written as text or as a table with it."""
    token = settings.get(name) or default
    return str(token["content"] if isinstance(token, dict) else token)


def _symbols(folder: Path) -> dict[int, str]:
    """Return output -> symbol of the tokenizer; nothing for another kind than that of characters."""
    settings = _json(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class", TOKENIZER) != TOKENIZER:
        return {}
    vocabulary = _json(folder / "vocab.json") | _json(folder / "added_tokens.json")
    if any(not isinstance(index, int) for index in vocabulary.values()):
        raise ConfigError(f"{folder / 'vocab.json'}: not symbol -> number; a vocabulary of each language is not read")
    added = {int(index): str(token["content"]) for index, token in settings.get("added_tokens_decoder", {}).items()}
    return added | {index: symbol for symbol, index in vocabulary.items()}
