"""The transcript of an utterance as a file of any format gives it, and the lines of such files.

In: a text file; transcripts. Out: its lines; the transcripts by id. Errors name the file and the line.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Item

__all__ = ["Transcript", "collect", "read_lines"]


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


def collect(transcripts: Iterable[Transcript]) -> dict[str, Transcript]:
    """Index by id; an id that is there twice is an error."""
    table: dict[str, Transcript] = {}
    for item in transcripts:
        if item.id in table:
            raise DataError(f"{item.where}: utterance {item.id!r} is there twice, first in {table[item.id].where}")
        table[item.id] = item
    return table
