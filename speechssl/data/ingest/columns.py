"""Columns of transcripts: CSV, TSV and other separated tables, with a header or without one.

In: the lines of a table, and which keys name recordings. Out: rows, and ledger entries for lines that cannot be used.
A row whose cells do not match the header is used only when it is clear which cell the others belong to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.core.ledger import Entry
from speechssl.data.audio.formats import AUDIO_EXTENSIONS
from speechssl.data.ingest.rows import FIELDS, Row, clean_text, field_name, row_from_fields
from speechssl.data.ingest.text.records import read_records

__all__ = ["Columns", "read_columns"]

_DELIMITERS = {".csv": "|\t;,", ".tsv": "\t|;,", ".psv": "|\t;,"}
_SAMPLE = 200
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_PHONE = re.compile(r"[^\W\d_]{1,3}\d")
"""A phone with its stress or tone: AH0, ai4."""
Known = Callable[[str], bool]


@dataclass(frozen=True)
class Columns:
    """The rows of a table with columns."""

    rows: tuple[Row, ...]
    certain: bool
    """Whether a header names the columns; without one, the table is used only if enough of its keys match."""
    entries: tuple[Entry, ...]


def read_columns(
    name: str, lines: Sequence[tuple[int, str]], known: Known, split: str | None, *, certain: bool
) -> Columns | None:
    """Read a table with columns from its numbered lines that are not blank; None when they are not a table.

    ``known`` says whether a key names a recording: in a table without a header it finds the column of the key. Rows
    that name no split are of ``split``. ``certain``: the file's name marks it as a table of recordings.
    """
    delimiter, lines = _delimiter(lines, Path(name).suffix.lower(), known)
    if not delimiter:
        return None
    records = read_records(name, lines, delimiter, lambda cells: any(_names_audio(cell, known) for cell in cells))
    cells = [(number, values) for number, values in records.cells if any(value.strip() for value in values)]
    if not cells:
        return None
    header = _header(cells[0][1])
    if described := _is_header(header) and not known(cells[0][1][_position(header, "audio", "id")].strip()):
        rows, entries = _described(name, header, cells[1:], delimiter, known=known, split=split)
    elif (undescribed := _undescribed(name, cells, delimiter, known, split)) is not None:
        rows, entries = undescribed
    else:
        return None
    return Columns(tuple(rows), certain or described, (*records.entries, *entries))


def _names_audio(cell: str, known: Known) -> bool:
    bare = cell.strip(' "')
    return bool(bare) and (known(bare) or PurePosixPath(bare).suffix.lower() in AUDIO_EXTENSIONS)


def _header(cells: Sequence[str]) -> list[str]:
    names = [field_name(cell.strip(' "#')) for cell in cells]
    while names and not names[-1]:  # a separator at the end of the header
        names.pop()
    return names


def _is_header(names: Sequence[str]) -> bool:
    if not any(name in FIELDS["audio"] + FIELDS["id"] for name in names):
        return False
    return any(name in FIELDS["text"] + FIELDS["speaker"] + FIELDS["split"] for name in names)


def _position(names: Sequence[str], *roles: str) -> int:
    """Return the column of the first role that has one."""
    return next(names.index(name) for role in roles for name in FIELDS[role] if name in names)


def _titled(line: str) -> bool:
    return any(_is_header(_header(line.split(delimiter))) for delimiter in "|\t;,")


def _delimiter(lines: Sequence[tuple[int, str]], suffix: str, known: Known) -> tuple[str, Sequence[tuple[int, str]]]:
    """Return the column separator, or nothing, and the lines of the table.

    The separator is the one that a ``sep=`` line names, that splits the first line into a header, or that nearly every
    line has. Outside .csv files a comma or semicolon counts only when it separates keys of recordings.
    """
    if lines and (said := _SEPARATOR_LINE.fullmatch(lines[0][1].strip())):
        return said[1], lines[1:]
    while len(lines) > 1 and lines[0][1].startswith("#") and not _titled(lines[0][1]):
        lines = lines[1:]
    sample = [line for _, line in lines[:_SAMPLE]]
    candidates = _DELIMITERS.get(suffix, "|\t;,")
    for delimiter in candidates:
        if sample and delimiter in sample[0] and _is_header(_header(sample[0].split(delimiter))):
            return delimiter, lines
    shares = {d: sum(d in line for line in sample) / max(1, len(sample)) for d in candidates}
    for delimiter in (d for d in candidates if shares[d] >= 0.5):
        keys = (any(_names_audio(cell, known) for cell in line.split(delimiter)[:3]) for line in sample)
        if 2 * sum(keys) > len(sample) and (shares[delimiter] >= 0.9 or suffix in _DELIMITERS):
            return delimiter, lines
    usual = candidates if suffix == ".csv" else candidates[:2]
    return next((d for d in usual if shares[d] >= 0.9), ""), lines


def _described(
    name: str,
    header: list[str],
    cells: Sequence[tuple[int, list[str]]],
    delimiter: str,
    *,
    known: Known,
    split: str | None,
) -> tuple[list[Row], list[Entry]]:
    """Read the rows under a header. Rows that are not validated in Common Voice give their speaker, but no text."""
    rows, entries, joined = [], [], []
    unreviewed = Path(name).stem.lower() in ("invalidated", "other", "reported")
    for number, values in cells:
        try:
            fitted = _fit(values, header, delimiter, known)
            joined += [number] if fitted is not None and len(fitted) < len(_trimmed(values, len(header))) else []
            fields: dict[Any, Any] = dict(zip(reversed(header), reversed(fitted), strict=True))
            row = row_from_fields({k: v for k, v in fields.items() if v}, number, split, empty_is_text=False)
        except ValueError as error:
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", str(error), "rejected"))
            continue
        if unreviewed and row.text is not None:
            entries.append(Entry("manifest", f"{name}:{number}", "unreviewed_text", row.key, "dropped"))
            row = Row(row.key, number, speaker=row.speaker, language=row.language, id=row.id, meta=row.meta)
        rows.append(row)
    if joined:
        detail = (
            f"{len(joined)} rows have more cells than the header: their text keeps its {delimiter!r}; put it in quotes"
        )
        entries.append(Entry("manifest", f"{name}:{joined[0]}", "extra_cells", detail, "repaired"))
    return rows, entries


def _trimmed(values: Sequence[str], width: int) -> list[str]:
    """Return cells without the empty ones beyond ``width``."""
    cells = list(values)
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    return cells


def _fit(values: Sequence[str], header: Sequence[str], delimiter: str, known: Known) -> list[str]:
    """Return a cell for each column of the header; ValueError when it is not clear which cell is which.

    Cells beyond the header belong to the text if it is the last column, or if it is the first and the key is in the
    right place. Cells may be missing at the end of a tab-separated line, where editors remove empty cells.
    """
    width, cells = len(header), _trimmed(values, len(header))
    extra = len(cells) - width
    if extra < 0 and delimiter == "\t" and _position(header, "audio", "id") < len(cells):
        cells += [""] * -extra
    elif extra > 0:
        text = _position(header, "text") if any(name in FIELDS["text"] for name in header) else None
        key = _position(header, "audio", "id")
        shift = extra if text is not None and key > text else 0
        if text not in (0, width - 1) or not _names_audio(cells[key + shift], known):
            raise ValueError(f"{len(cells)} cells under a header of {width}; put a text with {delimiter!r} in quotes")
        cells[text : text + extra + 1] = [delimiter.join(cells[text : text + extra + 1])]
    elif extra < 0:
        raise ValueError(f"{len(cells)} cells under a header of {width}; it is not clear which is missing")
    return [cell.strip() for cell in cells]


def _undescribed(
    name: str, cells: Sequence[tuple[int, list[str]]], delimiter: str, known: Known, split: str | None
) -> tuple[list[Row], list[Entry]] | None:
    """Read columns without a known header: the key is the column that names recordings, the text the last long one.

    So ``id|text|normalised`` (LJ Speech) gives the normalised text, ``path|speaker|text`` or ``path|text|speaker`` its
    text, and FLEURS' table its words, not its letters. Other columns are kept in ``meta``.
    """
    sample = [[value.strip() for value in values] for _, values in cells[:_SAMPLE]]
    widths = Counter(len(values) for values in sample if len(values) > 1)
    width = min((w for w, count in widths.items() if count >= 0.05 * len(sample)), default=0)
    if width < 2:
        return None
    sample = [values for values in sample if len(values) >= width]
    hits = [sum(known(values[column]) for values in sample) for column in range(width)]
    if not max(hits):
        return None
    key = hits.index(max(hits))
    titles, body = [f"column_{column}" for column in range(width)], cells
    if _untitled(sample, key, known):
        titles, body, sample = _header(sample[0]) or titles, cells[1:], sample[1:]
    text = _text_column(sample, key, width)
    rows, entries = [], []
    for number, values in body:
        try:
            fitted = _fit_undescribed(values, width, key, text, delimiter)
        except ValueError as error:
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", str(error)))
            continue
        others = (c for c, value in enumerate(fitted) if value and c not in (key, text))
        rest = {titles[c] if c < len(titles) and titles[c] else f"column_{c}": fitted[c] for c in others}
        rows.append(Row(fitted[key], number, clean_text(fitted[text]) or None, split=split, meta=rest))
    return rows, entries


def _untitled(sample: Sequence[Sequence[str]], key: int, known: Known) -> bool:
    """Whether the first line is a header with unknown names: alone without a recording, and with no path or id."""
    first, others = sample[0], sample[1:]
    if known(first[key]) or not others or sum(known(values[key]) for values in others) < 0.9 * len(others):
        return False
    return not any(any(c.isdigit() or c in "/\\." for c in cell) for cell in first)


def _text_column(sample: Sequence[Sequence[str]], key: int, width: int) -> int:
    """Return the last long column; constants, letters of another column, numbers and phones only as a last resort."""
    columns = [[values[c] for values in sample] for c in range(width)]
    lengths = [0 if c == key else sum(map(len, cells)) for c, cells in enumerate(columns)]
    plain = [cells for c, cells in enumerate(columns) if c != key and not _is_spelled(cells)]
    varied = [
        0 if (len(cells) > 2 and len(set(cells)) == 1) or any(_spells(cells, other) for other in plain) else lengths[c]
        for c, cells in enumerate(columns)
    ]
    words = [0 if _is_labels(cells) else varied[c] for c, cells in enumerate(columns)]
    said = columns[words.index(max(words))]
    sentences = sum(len(cell.split()) for cell in said) >= 1.5 * len(said) or not "".join(said).isascii()
    best = words if max(words) and sentences else varied if max(varied) else lengths
    return max(c for c in range(width) if c != key and best[c] >= 0.5 * max(best))


def _is_labels(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, or phones with stress or tone."""
    tokens = [token for cell in cells for token in cell.split()]
    numbers = sum(not any(c.isalpha() for c in token) for token in tokens)
    phones = sum(bool(_PHONE.fullmatch(token)) for token in tokens)
    return numbers > 0.8 * len(tokens) or phones > 0.2 * len(tokens)


def _spells(cells: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a column holds the letters of another one, one by one."""
    if not _is_spelled(cells):
        return False
    same = sum(_letters(one) == _letters(two) for one, two in zip(cells, other, strict=True))
    return same >= 0.8 * len(cells)


def _is_spelled(cells: Sequence[str]) -> bool:
    tokens = [token for cell in cells for token in cell.split()]
    return sum(len(token) == 1 for token in tokens) > 0.9 * len(tokens)


def _letters(cell: str) -> str:
    return "".join(c for c in cell.casefold() if c.isalnum())


def _fit_undescribed(values: Sequence[str], width: int, key: int, text: int, delimiter: str) -> list[str]:
    cells = _trimmed(values, width)
    if len(cells) > width and text == width - 1 and key < text:
        joiner = delimiter if delimiter in ",;" else " "
        cells[text:] = [joiner.join(cells[text:])]
    if len(cells) <= max(key, 0) or (len(cells) != width and delimiter != "\t"):
        raise ValueError(f"{len(cells)} cells where the other rows have {width}")
    cells += [""] * (width - len(cells))
    return [cell.strip() for cell in cells]
