"""Reference and hypothesis files of any system: plain text, Kaldi text, NIST trn, ``hypotheses.jsonl`` and manifests.

In: a file. Out: a `Transcript` for each utterance, by id, in the order of the file. Errors name the file and the line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Item, parse_markup, untagged
from speechssl.evaluation.nist.json_transcripts import parse_rows
from speechssl.evaluation.nist.text_formats import TRN, Format, file_of

__all__ = ["Format", "Transcript", "collect", "markup", "read_lines", "read_transcripts"]


@dataclass(frozen=True)
class Transcript:
    """The reference or the hypothesis of one utterance."""

    id: str
    items: tuple[Item, ...]
    """Words, with NIST's markup."""
    where: str
    """File and line, for messages."""
    speaker: str | None = None
    duration: float | None = None
    """Seconds."""
    language: str | None = None
    audio: str = ""
    """The whole audio file of the utterance, where the transcript file names it."""
    times: tuple[tuple[float, float], ...] = ()
    """Start and end of each word, in seconds, where known."""
    confidences: tuple[float, ...] = ()
    labels: tuple[str, ...] = field(default=())


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without their ends.

    Raises DataError when the file is missing or is not text; the message names the line.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: no such file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; convert the file, for example with iconv") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


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
        path = file_of(path)
        rows = parse_rows(path, read_lines(path), side, table=kind == "table")
        return collect(
            Transcript(
                row.id,
                tuple(row.text.split()),
                row.where,
                speaker=row.speaker,
                duration=row.duration,
                language=row.language,
                audio=row.audio,
            )
            for row in rows
        )
    lines = list(enumerate(read_lines(path), 1))
    if kind == "text":
        return collect(Transcript(f"line-{n:06d}", tuple(line.split()), f"{path}, line {n}") for n, line in lines)
    if kind == "kaldi":
        return collect(_kaldi(path, lines))
    if kind == "trn":
        return collect(_trn(path, lines, optional=optional))
    raise DataError(f"{path}: {kind} has times; it is scored against the segments of an stm file")


def collect(transcripts: Iterable[Transcript]) -> dict[str, Transcript]:
    """Index by id; an id that is there twice is an error."""
    table: dict[str, Transcript] = {}
    for item in transcripts:
        if item.id in table:
            raise DataError(f"{item.where}: utterance {item.id!r} is there twice, first in {table[item.id].where}")
        table[item.id] = item
    return table


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
