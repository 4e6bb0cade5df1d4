"""Folders that ``from_pretrained`` and the pipelines of transformers read: encoders, recognisers, pretrained models.

In: a model folder's content. Out: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``; of a recogniser
its tokenizer as well. A wav2vec 2.0 model with its quantiser becomes a ``Wav2Vec2ForPreTraining``.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.files import write_atomic, write_json
from speechssl.interop.export.peer import Answer, Peer, missing, symbols_of
from speechssl.interop.huggingface import PREFIXES, encoder_to_huggingface, preprocessor_config
from speechssl.interop.model_folder import ModelFolder
from speechssl.models.encoder import SpeechEncoder

__all__ = ["open_huggingface", "write_huggingface"]

PAD = "<pad>"
"""transformers calls the CTC blank so."""
PROJECTIONS = {
    "project_hid": "project_context",
    "project_q": "project_targets",
    "quantizer.weight_proj": "quantizer.weight_proj",
}
"""Heads of ``Wav2Vec2ForPreTraining`` -> ours."""


def write_huggingface(folder: Path, model: ModelFolder, encoder: SpeechEncoder) -> str:
    """Fill a folder; return the name of the class of transformers that reads all of it.

    Raises ConfigError where transformers has no such encoder (``encoder_to_huggingface``).
    """
    from safetensors.torch import save

    pretrained = model.info.get("objective") if model.tokens is None else None
    state, config = encoder_to_huggingface(encoder, "hubert" if pretrained == "hubert" else "wav2vec2")
    name = str(config["architectures"][0])
    prefix = PREFIXES[config["model_type"]]
    preprocessor = preprocessor_config(encoder)
    if model.tokens is not None:
        state = {prefix + key: value for key, value in state.items()}
        state |= {f"lm_head.{leaf}": value.clone() for leaf, value in model.part("head").items()}
        name = name.replace("Model", "ForCTC")
        config |= {"vocab_size": len(state["lm_head.weight"]), "pad_token_id": 0, "bos_token_id": None}
        config |= {"eos_token_id": None, "ctc_zero_infinity": True, "ctc_loss_reduction": "mean"}
        preprocessor["processor_class"] = "Wav2Vec2Processor"
        _write_tokenizer(folder, model)
    elif prefix == "wav2vec2." and "quantizer.codebooks" in model.state:
        state = {prefix + key: value for key, value in state.items()}
        heads, sizes = _pretraining_heads(model)
        state, config = state | heads, config | sizes
        name = "Wav2Vec2ForPreTraining"
    config["architectures"] = [name]
    write_atomic(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
    write_json(folder / "config.json", config, indent=2)
    write_json(folder / "preprocessor_config.json", preprocessor, indent=2)
    return name


def _pretraining_heads(model: ModelFolder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return quantiser and projections of a wav2vec 2.0 model in their names, and their sizes."""
    books = model.state["quantizer.codebooks"]
    state = {"quantizer.codevectors": books.flatten(0, 1)[None].clone()}
    for theirs, ours in PROJECTIONS.items():
        state |= {f"{theirs}.{leaf}": value.clone() for leaf, value in model.part(ours).items()}
    groups, entries, size = books.shape
    sizes = {"num_codevector_groups": groups, "num_codevectors_per_group": entries, "codevector_dim": groups * size}
    return state, sizes | {"proj_codevector_dim": len(state["project_q.weight"])}


def _write_tokenizer(folder: Path, model: ModelFolder) -> None:
    """Write the tokenizer: characters as ``Wav2Vec2CTCTokenizer``, sentencepiece as the CTC tokenizer of Parakeet.

    An unknown character has no output of the model: transformers refuses its id in the labels of a fine-tuning.
    """
    assert model.tokens is not None
    settings: dict[str, Any] = {"pad_token": PAD, "clean_up_tokenization_spaces": False}
    if model.tokens["kind"] == "characters":
        vocabulary = {symbol: number for number, symbol in enumerate(symbols_of(model, PAD, "|"))}
        write_json(folder / "vocab.json", vocabulary, indent=0, ensure_ascii=False)
        settings |= {"tokenizer_class": "Wav2Vec2CTCTokenizer", "unk_token": "<unk>", "bos_token": None}
        settings |= {"eos_token": None, "word_delimiter_token": "|", "do_lower_case": False}
    else:
        settings["tokenizer_class"] = "ParakeetTokenizer"
        write_json(folder / "tokenizer.json", _pieces(model), ensure_ascii=False)
    write_json(folder / "tokenizer_config.json", settings, indent=2)


def _pieces(model: ModelFolder) -> dict[str, Any]:
    """Return the content of ``tokenizer.json`` for a sentencepiece vocabulary."""
    import base64

    try:
        import sentencepiece
    except ImportError as error:
        raise missing("sentencepiece", "bpe", "the export of a sentencepiece vocabulary") from error
    tokens: dict[str, Any] = model.tokens or {}
    pieces = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(tokens["sentencepiece"]))
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    blank = {"id": 0, "content": PAD, "special": True}
    blank |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocabulary = [[PAD, 0.0], *([piece, pieces.get_score(i)] for i, piece in enumerate(tokens["symbols"]) if i)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [blank], "normalizer": None,
        "pre_tokenizer": space, "post_processor": None, "decoder": space,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
    }  # fmt: skip


def open_huggingface(folder: Path) -> Peer:
    """Return what transformers makes of a folder: of a recogniser its log-probabilities and its pipeline's text.

    Raises ConfigError when transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing("transformers", "hf", "the comparison with transformers") from error
    transformers.utils.logging.disable_progress_bar()
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    module = getattr(transformers, name).from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    read = None
    if name.endswith("ForCTC"):
        read = transformers.pipeline("automatic-speech-recognition", str(folder), device="cpu")

    @torch.inference_mode()
    def answer(wave: Tensor) -> Answer:
        samples = wave.numpy()
        inputs = extractor([samples], sampling_rate=extractor.sampling_rate, return_tensors="pt").input_values
        if read is None:
            return Answer(getattr(module, module.base_model_prefix, module)(inputs).last_hidden_state[0])
        text = read({"raw": samples, "sampling_rate": extractor.sampling_rate})["text"]
        # The tokenizer writes two spaces where the model puts two boundaries between words.
        return Answer(module(inputs).logits[0].log_softmax(-1), " ".join(text.split()))

    return answer
