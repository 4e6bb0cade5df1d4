"""Reference and hypothesis files of any system: plain text, Kaldi text, NIST trn, ``hypotheses.jsonl`` and manifests.

In: a file. Out: a `Transcript` for each utterance, by id, in the order of the file. Errors name the file and the line.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Item, parse_markup, untagged
from speechssl.evaluation.nist.json_transcripts import parse_rows
from speechssl.evaluation.nist.text_formats import TRN, Format, file_of
from speechssl.evaluation.nist.transcript import Transcript, collect, read_lines

__all__ = ["markup", "read_transcripts"]


def markup(text: str, where: str, *, optional: bool) -> tuple[Item, ...]:
    """Read a text with alternatives and without tags of words (``word;tag``); the error names the line."""
    try:
        return parse_markup(untagged(text), optional=optional)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def read_transcripts(
    path: Path, kind: Format, side: Literal["ref", "hyp"], *, optional: bool = True
) -> dict[str, Transcript]:
    """Read one file without times (text, kaldi, trn, jsonl or table).

    Of a jsonl row the text of ``side`` is read; a manifest with ``text`` only is read for both sides. ``optional``:
    words in parentheses in trn files may be left out.

    Raises DataError when the file cannot be read as that format, or has an id twice.
    """
    path = Path(path)
    if kind in ("jsonl", "table"):
        return collect(parse_rows(file_of(path), side, table=kind == "table"))
    lines = list(enumerate(read_lines(path), 1))
    if kind == "text":
        return collect(Transcript(f"line-{n:06d}", tuple(line.split()), f"{path}, line {n}") for n, line in lines)
    if kind == "kaldi":
        return collect(_kaldi(path, lines))
    if kind == "trn":
        return collect(_trn(path, lines, optional=optional))
    raise DataError(f"{path}: {kind} has times; it is scored against the segments of an stm file")


def _kaldi(path: Path, lines: list[tuple[int, str]]) -> Iterable[Transcript]:
    for number, line in lines:
        if line.strip():
            id_, *words = line.split()
            yield Transcript(id_, tuple(words), f"{path}, line {number}")


def _trn(path: Path, lines: list[tuple[int, str]], *, optional: bool) -> Iterable[Transcript]:
    for number, line in lines:
        if not line.strip() or line.startswith(";;"):
            continue
        where = f"{path}, line {number}"
        found = TRN.fullmatch(line)
        if found is None or not found["id"].strip():
            raise DataError(f"{where}: does not end in an utterance id in parentheses, as trn does: {line[-40:]!r}")
        yield Transcript(found["id"].strip(), markup(found["text"], where, optional=optional), where)
