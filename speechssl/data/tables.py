"""Tables of transcripts, as corpora ship them: JSONL, CSV and TSV with or without a header, Sphinx, LibriSpeech, lists.

In: one text file. Out: rows that name a recording and say something about it, not yet matched with any file; and ledger
entries for lines that cannot be used. What is no table gives no rows and no entries.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.data.ledger import Entry
from speechssl.data.rows import FIELDS, Row, clean_text, row_from_fields

__all__ = ["TABLE_SUFFIXES", "Table", "parse_table", "read_text"]

TABLE_SUFFIXES = frozenset({"", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".lst", ".list", ".psv", ".text", ".trans",
                            ".transcription", ".transcriptions", ".transcript", ".transcripts"})  # fmt: skip
MAX_TABLE_BYTES = 2**29


@dataclass(frozen=True)
class Table:
    """The rows of one file."""

    path: str
    kind: str
    """jsonl, columns, sphinx, list."""
    rows: tuple[Row, ...]
    certain: bool
    """Its name or header says that it is a table of recordings; others count only if enough of their keys match."""


def read_text(path: Path, limit: int = MAX_TABLE_BYTES) -> str:
    """Return a text file of at most ``limit`` bytes in UTF-8 (or UTF-16 with its mark), every line end a newline.

    Raises
    ------
    ValueError
        It is neither, or it is too large for a table.
    OSError
        It cannot be read.
    """
    if path.stat().st_size > limit:
        raise ValueError(f"larger than {limit:,} bytes")
    with path.open("rb") as file:
        marked = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        data = file.read(4096)
        if b"\0" in data and not marked:
            raise ValueError("binary, not text")
        data += file.read()
    try:
        text = data.decode("utf-16") if marked else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}; convert it, for instance with iconv") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_table(name: str, text: str, known: Callable[[str], bool]) -> tuple[Table | None, list[Entry]]:
    """Recognise a table by its content and return its rows, and entries for lines that cannot be used.

    Parameters
    ----------
    name
        Path relative to the corpus, with ``/``.
    text
        Its content.
    known
        Whether a key names a recording of this corpus; tables without a header show by it which column holds the key.
    """
    suffix = Path(name).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(name, text)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines or "\0" in text:
        return None, []
    if table := _sphinx(name, lines):
        return table, []
    delimiter = _delimiter(lines, suffix)
    if delimiter:
        return _columns(name, text, delimiter, known)
    return _list(name, lines, known), []


def _split_of(name: str) -> str | None:
    """Return the split that a table's name promises: ``train.tsv``, ``an4_test.transcription``."""
    words = re.split(r"[^a-z]+", Path(name).name.lower().split(".")[0])
    found = {w for w in words if w in ("train", "dev", "test", "valid", "validation", "val", "eval")}
    return found.pop() if len(found) == 1 else None


def _jsonl(name: str, text: str) -> tuple[Table | None, list[Entry]]:
    rows: list[Row] = []
    entries: list[Entry] = []
    audio_fields = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("not a JSON object")
            audio_fields |= any(str(key).lower() in FIELDS["audio"] for key in fields)
            rows.append(row_from_fields(fields, number, _split_of(name), empty_is_text=True))
        except (ValueError, RecursionError) as error:
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", str(error), "rejected"))
    if not audio_fields and not any(row.text is not None or row.speaker for row in rows):
        return None, []
    return Table(name, "jsonl", tuple(rows), audio_fields), entries if audio_fields else []


_SPHINX = re.compile(r"^(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\(([^()\s]+)\)$")
_FILLER = re.compile(r"<[^<>\s]+>|\+\+[^+\s]+\+\+|(?<=\w)\(\d+\)")


def _sphinx(name: str, lines: Sequence[tuple[int, str]]) -> Table | None:
    """Read ``<s> words </s> (id)``; fillers (<sil>, ++um++) and marks of variant pronunciations are no words."""
    matches = [(number, _SPHINX.match(line.strip())) for number, line in lines]
    found = [(number, m) for number, m in matches if m]
    marked = Path(name).suffix.lower().startswith(".trans") or sum("</s>" in line for _, line in lines) * 2 > len(lines)
    if len(found) * 2 <= len(lines) or not (marked or Path(name).stem.lower().startswith("trans")):
        return None
    split = _split_of(name)
    rows = (Row(m[2], number, clean_text(_FILLER.sub(" ", m[1])) or None, split=split) for number, m in found)
    return Table(name, "sphinx", tuple(rows), certain=True)


