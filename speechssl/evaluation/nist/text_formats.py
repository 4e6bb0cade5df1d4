"""Detects the format of a transcript file by its name, by its lines, and by the file it is scored with.

In: a reference and the hypotheses of some systems. Out: a `Format` for each. Where first words may be utterance ids,
the other file decides. If it does not, the format has to be given: a wrong guess would change the rate.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.header_rows import header_of
from speechssl.evaluation.nist.identity import match_ids, same_name
from speechssl.evaluation.nist.json_transcripts import TEXTS, parse_rows
from speechssl.evaluation.nist.transcript import read_lines
from speechssl.evaluation.wer.hypotheses import HYPOTHESES

__all__ = ["TRN", "Format", "file_of", "guess_formats", "looks_like_id"]

Format = Literal["text", "kaldi", "trn", "stm", "ctm", "jsonl", "table"]
"""text: one line per utterance. kaldi: ``id words``. trn: ``words (id)``. stm, ctm: with times. jsonl; table (csv or
tsv with a header): fields with ids and texts."""

TRN = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()]*)\)\s*")
_SUFFIXES: dict[str, Format] = {
    ".trn": "trn", ".stm": "stm", ".ctm": "ctm", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip
_COUNTED = re.compile(r"\d+[-'’]?[^\W\d_][^\W\d_-]*(-[^\W\d_]+)*")
"""Words that begin with a number: 3rd, 90s, 5kg, 2-year-old."""
_FEWEST_SORTED = 3
"""Fewest lines whose order is a sign of ids: fewer may be in order by chance."""


@dataclass(frozen=True)
class _Guess:
    """A format, or the first words of a file that may be text or Kaldi text."""

    path: Path
    kind: Format | None
    first: tuple[str, ...] = ()
    single_words: bool = False
    """Whether every line has one word only, which is then the text to score."""
    hypothesis: bool = False


def file_of(path: Path) -> Path:
    """Return the file of transcripts in a folder of ours (evaluation, manifest, transcription); of a file, itself."""
    names = (HYPOTHESES, "transcripts.jsonl", "manifest.jsonl")
    return next((path / name for name in names if (path / name).is_file()), path) if path.is_dir() else path


def looks_like_id(word: str) -> bool:
    """Return whether a word looks like an utterance id: ``u1``, ``1089-134686-0000``, ``spk_a``; not ``2``, ``3rd``."""
    if word.isdigit():
        return len(word) > 5 or (len(word) > 1 and word[0] == "0")
    if any(char in "_/\\|=#" for char in word):
        return True
    return any(map(str.isdigit, word)) and any(c.isalpha() or c == "-" for c in word) and not _COUNTED.fullmatch(word)


def guess_formats(
    ref: Path, hyps: Sequence[Path], *, ref_format: str = "auto", hyp_format: str = "auto"
) -> tuple[Format, list[Format]]:
    """Detect the formats of a reference and of the hypotheses that are scored with it.

    The file extension decides, else the lines. All JSON objects: jsonl. The first a header with an id and a text:
    table. All ending in a different ``(id)``: trn. All beginning with a word that looks like an id: kaldi. Other files
    whose lines begin with different words are kaldi if the other file has the same words as ids, or as first words in
    another order.

    Raises
    ------
    DataError
        A file cannot be read, or both have the same first words in the same order, which does not decide the format.
    """
    reference = _guess(ref) if ref_format == "auto" else _Guess(ref, _given(ref_format))
    found: list[Format] = []
    for path in hyps:
        hypothesis = _guess(path) if hyp_format == "auto" else _Guess(path, _given(hyp_format))
        hypothesis = replace(hypothesis, hypothesis=True)
        if reference.kind is None and hypothesis.kind is None:
            settled = _together(reference, hypothesis)
            reference, hypothesis = replace(reference, kind=settled), replace(hypothesis, kind=settled)
        elif reference.kind is None:
            reference = replace(reference, kind=_beside(reference, hypothesis))
        found.append(hypothesis.kind or _beside(hypothesis, reference))
    return reference.kind or "text", found


def _given(name: str) -> Format:
    return next(kind for kind in get_args(Format) if kind == name)


def _beside(unsettled: _Guess, known: _Guess) -> Format:
    """Decide between text and Kaldi text, by the ids of the file it is scored with."""
    if known.kind in ("text", "stm", "ctm"):
        return "text"
    ids = set(known.first)
    if known.kind == "kaldi" and not ids:
        ids = {line.split()[0] for line in read_lines(known.path) if line.strip()}
    elif known.kind == "trn":
        ids = {match["id"].strip() for line in read_lines(known.path) if (match := TRN.fullmatch(line))}
    elif known.kind in ("jsonl", "table"):
        side: Literal["ref", "hyp"] = "hyp" if known.hypothesis else "ref"
        ids = {row.id for row in parse_rows(file_of(known.path), side, table=known.kind == "table")}
    mine = dict.fromkeys(unsettled.first)
    shared = ids.intersection(mine) | set(match_ids(ids, mine, same_name))
    return "kaldi" if 2 * len(shared) >= len(mine) else "text"


def _guess(path: Path) -> _Guess:
    if path.is_dir() and file_of(path) != path:
        return _Guess(path, "jsonl")
    if path.suffix.lower() in _SUFFIXES:
        return _Guess(path, _SUFFIXES[path.suffix.lower()])
    lines = [line for line in read_lines(path) if line.strip()]
    if lines and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        return _Guess(path, "jsonl")
    if path.suffix.lower() == ".csv" or (lines and header_of(lines[0], TEXTS)):
        return _Guess(path, "table")
    ends = [TRN.fullmatch(line) for line in lines if not line.startswith(";;")]
    ids = [found["id"].strip() for found in ends if found is not None]
    if ids and len(ids) == len(ends) and all(ids) and len(set(ids)) == len(ids):
        return _Guess(path, "trn")
    first = tuple(line.split()[0] for line in lines)
    single = all(len(line.split()) == 1 for line in lines)
    if first and all(map(looks_like_id, first)) and 2 * len(set(first)) > len(first):
        return _Guess(path, "kaldi", first, single)  # duplicate ids are reported separately
    return _Guess(path, None if first and len(set(first)) == len(first) else "text", first, single)


def _together(ref: _Guess, hyp: _Guess) -> Format:
    """Decide the format of two files whose lines all begin with different words."""
    shared = set(ref.first) & set(hyp.first)
    if 2 * len(shared) < min(len(ref.first), len(hyp.first)) or ref.single_words:
        return "text"
    if [word for word in ref.first if word in shared] != [word for word in hyp.first if word in shared]:
        return "kaldi"  # spoken words would keep their order
    if ref.first != hyp.first:
        return "text"
    if len(ref.first) > 1 and all("-" in word.strip("-") for word in ref.first):
        return "kaldi"
    numbers = all(any(map(str.isdigit, word)) for word in ref.first) or any(map(looks_like_id, ref.first))
    if not numbers and (len(ref.first) < _FEWEST_SORTED or list(ref.first) != sorted(ref.first)):
        return "text"
    raise DataError(
        f"{ref.path} and {hyp.path}: every line begins with another word, the same in both "
        f"({', '.join(map(repr, ref.first[:3]))}{', …' if len(ref.first) > 3 else ''}); they may be utterance "
        "ids or spoken. Say which with --ref-format and --hyp-format: kaldi for ids, text for words"
    )
