"""Transcripts in named fields: our manifests and ``hypotheses.jsonl``, those of NeMo and others, csv and tsv tables.

In: a file of JSON lines, a JSON array, or a table with a header. Out: id, text and other fields of each utterance. Ids
may be numbers; a row without an id has the name of its audio file.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from speechssl.core.errors import DataError
from speechssl.data.ingest.rows import FIELDS
from speechssl.evaluation.nist.header_rows import table_rows
from speechssl.evaluation.nist.transcript import Transcript, read_lines

__all__ = ["TEXTS", "parse_rows"]

_REFERENCES = ("ref_raw", "ref", "reference", "reference_text", "target", "ground_truth")
_HYPOTHESES = ("hyp_raw", "hyp", "hypothesis", "pred_text", "prediction", "predicted", "pred")
TEXTS = frozenset({*_REFERENCES, *_HYPOTHESES, *FIELDS["text"]})
"""Names of fields that hold a transcript."""
_LISTED = 6


def parse_rows(path: Path, side: Literal["ref", "hyp"], *, table: bool) -> list[Transcript]:
    """Return the transcripts of a file, which is a ``table`` with a header, or JSON.

    The text of a reference is ``ref_raw``, ``ref``, ``reference`` ... or else ``text`` and its other names; that of a
    hypothesis ``hyp_raw``, ``hyp``, ``pred_text`` ... If any row has one of those, ``text`` is ignored in all rows: in
    a manifest of NeMo it is the reference, and would score as a perfect hypothesis.

    Raises DataError when a line is not an object with an id (or audio file) and a text; the line is named.
    """
    lines = read_lines(path)
    rows: Sequence[tuple[str, dict[str, Any]]]
    rows = table_rows(path, lines, TEXTS) if table else _objects(path, lines)
    names = (*_REFERENCES, *FIELDS["text"])
    if side == "hyp":
        names = _HYPOTHESES if any(name in row for _, row in rows for name in _HYPOTHESES) else FIELDS["text"]
    ids = _ids(rows)
    found = []
    for (where, row), id_ in zip(rows, ids, strict=True):
        values = [row[name] for name in names if isinstance(row.get(name), str)]
        if not values:
            raise DataError(f"{where}: {_no_text(row, names, side)}")
        speaker, language = (
            next((row[name] for name in FIELDS[field] if row.get(name)), None) for field in ("speaker", "language")
        )
        duration = row.get("duration")
        known = isinstance(duration, int | float) and not isinstance(duration, bool)
        found.append(
            Transcript(
                id_,
                tuple(values[0].split()),
                where,
                speaker if isinstance(speaker, str) else None,
                float(duration) if known and duration is not None else None,
                language if isinstance(language, str) else None,
                "" if any(row.get(key) for key in FIELDS["start"]) else _audio_of(row),
            )
        )
    return found


def _no_text(row: dict[str, Any], names: Sequence[str], side: str) -> str:
    empty = next((name for name in names if name in row), None)
    if empty is not None:
        return f"{empty!r} must be a string, not {row[empty]!r}; write an empty string where nothing was said"
    what = "reference" if side == "ref" else "hypothesis"
    others = " (other lines of the file have one)" if names is _HYPOTHESES else ""
    return (
        f"has no {what}{others}: none of {', '.join(names[:_LISTED])}; its fields are {', '.join(map(str, row)) or '-'}"
    )


def _objects(path: Path, lines: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of JSON lines, or of a file that is one array, and the place of each."""
    text = "\n".join(lines)
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        placed = [(f"{path}, entry {number}", value) for number, value in enumerate(values, 1)]
    else:
        placed = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                placed.append((f"{path}, line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from None
    for where, value in placed:
        if not isinstance(value, dict):
            raise DataError(f"{where}: not a JSON object but {type(value).__name__}; give an object an utterance")
    return placed


def _ids(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return an id for each row: its own, else its audio's name, else its path where names repeat; with its start."""
    own = [_own_id(where, row) for where, row in rows]
    audio = ["" if id_ else _audio(where, row) for id_, (where, row) in zip(own, rows, strict=True)]
    files = {name for name in audio if name}
    stems = Counter(PurePosixPath(name).stem for name in files)
    parts = Counter(audio)
    ids = []
    for id_, name, (_, row) in zip(own, audio, rows, strict=True):
        if not id_:
            stem = PurePosixPath(name).stem
            id_ = stem if stems[stem] == 1 else str(PurePosixPath(name).with_suffix(""))
            start = next((row[key] for key in FIELDS["start"] if key in row), None)
            if parts[name] > 1 and isinstance(start, int | float):
                id_ += f"-{float(start):.3f}"
        ids.append(id_)
    return ids


def _own_id(where: str, row: dict[str, Any]) -> str | None:
    for name in FIELDS["id"]:
        value = row.get(name)
        if name == "key" and _audio_of(row):
            continue  # in our transcripts.jsonl: the settings that a transcript depends on
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{where}: {name!r} must be a string or a whole number, not {value!r}")
        return str(value)
    return None


def _audio_of(row: dict[str, Any]) -> str:
    for name in FIELDS["audio"]:
        value = row.get(name)
        value = value.get("path") if isinstance(value, dict) else value
        if isinstance(value, str) and value.strip():
            return value.strip().replace("\\", "/")
    return ""


def _audio(where: str, row: dict[str, Any]) -> str:
    if found := _audio_of(row):
        return found
    names = f"{', '.join(FIELDS['id'][:3])} or an audio file ({', '.join(FIELDS['audio'][:3])})"
    raise DataError(f"{where}: names no utterance: none of {names}; its fields are {', '.join(map(str, row)) or '-'}")
