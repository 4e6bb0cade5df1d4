"""Finding and opening what a search needs: language model, lexicon, hotwords.

In: ``DecoderConfig`` and the recogniser. Out: a `Graph` and the weights to search it with.
"""

import gzip
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from speechssl.asr.decoding.hotwords import favour, favour_in
from speechssl.asr.decoding.lexicon import read_lexicon, spellable, training_words
from speechssl.asr.decoding.search import Graph, Search
from speechssl.asr.lm.arpa import is_arpa, read_words
from speechssl.asr.tokens import BOUNDARY, Tokens
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError

__all__ = ["NAMES", "find_lm", "open_graph", "search_with"]

NAMES = ("lm.arpa", "lm.arpa.gz", "lm.bin")
"""File names of a language model in a model folder."""


def find_lm(name: str, model: Path | None) -> Path:
    """Return the file of a language model given as a file, as a folder that holds one, or not at all (model folder).

    Raises ConfigError when there is none; the message says how to make one.
    """
    place = Path(name) if name else model
    if place is None:
        raise ConfigError("no language model; give --decoder.lm, an ARPA file or a KenLM binary")
    if place.is_file():
        return place
    for candidate in NAMES:
        if (place / candidate).is_file():
            return place / candidate
    if place.is_dir():
        raise ConfigError(
            f"{place} holds no language model ({', '.join(NAMES)}); give --decoder.lm, or make one: "
            f"speechssl lm MANIFEST|SHARDS|TEXT {place / NAMES[0]}"
        )
    raise ConfigError(f"{place}: no such language model; make one: speechssl lm MANIFEST|SHARDS|TEXT {place}")


def open_graph(cfg: DecoderConfig, tokens: Tokens, *, model: Path | None = None) -> Graph:
    """Return the graph of the settings; ``search_with`` makes a search of it.

    Raises ConfigError or DataError when there is no lexicon or language model, or it cannot be used.
    """
    lm = find_lm(cfg.lm, model) if cfg.kind == "lm" else None
    arpa = lm is not None and is_arpa(lm)
    words, source = _lexicon(cfg, tokens, model=model, lm=lm, arpa=arpa)
    hotwords = _hotwords(cfg, tokens)
    if not hotwords:
        with tempfile.TemporaryDirectory() as folder:
            plain = _plain(lm, Path(folder)) if lm and arpa else lm
            return Graph(tokens, None if words is None else spellable(words, tokens, source=source), lm=plain, name=lm)
    if words is None:
        raise ConfigError("hotwords need a lexicon, and a language model of tokens has none; use one of words")
    if lm and not arpa:
        raise ConfigError(
            f"{lm}: hotwords go into an ARPA file, and this is a KenLM binary; give the ARPA it was made of"
        )
    spelled = spellable([*words, *hotwords], tokens, source=source)
    missing = [word for word in hotwords if word not in spelled]
    if missing:
        raise ConfigError(f"the hotword {missing[0]!r} cannot be spelled with the model's characters")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "hotwords.arpa"
        boost = _boost(cfg)
        if lm:
            favour_in(lm, target, hotwords, boost)
        else:
            favour(target, spelled, hotwords, boost)
        return Graph(tokens, spelled, lm=target, bonus=boost, name=lm)


def search_with(cfg: DecoderConfig, graph: Graph) -> Search:
    """Return a search of ``graph``, which `open_graph` made with settings that may differ in weights only."""
    return Search(graph, _effective(cfg) if cfg.hotwords else cfg)


def _hotwords(cfg: DecoderConfig, tokens: Tokens) -> list[str]:
    """Return the hotwords in the model's normalisation; a phrase gives its words."""
    words = [word for text in cfg.hotwords for word in tokens.normal(text).split()]
    if cfg.hotwords and not words:
        raise ConfigError(f"no word in the hotwords {list(cfg.hotwords)}")
    if words and cfg.hotword_score <= 0:
        raise ConfigError(f"decoder.hotword_score must be above 0, not {cfg.hotword_score}")
    if words and cfg.kind == "lm" and cfg.lm_weight <= 0:
        raise ConfigError("hotwords work through the language model: decoder.lm_weight must be above 0")
    return list(dict.fromkeys(words))


def _boost(cfg: DecoderConfig) -> float:
    """Return what hotwords gain in log10 before the language model's weight."""
    return cfg.hotword_score / (cfg.lm_weight if cfg.kind == "lm" else 1.0)


def _effective(cfg: DecoderConfig) -> DecoderConfig:
    """Return the weights whose word score gives back what the model of hotwords subtracted."""
    if cfg.kind == "lexicon":
        return replace(cfg, lm_weight=1.0, word_score=cfg.word_score + cfg.hotword_score)
    return replace(cfg, word_score=cfg.word_score + cfg.hotword_score)


def _lexicon(
    cfg: DecoderConfig, tokens: Tokens, *, model: Path | None, lm: Path | None, arpa: bool
) -> tuple[list[str] | None, str]:
    """Return the words of the lexicon (None: no lexicon) and their source."""
    if cfg.lexicon == "none":
        if lm is None:
            raise ConfigError("decoding without a lexicon needs a language model of tokens; use --decoder.kind lm")
        return None, ""
    if cfg.lexicon:
        return read_lexicon(Path(cfg.lexicon)), cfg.lexicon
    if lm is not None and arpa:
        words = read_words(lm)
        boundary = BOUNDARY if tokens.kind == "characters" else "▁"
        if any(word.startswith(boundary) for word in words):  # normalised words have no such character
            return None, ""
        return list(words), str(lm)
    return training_words(model), "the training transcripts"


def _plain(path: Path, folder: Path) -> Path:
    """Return the ARPA file itself, or a copy without gzip."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path
    target = folder / "lm.arpa"
    with gzip.open(path, "rb") as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return target
