"""Reference and hypothesis files of any system: plain text, Kaldi text, NIST trn, ``hypotheses.jsonl`` and manifests.

In: a file. Out: a `Transcript` for each utterance, by id, in the order of the file. Errors name the file and the line.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speechssl.errors import DataError
from speechssl.evaluation.hypotheses import HYPOTHESES
from speechssl.evaluation.network import Item, parse_markup

__all__ = ["Format", "Transcript", "collect", "guess_format", "markup", "read_lines", "read_transcripts"]

Format = Literal["text", "kaldi", "trn", "stm", "ctm", "jsonl"]
"""text: a line an utterance. kaldi: ``id words``. trn: ``words (id)``. stm, ctm: with times. jsonl: ids and texts."""

_SUFFIXES: dict[str, Format] = {".trn": "trn", ".stm": "stm", ".ctm": "ctm", ".jsonl": "jsonl"}
_TRN = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()]*)\)\s*")
_LOOKED_AT = 50


@dataclass(frozen=True)
class Transcript:
    """What was said, or recognised, in one utterance."""

    id: str
    items: tuple[Item, ...]
    """Words, and what the markup of NIST adds to them."""
    where: str
    """File and line, for messages."""
    speaker: str | None = None
    duration: float | None = None
    """Seconds."""
    times: tuple[tuple[float, float], ...] = ()
    """Start and end of each word, in seconds, where known."""
    confidences: tuple[float, ...] = ()
    labels: tuple[str, ...] = field(default=())


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without their ends.

    Raises
    ------
    DataError
        The file is missing or is not text; the message names the line.
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


def guess_format(path: Path) -> Format:
    """Tell the format from the name, or, for other names, from the first lines.

    ``.txt`` and unknown names are trn if every line ends in ``(id)``; kaldi if every line begins with an id, that is a
    word of its own that no other line begins with and that has a digit; else text, a line an utterance.
    """
    path = Path(path)
    if path.is_dir() and (path / HYPOTHESES).is_file():
        return "jsonl"
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    lines = [line for line in read_lines(path) if line.strip()]
    looked = [line for line in lines[:_LOOKED_AT] if not line.startswith(";;")]
    if looked and all(_TRN.fullmatch(line) for line in looked):
        return "trn"
    first = [line.split()[0] for line in lines]
    if len(set(first)) == len(first) and all(any(char.isdigit() for char in word) for word in first):
        return "kaldi"
    return "text"


def markup(text: str, where: str, *, optional: bool) -> tuple[Item, ...]:
    """Read a text with alternatives; the error names the line."""
    try:
        return parse_markup(text, optional=optional)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def read_transcripts(
    path: Path, kind: Format, side: Literal["ref", "hyp"], *, optional: bool = True
) -> dict[str, Transcript]:
    """Read one file without times (text, kaldi, trn or jsonl).

    Parameters
    ----------
    side
        Which text of a jsonl row is meant; a manifest (``text``) serves for both.
    optional
        Take words in parentheses in trn files for optional ones.

    Raises
    ------
    DataError
        The file cannot be read as that format, or has an id twice.
    """
    path = Path(path)
    if kind == "jsonl":
        return collect(_jsonl(path / HYPOTHESES if path.is_dir() else path, side))
    lines = list(enumerate(read_lines(path), 1))
    if kind == "text":
        return collect(Transcript(f"line-{n:06d}", tuple(line.split()), f"{path}, line {n}") for n, line in lines)
    if kind == "kaldi":
        return collect(_kaldi(path, lines))
    if kind == "trn":
        return collect(_trn(path, lines, optional=optional))
    raise DataError(f"{path}: {kind} has times; it is read against the segments of an stm file")


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
        found = _TRN.fullmatch(line)
        if found is None or not found["id"].strip():
            raise DataError(f"{where}: does not end in an utterance id in parentheses, as trn does: {line[-40:]!r}")
        yield Transcript(found["id"].strip(), markup(found["text"], where, optional=optional), where)


def _jsonl(path: Path, side: Literal["ref", "hyp"]) -> Iterable[Transcript]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg})") from None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise DataError(f"{where}: not an object with an 'id'")
        text = next((row[name] for name in (f"{side}_raw", side, "text") if isinstance(row.get(name), str)), None)
        if text is None:
            raise DataError(f"{where}: has no text: none of {side}_raw, {side}, text")
        speaker, duration = row.get("speaker"), row.get("duration")
        yield Transcript(
            row["id"],
            tuple(text.split()),
            where,
            speaker=speaker if isinstance(speaker, str) else None,
            duration=float(duration) if isinstance(duration, int | float) else None,
        )
