"""flashlight's beam search: paths through frame-wise log-probabilities, limited by a lexicon or scored by an LM.

In: a vocabulary, a lexicon and a language model (or one of them), and log-probabilities of one utterance. Out: the best
paths, best first. Lexicon trie and language model are built once and shared by searches with other weights.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.asr.decoding.decode import collapse
from speechssl.asr.tokens import BLANK, BOUNDARY, Tokens
from speechssl.config import DecoderConfig
from speechssl.core.errors import ConfigError, DataError

__all__ = ["Graph", "Search", "Spelling", "import_flashlight"]

UNKNOWN = "<unk>"


def import_flashlight() -> Any:
    """Return flashlight's decoder module; ConfigError when flashlight-text is not installed."""
    try:
        import flashlight.lib.text.decoder
        import flashlight.lib.text.decoder.kenlm
    except ImportError as error:
        raise ConfigError(
            f"this decoder needs flashlight-text: pip install 'speechssl[decode]' ({error}); or use --decoder.kind beam"
        ) from error
    return flashlight.lib.text.decoder


@dataclass(frozen=True)
class Spelling:
    """One path of the search."""

    words: tuple[str, ...]
    """Empty without a lexicon; the labels then say the text."""
    labels: npt.NDArray[np.int64]
    """[F] token of each frame."""
    score: float
    """Log-probability of the path plus weighted language model and word scores (natural logarithm)."""


