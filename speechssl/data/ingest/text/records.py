"""The records of a separated table, as in the csv module; but an open quotation mark ends with its line.

In: numbered lines and a delimiter. Out: the cells of each record with its line, and ledger entries for lone quotes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from speechssl.core.ledger import Entry

__all__ = ["Records", "read_records"]

_MOST_LINES = 50
"""Most lines of a quoted cell."""
_QUOTE = '"'


@dataclass
class Records:
    """The records of one table, and ledger entries for its lines."""

    cells: list[tuple[int, list[str]]] = field(default_factory=list)
    """(line, cells as written)."""
    entries: list[Entry] = field(default_factory=list)


def read_records(
    name: str, lines: Sequence[tuple[int, str]], delimiter: str, is_row: Callable[[list[str]], bool]
) -> Records:
    """Split lines into records.

    A quoted cell of a comma or semicolon table may hold line ends. A line that is a row by itself (``is_row``) is never
    part of such a cell. The quotation mark before it was left open, and ends with its own line.
    """
    result = Records()
    quoted = delimiter in ",;"
    position = 0
    while position < len(lines):
        number, line = lines[position]
        position += 1
        if _QUOTE not in line:
            result.cells.append((number, line.split(delimiter)))
            continue
        if not quoted:
            result.cells.append((number, [_unquoted(cell) for cell in line.split(delimiter)]))
            continue
        cells, more, problem = _quoted(lines, position - 1, delimiter, is_row)
        position += more
        if problem:
            action = "rejected" if cells is None else "repaired"
            reason = "bad_row" if cells is None else "unclosed_quote"
            result.entries.append(Entry("manifest", f"{name}:{number}", reason, problem, action))
        if cells is not None:
            result.cells.append((number, cells))
    return result


def _quoted(
    lines: Sequence[tuple[int, str]], first: int, delimiter: str, is_row: Callable[[list[str]], bool]
) -> tuple[list[str] | None, int, str]:
    """Return the cells of a record with quotation marks, how many more lines it takes, and what is wrong with it."""
    text = lines[first][1]
    try:
        if (cells := _parse(text, delimiter)) is not None:
            return cells, 0, ""
        for more, (_, line) in enumerate(lines[first + 1 : first + _MOST_LINES], 1):
            if is_row(line.split(delimiter)):
                break
            text += "\n" + line
            if (cells := _parse(text, delimiter)) is not None:
                return cells, more, ""
        detail = "a quotation mark is never closed; it ends with its line"
        return _parse(lines[first][1] + _QUOTE, delimiter), 0, detail
    except csv.Error as error:  # a cell beyond the module's limit
        return None, 0, str(error)


def _parse(text: str, delimiter: str) -> list[str] | None:
    """Return the cells of one record, or None when a quotation mark is still open at its end."""
    if '\\"' in text:  # MySQL and others write \\" inside a quoted cell
        with suppress(csv.Error, StopIteration):
            return next(csv.reader([text], delimiter=delimiter, escapechar="\\", strict=True))
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _unquoted(cell: str) -> str:
    """Return a cell without the quotation marks that a spreadsheet put around it; marks inside are then doubled."""
    bare = cell.strip()
    inner = bare[1:-1]
    if len(bare) < 2 or bare[0] != _QUOTE or bare[-1] != _QUOTE or _QUOTE in inner.replace('""', ""):
        return cell
    return inner.replace('""', _QUOTE)
