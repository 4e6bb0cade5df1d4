"""Reads the transcript tables of corpora: JSON, CSV and TSV with or without a header, Sphinx, NIST, lists.

In: one text file. Out: rows, each about a recording that is not yet matched with a file, and ledger entries for lines
that cannot be used. A file that is not a table gives no rows and no entries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.core.ledger import Entry
from speechssl.data.ingest.columns import read_columns
from speechssl.data.ingest.layouts import split_word
from speechssl.data.ingest.rows import FIELDS, Row, clean_text, field_name, row_from_fields
from speechssl.data.ingest.text.plain_text import read_text

__all__ = ["TABLE_SUFFIXES", "Table", "parse_table", "read_text", "split_of_table"]

TABLE_SUFFIXES = frozenset({"", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".lst", ".list", ".psv", ".text",
                            ".trans", ".transcription", ".transcriptions", ".transcript", ".transcripts", ".stm",
                            ".trn", ".manifest", ".filelist", ".tab", ".dat"})  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The rows of one file."""

    path: str
    kind: str
    """jsonl, columns, sphinx, stm, list, kaldi, fairseq."""
    rows: tuple[Row, ...]
    certain: bool
    """Whether its name or header marks it as a table of recordings; others are used only if enough of their keys
    match."""


def parse_table(name: str, text: str, known: Callable[[str], bool]) -> tuple[Table | None, list[Entry]]:
    """Recognise a table by its content and return its rows, and entries for lines that cannot be used.

    ``name`` is relative to the corpus, with ``/``. ``known`` says whether a key names a recording of this corpus: in a
    table without a header it finds the column of the key.
    """
    suffix = Path(name).suffix.lower()
    if suffix in (".jsonl", ".ndjson") and not text.lstrip().startswith("["):
        return _jsonl(name, text)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json(name, text, known)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines or "\0" in text:
        return None, []
    if suffix in (".manifest", ".filelist", ".txt", ".lst", ".list") and lines[0][1].lstrip().startswith("{"):
        return _jsonl(name, text)
    if found := _stm(name, lines) or _sphinx(name, lines):
        return found
    columns = read_columns(name, lines, known, split_of_table(name), certain=_is_certain(name))
    if columns is not None:
        return Table(name, "columns", columns.rows, columns.certain), list(columns.entries)
    return _list(name, lines, known), []


def split_of_table(name: str) -> str | None:
    """Return the split in a table's name: ``train.tsv``, ``an4_test.transcription``."""
    words = re.split(r"[^a-z]+", Path(name).name.lower().split(".")[0])
    found = {word for word in words if split_word(word)}
    return found.pop() if len(found) == 1 else None


def _jsonl(name: str, text: str) -> tuple[Table | None, list[Entry]]:
    values: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                values.append((number, error))
    return _objects(name, values)


def _objects(name: str, values: Sequence[tuple[int, Any]]) -> tuple[Table | None, list[Entry]]:
    """Convert each JSON object into a row; any other value, or an exception, is a bad row."""
    rows: list[Row] = []
    entries: list[Entry] = []
    audio_fields = False
    for number, fields in values:
        try:
            if isinstance(fields, BaseException):
                raise ValueError(str(fields))
            if not isinstance(fields, dict):
                raise ValueError("not a JSON object")
            audio_fields |= any(field_name(str(key)) in FIELDS["audio"] for key in fields)
            rows.append(row_from_fields(fields, number, split_of_table(name), empty_is_text=True))
        except (ValueError, RecursionError) as error:
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", str(error), "rejected"))
    if not audio_fields and not any(row.text is not None or row.speaker for row in rows):
        return None, []
    return Table(name, "jsonl", tuple(rows), audio_fields), entries if audio_fields else []


def _json(name: str, text: str, known: Callable[[str], bool]) -> tuple[Table | None, list[Entry]]:
    """Read JSON lines with the name of JSON (NeMo), a list of objects, or objects and texts by id (SpeechBrain)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _jsonl(name, text) if text.count("\n{") or text.startswith("{") else (None, [])
    if isinstance(value, dict) and value and all(isinstance(said, str) for said in value.values()):
        spoken = {file: said for file, said in value.items() if known(file)}
        if 2 * len(spoken) > len(value):
            split = split_of_table(name)
            rows = (
                Row(file, n, clean_text(said) or None, split=split) for n, (file, said) in enumerate(value.items(), 1)
            )
            return Table(name, "jsonl", tuple(rows), certain=True), []
    objects = list(_members(value))
    if len(objects) == 1 and isinstance(value, dict) and not _has(objects[0], "audio") and known(Path(name).stem):
        objects[0] = {
            "audio": Path(name).stem,
            **{k: v for k, v in value.items() if field_name(str(k)) in FIELDS["text"]},
        }
    table, entries = _objects(name, list(enumerate(objects, 1)))
    if table is None or not any(row.text is not None or row.speaker for row in table.rows):
        return None, entries if any(_has(item, "text") for item in objects) else []
    return table, entries


def _has(value: Any, role: str) -> bool:
    return isinstance(value, dict) and any(field_name(str(key)) in FIELDS[role] for key in value)


def _members(value: Any) -> Iterator[Any]:
    """Yield the objects of a JSON file that are about recordings, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _members(item) if _has(item, "audio") else (item,)
    elif _has(value, "audio"):
        parts = value.get("segments")
        if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
            outer = {k: v for k, v in value.items() if k != "segments" and field_name(str(k)) in FIELDS["audio"]}
            yield from ({**outer, **part} for part in parts)  # GigaSpeech: a recording and its parts
        else:
            yield value
    elif isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and any(_has(i, "audio") for i in item)]
        inner = [item for item in value.values() if isinstance(item, dict)]
        if lists:
            yield from _members(lists[0])
        elif inner and len(inner) == len(value):
            if len(inner) == 1 and not _has(inner[0], "audio") and not _has(inner[0], "text"):
                yield from _members(inner[0])  # ESPnet: {"utts": {id: object}}
            else:
                yield from ({"id": key, **_espnet(item)} for key, item in value.items())
        else:
            yield value


