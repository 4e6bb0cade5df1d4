"""Plain text tables, and the format of rates in them.

In: cells, rates. Out: text with aligned columns for a terminal, also with wide and combining characters.
"""

import unicodedata
from collections.abc import Sequence

__all__ = ["interval_text", "one_line", "percent", "text_table", "text_width"]

_WIDEST = 48
"""Columns of a table cell."""


def percent(rate: float | None, digits: int = 2) -> str:
    """Return a rate as percent, without the sign; an en dash where there is no rate."""
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def interval_text(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return ``low–high`` in percent."""
    return "–" if low is None or high is None else f"{percent(low, digits)}–{percent(high, digits)}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table with the first ``left`` columns flush left and the others flush right.

    Cells wider than 48 columns are cut; characters that would break the line (control characters) are shown as ``?``.
    """
    table = [[_cell(cell) for cell in row] for row in (header, *rows)]
    widths = [max(text_width(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - text_width(cell))
            cells.append(cell + space if column < left else space + cell)
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines.insert(1, "  " + "  ".join("─" * width for width in widths))
    return "\n".join(lines) + "\n"


def one_line(text: str) -> str:
    """Replace what would break the line: control characters and lone surrogates."""
    return "".join("?" if unicodedata.category(char) in {"Cc", "Cs"} else char for char in text)


def text_width(text: str) -> int:
    """Return the columns in a terminal: combining marks take none, wide East Asian characters two."""
    marks = sum(unicodedata.combining(char) != 0 for char in text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) - marks + wide


def _cell(text: str) -> str:
    clean = one_line(text)
    return clean if len(clean) <= _WIDEST else clean[: _WIDEST - 1] + "…"
