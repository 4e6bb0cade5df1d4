"""The words that a search may produce: from a file, from a language model, or those of the training transcripts.

In: where to look. Out: distinct words that can be spelled with the recogniser's characters. A search cannot produce a
word outside its lexicon, so a score depends on the lexicon.
"""

import json
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechssl.asr.tokens import BOUNDARY, Tokens
from speechssl.core.errors import ConfigError, DataError

__all__ = ["read_lexicon", "spellable", "training_words", "words_of"]

LEAST = 0.1
"""Share of a lexicon that the model must be able to spell."""


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the distinct words of normalised transcripts, sorted."""
    return sorted({word for text in texts for word in text.split()})


def training_words(model: Path | None) -> list[str]:
    """Return the words of a recogniser's training transcripts, which its folder lists.

    Raises ConfigError when no folder is known, or it does not list them.
    """
    if model is None:
        raise ConfigError("no lexicon: give --decoder.lexicon, a file with one word per line")
    try:
        words = json.loads((model / "config.json").read_text(encoding="utf-8")).get("info", {}).get("words")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{model}: not a model folder ({error}); give --model, or --decoder.lexicon") from error
    if not words:
        raise ConfigError(
            f"{model} does not list its training words; give --decoder.lexicon, a file with one word per line, or "
            "fine-tune it again"
        )
    return [str(word) for word in words]


def read_lexicon(path: Path) -> list[str]:
    """Return the words of a lexicon file, in order. A line is a word, or a word and its spelling (``cat c a t |``).

    Raises
    ------
    ConfigError
        There is no such file.
    DataError
        A spelling is not the word's characters (it is named), there is no word, or the file is not UTF-8.
    """
    words: dict[str, None] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such lexicon; decoder.lexicon is a file with one word per line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        word, *spelling = line.split() or [""]
        if spelling and spelling not in ([*word], [*word, BOUNDARY]):
            raise DataError(
                f"{path}, line {number}: {word!r} is not spelled by its characters ({' '.join(spelling)}); spellings "
                "of another kind are not supported: leave only the word"
            )
        if word:
            words[word] = None
    if not words:
        raise DataError(f"{path}: no words; a lexicon has one word per line")
    return list(words)


def spellable(words: Iterable[str], tokens: Tokens, *, source: str) -> list[str]:
    """Return the distinct words whose characters are all in the vocabulary, and warn about the others.

    Raises ConfigError, which names ``source``, when no word, or a smaller share than ``LEAST``, can be spelled.
    """
    every = [word for word in dict.fromkeys(words) if word]
    kept = [word for word in every if set(word) <= tokens.characters]
    if len(kept) == len(every) and kept:
        return kept
    left_out = [word for word in every if not set(word) <= tokens.characters]
    example = f" (such as {left_out[0]!r})" if left_out else ""
    if not kept:
        raise ConfigError(
            f"no word of the lexicon ({source}: {len(every)} words{example}) can be spelled with the model's "
            f"characters ({''.join(tokens.symbols[1:])}); {_advice(left_out, tokens)}"
        )
    count = f"{len(left_out)} of {len(every)} words"
    said = f"{count} of the lexicon ({source}) cannot be spelled with the model's characters"
    if len(kept) < LEAST * len(every):
        raise ConfigError(f"{said}{example}; {_advice(left_out, tokens)}")
    if multiprocessing.parent_process() is None:  # not once for each decoding process
        print(f"warning: {said}{example}: they cannot be recognised", file=sys.stderr, flush=True)
    return kept


def _advice(words: Sequence[str], tokens: Tokens) -> str:
    """Return what to do about words that cannot be spelled."""
    normal = [(word, tokens.normal(word)) for word in words]
    could = [(word, form) for word, form in normal if form and set(form) <= tokens.characters]
    if 2 * len(could) < len(words) or not could:
        return "does the lexicon use another case or script?"
    word, form = could[0]
    return f"{len(could)} of them can be spelled in the model's form ({form!r} for {word!r}): write the words so"
