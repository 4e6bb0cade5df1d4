"""Transcripts in tables with a header (csv, tsv), whose first line names the columns.

In: the lines of a file. Out: one mapping per row, as for JSON lines; None for a file without such a header.
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from speechssl.core.errors import DataError
from speechssl.data.ingest.rows import FIELDS, field_name

__all__ = ["header_of", "table_rows"]


def header_of(line: str, texts: Collection[str]) -> tuple[list[str], str] | None:
    """Return the columns of a header line and what separates them; None where it names no id or audio, or no text.

    ``texts`` are the names of columns that hold a transcript.
    """
    separator = next((char for char in "\t;," if char in line), "")
    if not separator:
        return None
    names = [field_name(cell) for cell in next(csv.reader([line], delimiter=separator))]
    known = any(name in FIELDS["id"] or name in FIELDS["audio"] for name in names)
    return (names, separator) if known and any(name in texts for name in names) else None


def table_rows(path: Path, lines: Sequence[str], texts: Collection[str]) -> list[tuple[str, dict[str, object]]]:
    """Return (file and line, cells by column) of each row; cells that are left empty are an empty text.

    Raises
    ------
    DataError
        There is no header, a quotation mark is left open, or a row has more or fewer cells than the header; names the
        line.
    """
    found = header_of(lines[0], texts) if lines else None
    if found is None:
        raise DataError(f"{path}: no header that names an id (or audio) and a text; begin it with id,text")
    names, separator = found
    if separator == "\t":
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, strict=True)
    rows: list[tuple[str, dict[str, object]]] = []
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not cells or reader.line_num == 1:
                continue
            if len(cells) != len(names):
                raise DataError(f"{where}: {len(cells)} cells, but the header names {len(names)}; quote the text")
            rows.append((where, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; close the quotation mark") from None
    return rows