def _delimiter(lines: Sequence[tuple[int, str]], suffix: str) -> str:
    """Return the column separator that nearly every line has, or nothing."""
    sample = [line for _, line in lines[:200]]
    wanted = {".csv": "|\t;,", ".tsv": "\t", ".psv": "|"}.get(suffix, "|\t")
    return next((d for d in wanted if sum(d in line for line in sample) >= 0.9 * len(sample)), "")


def _columns(name: str, text: str, delimiter: str, known: Callable[[str], bool]) -> tuple[Table | None, list[Entry]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
    entries: list[Entry] = []
    cells: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            cells += [(reader.line_num, stripped)] if any(stripped) else []
    except csv.Error as error:  # a field beyond the module's limit, most often an open quotation mark
        detail = f"{error}; nothing from here on is read"
        entries.append(Entry("manifest", f"{name}:{reader.line_num}", "bad_row", detail))
    if not cells:
        return None, []
    header = [value.lower().lstrip("\ufeff") for value in cells[0][1]]
    names_audio = [h for h in header if h in FIELDS["audio"] + FIELDS["id"]]
    described = names_audio and any(h in FIELDS["text"] + FIELDS["speaker"] + FIELDS["split"] for h in header)
    if described and not known(cells[0][1][header.index(names_audio[0])]):
        rows, bad = _described(name, header, cells[1:])
        return Table(name, "columns", tuple(rows), certain=True), entries + bad
    return _undescribed(name, cells, delimiter, known), entries if entries and _is_certain(name) else []


def _is_certain(name: str) -> bool:
    lowered = Path(name).name.lower()
    return lowered.endswith((".trans.txt", ".trans", ".transcription", ".transcriptions", ".transcripts"))


def _described(name: str, header: list[str], cells: Sequence[tuple[int, list[str]]]) -> tuple[list[Row], list[Entry]]:
    """Read the rows under a header. Rows that Common Voice calls not validated lend their speaker, not their text."""
    rows, entries = [], []
    unreviewed = Path(name).stem.lower() in ("invalidated", "other", "reported")
    for number, values in cells:
        try:
            fields: dict[Any, Any] = dict(zip(header, values, strict=False))
            row = row_from_fields({k: v for k, v in fields.items() if v}, number, _split_of(name), empty_is_text=False)
        except ValueError as error:
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", str(error), "rejected"))
            continue
        if unreviewed and row.text is not None:
            entries.append(Entry("manifest", f"{name}:{number}", "unreviewed_text", row.key, "dropped"))
            row = Row(row.key, number, speaker=row.speaker, language=row.language, id=row.id, meta=row.meta)
        rows.append(row)
    return rows, entries


def _undescribed(
    name: str, cells: Sequence[tuple[int, list[str]]], delimiter: str, known: Callable[[str], bool]
) -> Table | None:
    """Read columns without a header: the key is the column that names recordings, the text the last long one.

    So ``id|text|normalised`` (LJ Speech) gives the normalised text, and ``path|speaker|text`` or ``path|text|speaker``
    its text. Other columns are kept in ``meta``.
    """
    sample = [values for _, values in cells[:200]]
    width = min(len(values) for values in sample)
    hits = [sum(known(values[column]) for values in sample) for column in range(width)]
    if width < 2 or not max(hits):
        return None
    key = hits.index(max(hits))
    lengths = [sum(len(values[column]) for values in sample) if column != key else 0 for column in range(width)]
    column = max(c for c in range(width) if c != key and lengths[c] >= 0.5 * max(lengths))
    merged = delimiter in "\t|" and width < 3  # a stray separator belongs to the text
    split = _split_of(name)
    rows = []
    for number, values in cells:
        if len(values) > key:
            parts = values[column:] if merged else values[column : column + 1]
            others = () if merged else (c for c, v in enumerate(values) if v and c not in (key, column))
            rest = {f"column_{c}": values[c] for c in others}
            rows.append(Row(values[key], number, clean_text(" ".join(parts)) or None, split=split, meta=rest))
    return Table(name, "columns", tuple(rows), _is_certain(name))


def _list(name: str, lines: Sequence[tuple[int, str]], known: Callable[[str], bool]) -> Table | None:
    """Read ``id words``: LibriSpeech's .trans.txt, Kaldi's text."""
    split = ((number, line.strip().split(None, 1)) for number, line in lines)
    rows = tuple(Row(p[0], number, clean_text(p[1]) if len(p) > 1 else None) for number, p in split)
    certain = _is_certain(name)
    if not certain and sum(known(row.key) for row in rows) * 2 <= len(rows):
        return None
    return Table(name, "list", rows, certain)
