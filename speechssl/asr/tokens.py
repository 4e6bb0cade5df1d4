"""Tokens: how a transcript becomes label ids, and how ids become a transcript again.

In: the training transcripts and ``TokensConfig``. Out: ``Tokens``, stored in the model folder's ``config.json``.
Id 0 is always the CTC blank. Words are separated by ``|`` (characters) or carry a leading ``▁`` (sentencepiece).
"""

import base64
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

from speechssl.config import TokensConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.text.casing import final_sigmas, language_code, lower_case
from speechssl.data.ingest.text.characters import JOINERS, visible
from speechssl.data.ingest.text.corpus_tags import tag_entries, untag

__all__ = ["BLANK", "BOUNDARY", "Tokens", "normalise_text"]

BLANK = 0
BOUNDARY = "|"
"""Symbol of the word boundary; a space in text. A literal ``|`` (or sentencepiece's ``▁``) in text is a space too."""

Rule = Literal["none", "basic"]
Kind = Literal["characters", "sentencepiece"]

_SPACES = str.maketrans({BOUNDARY: " ", "▁": " "})


class _BasicTable(dict[int, str]):
    """Translation of one code point under the rule ``basic``, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in "'\u2019\u02bc\uff07":
            result = "'"
        elif unicodedata.category(char)[0] in "LMN" or char in JOINERS or char == "·":
            result = unicodedata.normalize("NFKC", char) if _FORMS.match(char) else char
        else:
            result = " "
        self[code] = result
        return result


_FORMS = re.compile(
    "[\u0132\u0133\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\ufb50-\ufdfb\ufe70-\ufefc\uff10-\uff5a\uff66-\uff9f]"
)
"""Variant forms of letters: Dutch ij, ligatures, Arabic presentation forms, full and half width."""
_BASIC = _BasicTable()
_APOSTROPHES = re.compile(r"(?<=[^\W\d_])[\u2018\u201b`´′\u05f3](?=[^\W\d_])")
"""Look-alikes; apostrophes only between letters."""
_GERSHAYIM = re.compile('(?<=[\u05d0-\u05ea])[\u05f4"](?=[\u05d0-\u05ea])')
"""In a Hebrew abbreviation; a boundary anywhere else."""
_INTERPUNCT = re.compile("(?<!l)·|·(?!l)")
"""The middle dot, except in Catalan between two l."""
_EDGE_APOSTROPHE = re.compile(r"(?<![^\s'])'|'(?![^\s'])")


def normalise_text(text: str, rule: Rule, language: str = "") -> str:
    """Return a transcript in the form that is learnt and scored.

    Both rules give NFC text whose words are separated by single spaces, without spaces at the ends and without
    invisible characters. ``basic`` also removes corpus tags and lower-cases by the rules of the language. It keeps
    letters, marks, numbers and apostrophes inside words; anything else becomes a space. Applying a rule twice changes
    nothing.

    Raises ConfigError when the rule is unknown.
    """
    if rule not in get_args(Rule):
        raise ConfigError(f"unknown text normalisation {rule!r}; choose one of {', '.join(get_args(Rule))}")
    text = unicodedata.normalize("NFC", visible(unicodedata.normalize("NFC", text)))
    if rule == "basic":
        text = unicodedata.normalize("NFC", visible(untag(text)))
        text = _APOSTROPHES.sub("'", lower_case(text, language))
        text = _INTERPUNCT.sub(" ", _GERSHAYIM.sub("", text)).translate(_BASIC)
        text = final_sigmas(_EDGE_APOSTROPHE.sub(" ", text))
    return unicodedata.normalize("NFC", " ".join(text.translate(_SPACES).split()))


@dataclass(frozen=True)
class Tokens:
    """A vocabulary. ``symbols[0]`` is the blank; the other symbols are characters or sentencepiece pieces."""

    kind: Kind
    normalise: Rule
    symbols: tuple[str, ...]
    sentencepiece: bytes = field(default=b"", repr=False)
    """Serialised sentencepiece model; empty for characters."""
    language: str = ""
    """Decides letter case (Turkish and Azerbaijani dotless i); empty for the rules of most languages."""

    @classmethod
    def build(cls, texts: Iterable[str], cfg: TokensConfig) -> tuple[Self, list[Entry]]:
        """Build the vocabulary from the training transcripts.

        Returns
        -------
        tokens
            The vocabulary, in an order that depends on the set of characters only.
        entries
            One entry for each character that is left out (``rare_character``: fewer than ``cfg.min_count`` times).

        Raises
        ------
        DataError
            No transcript has any text.
        ConfigError
            sentencepiece is asked for and is not installed, or cannot make so large a vocabulary.
        """
        language = language_code(cfg.language)
        lines = [line for text in texts if (line := normalise_text(text, cfg.normalise, language))]
        counts = Counter(char for line in lines for char in line if char != " ")
        rare = sorted(char for char, count in counts.items() if count < cfg.min_count)
        entries = [
            Entry("finetune", char, "rare_character", f"{_name(char)}, seen {counts[char]} times", "dropped")
            for char in rare
        ]
        kept = sorted(set(counts) - set(rare))
        if not kept:
            raise DataError(
                f"no characters to learn: {len(lines)} non-empty training transcripts, {len(rare)} characters seen "
                f"fewer than {cfg.min_count} times; check the split and the transcripts, or lower tokens.min_count"
            )
        if cfg.kind == "characters":
            return cls("characters", cfg.normalise, ("<blank>", BOUNDARY, *kept), language=language), entries
        allowed = {*kept, " "}
        lines = ["".join(char for char in line if char in allowed) for line in lines]
        model, symbols = _train_sentencepiece(lines, cfg.vocab_size)
        return cls("sentencepiece", cfg.normalise, symbols, model, language), entries

    @property
    def size(self) -> int:
        """Number of tokens, the blank included: the width of the CTC head."""
        return len(self.symbols)

    @cached_property
    def characters(self) -> frozenset[str]:
        """The characters that labels can spell, the space included.

        A vocabulary of characters may hold longer symbols of another library, such as ``<unk>``: no text spells them.
        """
        if self.kind == "characters":
            return frozenset(symbol for symbol in self.symbols[2:] if len(symbol) == 1) | {" "}
        return frozenset("".join(self.symbols[1:]).replace(BOUNDARY, " ").replace("▁", " ") + " ")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    @cached_property
    def _processor(self) -> Any:
        return _import_sentencepiece().SentencePieceProcessor(model_proto=self.sentencepiece)

    def normal(self, text: str) -> str:
        """Return the text as this vocabulary's transcripts were normalised, with `normalise_text`."""
        return normalise_text(text, self.normalise, self.language)

    def spell(self, text: str) -> str:
        """Return the normalised text without the characters that are not in the vocabulary."""
        line = self.normal(text)
        return " ".join("".join(char for char in line if char in self.characters).split())

    def encode(self, text: str) -> list[int]:
        """Return label ids of ``text``; never the blank, never an id beyond the vocabulary.

        Characters outside the vocabulary are left out (``unseen`` reports them); ``decode(encode(text))`` is
        ``spell(text)``, which is ``normalise_text(text)`` when there are none.
        """
        line = self.spell(text)
        if self.kind == "characters":
            return [self._ids[BOUNDARY if char == " " else char] for char in line]
        return [index for index in self._processor.encode(line) if index != BLANK]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of label ids (after CTC collapse); blanks are skipped, boundaries at the ends are dropped."""
        symbols = [self.symbols[index] for index in ids if index != BLANK]
        boundary = BOUNDARY if self.kind == "characters" else "▁"
        return " ".join("".join(symbols).replace(boundary, " ").split())

    def words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Split label ids into words.

        Returns
        -------
        list of (word, positions)
            The words of ``decode(ids)`` in order; ``positions`` index the tokens in ``ids`` that spell the word
            (the boundary ``|`` belongs to no word).
        """
        words: list[tuple[str, list[int]]] = []
        begin = True
        for position, index in enumerate(ids):
            symbol = self.symbols[index]
            if index == BLANK:
                continue
            if symbol == BOUNDARY and self.kind == "characters":
                begin = True
                continue
            if symbol.startswith("▁") and self.kind == "sentencepiece":
                begin, symbol = True, symbol[1:]
                if not symbol:
                    continue
            if begin:
                words.append(("", []))
            text, positions = words[-1]
            words[-1] = (text + symbol, [*positions, position])
            begin = False
        return words

    def unseen(self, texts: Mapping[str, str], *, split: str, stage: str = "finetune") -> list[Entry]:
        """Report the characters of ``texts`` (id -> transcript) that labels cannot spell, one entry per character.

        In a dev or test split such characters are errors that no training can remove, so they should be known.
        """
        counts: Counter[str] = Counter()
        example: dict[str, str] = {}
        for name, text in texts.items():
            for char in self.normal(text):
                if char not in self.characters:
                    counts[char] += 1
                    example.setdefault(char, name)
        return [
            Entry(
                stage,
                char,
                "unseen_character",
                f"{_name(char)}, {count} times in split {split}, first in {example[char]}; not in the vocabulary",
                "dropped",
            )
            for char, count in sorted(counts.items())
        ]

    def tags(self, texts: Mapping[str, str], *, stage: str = "finetune") -> list[Entry]:
        """Report the corpus tags of ``texts`` (id -> transcript), one entry per tag; `corpus_tags` says what is one."""
        return tag_entries(texts.items(), stage=stage, dropped=self.normalise == "basic")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the sentencepiece model as base64."""
        result: dict[str, Any] = {"kind": self.kind, "normalise": self.normalise, "symbols": list(self.symbols)}
        if self.language:
            result["language"] = self.language
        if self.sentencepiece:
            result["sentencepiece"] = base64.b64encode(self.sentencepiece).decode("ascii")
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the vocabulary that ``to_dict`` wrote; DataError when fields are missing or inconsistent."""
        try:
            kind, rule, symbols = data["kind"], data["normalise"], tuple(data["symbols"])
            model, language = base64.b64decode(data.get("sentencepiece", ""), validate=True), data.get("language", "")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the tokens of this model cannot be read: {error!r}; export the model again") from error
        problem = ""
        if kind not in get_args(Kind) or rule not in get_args(Rule):
            problem = f"unknown kind {kind!r} or normalisation {rule!r}"
        elif len(symbols) < 2 or len(set(symbols)) != len(symbols) or not all(isinstance(s, str) for s in symbols):
            problem = "symbols must be distinct strings, the blank first"
        elif (kind == "sentencepiece") != bool(model):
            problem = "a sentencepiece model is missing or not expected"
        elif kind == "characters" and symbols[1] != BOUNDARY:
            problem = f"the word boundary {BOUNDARY!r} must have id 1"
        if problem:
            raise DataError(f"the tokens of this model cannot be read: {problem}; export the model again")
        return cls(kind, rule, symbols, model, str(language))


def _name(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}"


def _import_sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ConfigError(
            "tokens.kind = 'sentencepiece' needs the sentencepiece package; install it with "
            "pip install 'speechssl[bpe]', or use tokens.kind = 'characters'"
        ) from error
    return sentencepiece


def _train_sentencepiece(lines: Sequence[str], vocab_size: int) -> tuple[bytes, tuple[str, ...]]:
    """Train a unigram model whose id 0 (unknown) is never used, so that it can be the blank."""
    sentencepiece = _import_sentencepiece()
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=writer, model_type="unigram", vocab_size=vocab_size,
            hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity",
            unk_id=BLANK, bos_id=-1, eos_id=-1, pad_id=-1, num_threads=1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"sentencepiece could not build tokens.vocab_size = {vocab_size} from {len(lines)} transcripts: "
            f"{json.dumps(text)}; try another size, or tokens.kind = 'characters'"
        ) from error
    model = writer.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    return model, ("<blank>", *pieces[1:])
