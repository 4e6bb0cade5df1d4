"""The utterance, one line of a manifest, and the rule for its id.

In: JSON objects. Out: checked, frozen records that every later stage relies on.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ID_PATTERN", "Utterance", "from_row", "safe_id", "to_row"]

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,120}")
"""Pattern of ids: webdataset splits names at the first dot, and ids become names of tar members."""

_LONGEST = 120
_HASH = 12


@dataclass(frozen=True)
class Utterance:
    """One piece of audio, with its transcript and metadata."""

    id: str
    """[A-Za-z0-9_-]{1,120}, unique in its manifest."""
    path: str
    """Audio file: absolute, or relative to the manifest's folder."""
    duration: float
    """Seconds, from ``start``."""
    sample_rate: int
    """Of the file; everything is resampled to 16 kHz later."""
    channels: int
    start: float = 0.0
    """Seconds from the start of the file."""
    text: str | None = None
    """Transcript in NFC with single spaces. None: not transcribed. "": transcribed, and nothing was said."""
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    """train, dev, test, or any other name that the source gave."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Fields of the source that are not ours, kept as found."""


def safe_id(raw: str) -> str:
    """Turn any name into an id.

    Accents are dropped (NFKD), and runs of other characters outside [A-Za-z0-9_-] become one ``_``. A name of more than
    120 characters is cut and ends with a hash of the whole name. If no character is left, the id is a hash.

    Raises ValueError for the empty string.
    """
    if not raw:
        raise ValueError("an utterance id cannot be empty")
    plain = "".join(c for c in unicodedata.normalize("NFKD", raw) if not unicodedata.combining(c))
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")
    whole = unicodedata.normalize("NFC", raw).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(whole, digest_size=_HASH // 2).hexdigest()
    if not name:
        return f"u{digest}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - _HASH - 1]}-{digest}"


def to_row(utterance: Utterance) -> dict[str, Any]:
    """Return the JSON object of an utterance: fields at their defaults are left out, times have microseconds."""
    row: dict[str, Any] = {"id": utterance.id, "path": utterance.path}
    if utterance.start:
        row["start"] = round(utterance.start, 6)
    row |= {
        "duration": round(utterance.duration, 6),
        "sample_rate": utterance.sample_rate,
        "channels": utterance.channels,
    }
    for name in ("text", "speaker", "language", "split"):
        if (value := getattr(utterance, name)) is not None:
            row[name] = value
    if utterance.meta:
        row["meta"] = utterance.meta
    return row


def from_row(row: Any) -> Utterance:
    """Return the utterance of a JSON object; ValueError that says which field is wrong, and what is expected there."""
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    known = Utterance.__dataclass_fields__
    if unknown := sorted(set(row) - set(known)):
        raise ValueError(f"unknown field {unknown[0]!r}; fields of the source go under 'meta'")
    if not isinstance(row.get("id"), str) or not ID_PATTERN.fullmatch(row["id"]):
        raise ValueError(f"id {row.get('id')!r} is not [A-Za-z0-9_-]{{1,120}}")
    if not isinstance(row.get("path"), str) or not row["path"]:
        raise ValueError("path must be a non-empty string")
    numbers = {
        "start": _number(row, "start", 0.0, 0.0),
        "duration": _number(row, "duration", None, 1e-6),
        "sample_rate": int(_number(row, "sample_rate", None, 1)),
        "channels": int(_number(row, "channels", None, 1)),
    }
    for name in ("text", "speaker", "language", "split"):
        if not isinstance(row.get(name), str | None):
            raise ValueError(f"{name} must be a string or absent")
    if not isinstance(row.get("meta", {}), dict):
        raise ValueError("meta must be an object")
    return Utterance(**{**row, **numbers})


def _number(row: dict[str, Any], name: str, default: float | None, least: float) -> float:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be a number of at least {least:g}, not {value!r}")
    return float(value)
