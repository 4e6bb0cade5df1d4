"""Beam search over words that are known: a lexicon spelled in the recogniser's characters, no language model.

In: log-probabilities of one utterance. Out: the most probable sequence of lexicon words. The search is flashlight's,
through torchaudio; it cannot produce a word outside the lexicon, so the lexicon is part of what a score means.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.asr.tokens import BLANK, BOUNDARY, Tokens
from speechssl.errors import ConfigError

__all__ = ["LexiconDecoder", "words_of"]

THRESHOLD = 30.0
"""Hypotheses further than this (in log-probability) below the best are dropped."""


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct words of normalised transcripts, sorted."""
    return sorted({word for text in texts for word in text.split()})


class LexiconDecoder:
    """Decodes utterances into words of a lexicon (Collobert et al. 2016, section 2.3, without a language model).

    Parameters
    ----------
    tokens
        A character vocabulary.
    words
        The lexicon; words with a character outside the vocabulary cannot be spelled and are left out.
    beam
        Hypotheses kept at each frame.

    Raises
    ------
    ConfigError
        flashlight-text is not installed, the vocabulary is not of characters, or no word can be spelled.
    """

    def __init__(self, tokens: Tokens, words: Iterable[str], *, beam: int = 100) -> None:
        try:
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"the lexicon decoder needs flashlight-text: pip install 'speechssl[decode]' ({error})"
            ) from error
        if tokens.kind != "characters":
            raise ConfigError("the lexicon decoder spells words in characters; this model has sentencepiece tokens")
        self._boundary = tokens.symbols.index(BOUNDARY)
        self.words = tuple(word for word in words if set(word) <= tokens.characters)
        if not self.words:
            raise ConfigError("no word of the lexicon can be spelled with the model's characters")
        with tempfile.TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon.txt"
            lexicon.write_text(
                "".join(f"{word} {' '.join(word)} {BOUNDARY}\n" for word in self.words), encoding="utf-8"
            )
            self._search: Any = self._build(ctc_decoder, str(lexicon), tokens, beam)

    @staticmethod
    def _build(ctc_decoder: Any, lexicon: str, tokens: Tokens, beam: int) -> Any:
        try:
            return ctc_decoder(
                lexicon=lexicon,
                tokens=list(tokens.symbols),
                lm=None,
                beam_size=beam,
                beam_size_token=min(len(tokens.symbols), 20),
                beam_threshold=THRESHOLD,
                blank_token=tokens.symbols[BLANK],
                sil_token=BOUNDARY,
            )
        except ImportError as error:  # torchaudio looks for flashlight-text when it is first used
            raise ConfigError(
                f"the lexicon decoder needs flashlight-text: pip install 'speechssl[decode]' ({error})"
            ) from error

    def __call__(self, log_probs: Tensor) -> str:
        """Return the words of ``log_probs [F, V]`` (float32, CPU), joined by spaces; no frame, no words."""
        if len(log_probs) == 0:
            return ""
        # In the lexicon a word ends in a boundary, an utterance does not: one more frame closes the last word for free.
        closing = log_probs.new_full((1, log_probs.shape[1]), -1e4)
        closing[0, [BLANK, self._boundary]] = 0.0
        best = self._search(torch.cat([log_probs, closing])[None])[0]
        return " ".join(best[0].words) if best else ""