class Graph:
    """The search space: a trie of spelled words, and a language model.

    Parameters
    ----------
    tokens
        The recogniser's vocabulary.
    words
        The lexicon; None for none, with a language model over tokens.
    lm
        ARPA or KenLM binary, plain; None for no language model.
    bonus
        Added to the log10 probabilities that look ahead inside words: what a language model with hotwords
        (`speechssl.asr.decoding.hotwords`) subtracted from the other words.
    name
        What errors call the language model, when ``lm`` is a copy of it.

    Raises
    ------
    ConfigError
        flashlight-text is missing, or there is nothing to search with.
    DataError
        The language model cannot be read.
    """

    def __init__(
        self,
        tokens: Tokens,
        words: Sequence[str] | None,
        *,
        lm: Path | None = None,
        bonus: float = 0.0,
        name: Path | None = None,
    ) -> None:
        self._flashlight = import_flashlight()
        self.tokens = tokens
        self._name = name or lm
        self.words: tuple[str, ...] | None = None if words is None else tuple(words)
        if self.words is None:
            if lm is None:
                raise ConfigError("decoding without a lexicon needs a language model; give --decoder.lm")
            self._model = self._load(lm, list(tokens.symbols))
            return
        if tokens.kind != "characters":
            raise ConfigError(
                "a lexicon spells words in characters; this model has sentencepiece tokens: use --decoder.kind beam, "
                "or a language model of its pieces (speechssl lm --unit tokens --model MODEL), which needs no lexicon"
            )
        self._model = self._load(lm, [*self.words, UNKNOWN]) if lm else self._flashlight.ZeroLM()
        self._trie = self._spell(bonus)

    def _load(self, path: Path, entries: list[str]) -> Any:
        from flashlight.lib.text.dictionary import Dictionary

        try:
            with _quiet():
                return self._flashlight.kenlm.KenLM(str(path), Dictionary(entries))
        except (RuntimeError, ValueError, MemoryError) as error:
            said = " ".join(str(error).split())
            reason = re.sub(r"^\S+ in .*? threw \w+(?: because `.*?')?\. ?", "", said)  # without the place in C++
            raise DataError(
                f"{self._name}: not a language model that KenLM can read ({reason}); give an ARPA file or a KenLM "
                "binary, or make one from text with `speechssl lm`"
            ) from error

    def _spell(self, bonus: float) -> Any:
        assert self.words is not None
        ids = {symbol: index for index, symbol in enumerate(self.tokens.symbols)}
        boundary = ids[BOUNDARY]
        trie = self._flashlight.Trie(len(ids), boundary)
        start = self._model.start(False)
        for index, word in enumerate(self.words):
            _, score = self._model.score(start, index)
            trie.insert([*(ids[char] for char in word), boundary], index, score + bonus)
        trie.smear(self._flashlight.SmearingMode.MAX)
        return trie

    def decoder(self, cfg: DecoderConfig) -> Any:
        """Return flashlight's decoder with the beam and the weights of ``cfg``; it does not keep the graph alive."""
        flashlight = self._flashlight
        shared = {
            "beam_size": cfg.beam,
            "beam_size_token": min(cfg.beam_tokens, self.tokens.size),
            "beam_threshold": cfg.beam_threshold,
            "lm_weight": cfg.lm_weight,
            "sil_score": 0.0,
            "log_add": False,
            "criterion_type": flashlight.CriterionType.CTC,
        }
        if self.words is None:
            # Without a boundary token (sentencepiece) the blank stands in: it has no score of its own.
            silence = self.tokens.symbols.index(BOUNDARY) if self.tokens.kind == "characters" else BLANK
            options = flashlight.LexiconFreeDecoderOptions(**shared)
            return flashlight.LexiconFreeDecoder(options, self._model, silence, BLANK, [])
        options = flashlight.LexiconDecoderOptions(**shared, word_score=cfg.word_score, unk_score=-np.inf)
        boundary = self.tokens.symbols.index(BOUNDARY)
        return flashlight.LexiconDecoder(
            options, self._trie, self._model, boundary, BLANK, len(self.words), [], False
        )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a library writes to file descriptor 2 off the screen (KenLM draws a bar when it reads ARPA)."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Search:
    """A beam search through a graph (Collobert et al. 2016, section 2.3; Pratap et al. 2019).

    Paths are scored, not summed over alignments: log-probability of the frames' tokens + ``lm_weight`` x log10
    probability of the words (with the end of the sentence) + ``word_score`` x number of words.
    """

    def __init__(self, graph: Graph, cfg: DecoderConfig) -> None:
        self.graph = graph  # flashlight keeps references without ownership: keep its parts alive
        self._decoder = graph.decoder(cfg)
        closing = torch.full((1, graph.tokens.size), -1e4)
        if graph.words is not None:
            closing[0, [BLANK, graph.tokens.symbols.index(BOUNDARY)]] = 0.0
        self._closing = closing

    def __call__(self, log_probs: Tensor, n: int = 1) -> list[Spelling]:
        """Return the ``n`` best paths with distinct words of ``log_probs [F, V]`` (CPU), best first.

        None where the beam has lost every path that spells whole words.

        Raises DataError when the log-probabilities are not a number.
        """
        frames = len(log_probs)
        if not frames:
            return []
        values = log_probs.detach().float()
        if torch.isnan(values).any():
            raise DataError("log-probabilities are not a number; the model's weights or its input are broken")
        if self.graph.words is not None:
            # In the lexicon a word ends in a boundary, but an utterance does not: one more frame ends the last word at
            # no cost.
            values = torch.cat([values, self._closing])
        values = values.contiguous()
        self._decoder.decode_begin()
        self._decoder.decode_step(values.data_ptr(), *values.shape)
        self._decoder.decode_end()
        result: list[Spelling] = []
        seen: set[object] = set()
        for one in self._decoder.get_all_final_hypothesis():  # a single best result lacks its last frames
            spelling = self._spelling(one, frames)
            key = spelling.words if self.graph.words is not None else self._text(spelling.labels)
            if spelling.score == -np.inf or key in seen:
                continue
            seen.add(key)
            result.append(spelling)
            if len(result) == n:
                break
        return result

    def _spelling(self, one: Any, frames: int) -> Spelling:
        words = self.graph.words
        names = () if words is None else tuple(words[index] for index in one.words if index >= 0)
        # The path has one label before the first frame and one after the last.
        return Spelling(names, np.asarray(one.tokens[1 : frames + 1], dtype=np.int64), float(one.score))

    def _text(self, labels: npt.NDArray[np.int64]) -> str:
        return self.graph.tokens.decode(collapse(labels))