def _espnet(item: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an utterance in ESPnet's data.json (its text lies in a list), others as they are."""
    outputs = item.get("output")
    if not isinstance(outputs, list) or not outputs or not isinstance(outputs[0], dict):
        return item
    return {"text": outputs[0].get("text"), "speaker": item.get("utt2spk")}


_STM = re.compile(
    r"(?P<file>\S+)\s+(?P<channel>\S+)\s+(?P<speaker>\S+)\s+(?P<start>\d+(?:\.\d+)?)\s+(?P<end>\d+(?:\.\d+)?)"
    r"(?:\s+<(?P<label>[^<>]*)>)?(?:\s+(?P<text>.*))?"
)
_UNSCORED = "ignore_time_segment_in_scoring"


def _stm(name: str, lines: Sequence[tuple[int, str]]) -> tuple[Table, list[Entry]] | None:
    """Read NIST segments (file, channel, speaker, start, end, label, words); segments not to be scored are left out."""
    if Path(name).suffix.lower() != ".stm":
        return None
    rows: list[Row] = []
    entries = []
    split = split_of_table(name)
    for number, line in lines:
        match = _STM.fullmatch(line.strip())
        span = (float(match["start"]), float(match["end"]) - float(match["start"])) if match else (0.0, 0.0)
        if line.startswith(";;"):
            continue
        if match is None or span[1] <= 0:
            detail = "not file, channel, speaker, start, end, words"
            entries.append(Entry("manifest", f"{name}:{number}", "bad_row", detail))
        elif _UNSCORED in (match["text"] or "").lower():
            entries.append(Entry("manifest", f"{name}:{number}", "unscored", match["text"], "dropped"))
        else:
            meta = {"channel": match["channel"]} | ({"label": match["label"]} if match["label"] else {})
            text = clean_text(match["text"] or "")
            rows.append(Row(match["file"], number, text, match["speaker"], split=split, span=span, meta=meta))
    return (Table(name, "stm", tuple(rows), certain=True), entries) if rows else None


_SPHINX = re.compile(r"^(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\(([^()\s]+)\)$")
_FILLER = re.compile(r"<[^<>\s]+>|\+\+[^+\s]+\+\+|(?<=\w)\(\d+\)")


def _sphinx(name: str, lines: Sequence[tuple[int, str]]) -> tuple[Table, list[Entry]] | None:
    """Read ``<s> words </s> (id)`` or NIST's ``words (id)``; fillers (<sil>, ++um++) and variant marks are removed."""
    matches = [(number, _SPHINX.match(line.strip())) for number, line in lines if not line.startswith(";;")]
    found = [(number, m) for number, m in matches if m]
    marked = Path(name).suffix.lower().startswith((".trans", ".trn"))
    marked = marked or sum("</s>" in line for _, line in lines) * 2 > len(lines)
    if len(found) * 2 <= len(matches) or not (marked or Path(name).stem.lower().startswith("trans")):
        return None
    split = split_of_table(name)
    rows = tuple(Row(m[2], number, clean_text(_FILLER.sub(" ", m[1])) or None, split=split) for number, m in found)
    bad = [number for number, match in matches if match is None]
    entries = [Entry("manifest", f"{name}:{number}", "bad_row", "no (id) at its end") for number in bad]
    return Table(name, "sphinx", rows, certain=True), entries


def _is_certain(name: str) -> bool:
    lowered = Path(name).name.lower()
    return lowered.endswith((".trans.txt", ".trans", ".transcription", ".transcriptions", ".transcripts"))


def _list(name: str, lines: Sequence[tuple[int, str]], known: Callable[[str], bool]) -> Table | None:
    """Read ``id words``: LibriSpeech's .trans.txt, Kaldi's text; or names of recordings alone."""
    parts = ((number, line.strip().split(None, 1)) for number, line in lines)
    split = split_of_table(name)
    rows = tuple(
        Row(p[0].rstrip(":"), number, clean_text(p[1]) if len(p) > 1 else None, split=split) for number, p in parts
    )
    certain = _is_certain(name)
    if not certain and sum(known(row.key) for row in rows) * 2 <= len(rows):
        return None
    return Table(name, "list", rows, certain)
