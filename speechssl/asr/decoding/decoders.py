"""Decoders behind one contract: log-probabilities of an utterance in, text with words in time and an n-best list out.

`build_decoder` makes one of ``DecoderConfig``: greedy, prefix beam search, beam search over a lexicon, or with an
n-gram language model. All give words with frames and a confidence, from the path of the hypothesis through the frames.
"""

from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.decoding.decode import best_path, collapse, prefix_beam, spans
from speechssl.asr.decoding.language_model import open_graph, search_with
from speechssl.asr.decoding.search import Graph, Search, Spelling
from speechssl.asr.tokens import BLANK, Tokens
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError

__all__ = ["Decoded", "DecodedWord", "Decoder", "build_decoder", "decoded_words", "describe", "searcher"]


@dataclass(frozen=True)
class DecodedWord:
    """A word of a hypothesis."""

    word: str
    start: int
    end: int
    """Frames ``start <= f < end``."""
    confidence: float
    """0 to 1. greedy, beam: product over the word's labels of the highest probability that a frame gives the label.
    lexicon, lm, where the labels are also chosen by words: geometric mean of the labels' probabilities over the frames
    that emit them."""


@dataclass(frozen=True)
class Decoded:
    """The result of decoding one utterance."""

    text: str
    words: tuple[DecodedWord, ...] = ()
    """The words of ``text``."""
    n_best: tuple[tuple[str, float], ...] = ()
    """Distinct texts and their scores (natural logarithm; language model and word scores included), best first."""


class Decoder(Protocol):
    """Turns ``[F, V]`` log-probabilities (float32, CPU, no padding) into a `Decoded`."""

    def __call__(self, log_probs: Tensor) -> Decoded:
        """Decode one utterance; without frames there are no words."""


def build_decoder(cfg: DecoderConfig, tokens: Tokens, *, model: Path | None = None) -> Decoder:
    """Return the decoder that the settings ask for.

    The words of the training transcripts and ``lm.arpa`` are looked for in ``model``, the recogniser's folder.

    Raises
    ------
    ConfigError
        Settings that cannot go together, something that is not installed, or no lexicon or language model.
    DataError
        A lexicon or a language model that cannot be read.
    """
    if min(cfg.beam, cfg.beam_tokens, cfg.n_best, cfg.jobs) < 1 or not cfg.beam_threshold > 0:
        raise ConfigError("decoder.beam, beam_tokens, n_best and jobs must be at least 1, beam_threshold above 0")
    for name in ("lm_weight", "word_score", "hotword_score"):
        if not isfinite(value := getattr(cfg, name)):
            raise ConfigError(f"decoder.{name} must be a finite number, not {value}")
    if cfg.hotwords and cfg.kind not in ("lexicon", "lm"):
        raise ConfigError(f"hotwords need a lexicon: use --decoder.kind lexicon or lm, not {cfg.kind}")
    if cfg.kind == "greedy":
        return _Greedy(tokens)
    if cfg.kind == "beam":
        return _PrefixBeam(tokens, beam=cfg.beam, n_best=cfg.n_best)
    return searcher(cfg, open_graph(cfg, tokens, model=model))


def searcher(cfg: DecoderConfig, graph: Graph) -> Decoder:
    """Return the decoder of an open graph (`open_graph`); settings may differ from the graph's in weights only."""
    return _SearchDecoder(search_with(cfg, graph), graph.tokens, n_best=cfg.n_best)


def describe(cfg: DecoderConfig) -> str:
    """Return a description of the decoder, for tables."""
    if cfg.kind == "greedy":
        return "greedy"
    if cfg.kind == "beam":
        return f"prefix beam search over characters, beam {cfg.beam}, no language model"
    hot = f", {len(cfg.hotwords)} hotwords (score {cfg.hotword_score:g})" if cfg.hotwords else ""
    if cfg.kind == "lexicon":
        words = f"the words of {cfg.lexicon}" if cfg.lexicon else "the words of the training transcripts"
        return f"beam search over {words}, beam {cfg.beam}, no language model{hot}"
    weights = f"weight {cfg.lm_weight:g}, word score {cfg.word_score:g}"
    return f"beam search with the language model {cfg.lm or 'of the model folder'}, {weights}, beam {cfg.beam}{hot}"


def decoded_words(
    path: npt.NDArray[np.int64], log_probs: Tensor, tokens: Tokens, *, searched: bool = False
) -> tuple[DecodedWord, ...]:
    """Return the words that a frame-wise path ``[F]`` through ``log_probs [F, V]`` spells.

    ``searched`` means that a search chose the path, which changes how confidence is computed (`DecodedWord`).
    """
    scores = np.take_along_axis(log_probs.numpy(), path[:, None], axis=1)[:, 0]
    labels = spans(path, scores)
    words = []
    for text, positions in tokens.words([label.token for label in labels]):
        parts = [labels[position] for position in positions]
        if searched:
            frames = sum(part.end - part.start for part in parts)
            certainty = sum(part.score * (part.end - part.start) for part in parts) / frames
        else:
            certainty = sum(float(scores[part.start : part.end].max()) for part in parts)
        words.append(DecodedWord(text, parts[0].start, parts[-1].end, min(1.0, exp(certainty))))
    return tuple(words)


class _Greedy:
    """The most probable path."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __call__(self, log_probs: Tensor) -> Decoded:
        path, scores = best_path(log_probs)
        words = decoded_words(path, log_probs, self.tokens)
        text = " ".join(word.word for word in words)
        return Decoded(text, words, ((text, float(scores.sum())),))


class _PrefixBeam:
    """The most probable labellings, summed over alignments; words are timed by the best alignment of the first."""

    def __init__(self, tokens: Tokens, *, beam: int, n_best: int) -> None:
        self.tokens, self.beam, self.n_best = tokens, beam, n_best

    def __call__(self, log_probs: Tensor) -> Decoded:
        from torchaudio.functional import forced_align

        found = prefix_beam(log_probs, self.tokens, self.beam, self.n_best)
        n_best = _distinct([(one.text, one.score) for one in found])
        if not found[0].ids:
            return Decoded(found[0].text, (), n_best)
        finite = log_probs.clamp(min=-1e4).contiguous()  # the kernel does not check bounds
        path, _ = forced_align(finite[None], torch.tensor([found[0].ids], dtype=torch.int32), blank=BLANK)
        words = decoded_words(path[0].numpy().astype(np.int64), log_probs, self.tokens)
        return Decoded(found[0].text, words, n_best)


class _SearchDecoder:
    """flashlight's search."""

    def __init__(self, search: Search, tokens: Tokens, *, n_best: int) -> None:
        self.search, self.tokens, self.n_best = search, tokens, n_best

    def __call__(self, log_probs: Tensor) -> Decoded:
        found = self.search(log_probs, self.n_best)
        if not found:
            return Decoded("", (), (("", float("-inf")),) if len(log_probs) else (("", 0.0),))
        words = decoded_words(found[0].labels, log_probs, self.tokens, searched=True)
        text = " ".join(word.word for word in words)
        others = [(self._text(one), one.score) for one in found[1:]]
        return Decoded(text, words, _distinct([(text, found[0].score), *others]))

    def _text(self, one: Spelling) -> str:
        return " ".join(one.words) or self.tokens.decode(collapse(one.labels))


def _distinct(texts: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Return the texts without repeats; the first of each has the best score."""
    best: dict[str, float] = {}
    for text, score in texts:
        best.setdefault(text, score)
    return tuple(best.items())
