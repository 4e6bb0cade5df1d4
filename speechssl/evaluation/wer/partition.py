"""Ways to divide a test set: by speaker, length, duration, speaking rate, noise, and any field of the manifest.

In: rows of ``hypotheses.jsonl``; manifest fields are under ``fields`` (``{name: text, number, true, false or null}``).
Out: `Partition` records that name row numbers, so that one division serves all systems scored on the same utterances.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import Row

__all__ = [
    "UNKNOWN",
    "Partition",
    "duration_partition",
    "field_partitions",
    "length_partition",
    "partitions",
    "rate_partition",
    "snr_partition",
    "speaker_partition",
]

UNKNOWN = "(unknown)"
"""Group of the rows without a value."""
SNR = "snr_db"
"""Field with the signal-to-noise ratio in decibels."""

_WORD_EDGES = (1, 3, 6, 11, 16, 21, 31)
"""Smallest length of each group, in reference words."""
_SECOND_EDGES = (0, 2, 5, 10, 15, 30)
_RATE_EDGES = (0, 1.5, 2, 2.5, 3, 3.5, 4)
"""Words per second; conversation and read English lie between 2 and 3.5."""
_SNR_EDGES = (-math.inf, 0, 5, 10, 15, 20, 30, 40)
_VALUES = 12
"""Most values of a field that have a group of their own, by number of utterances."""
_BINS = 5
"""Quantile bins of a number with more than ``_VALUES`` distinct values."""


@dataclass(frozen=True)
class Partition:
    """One way to divide the rows; a row may be in no group, and is never in two."""

    name: str
    title: str
    """Name of the quantity with its unit, for the head of a table."""
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    """(name of the group, row numbers), in the order to show; no group is empty."""


def partitions(rows: Sequence[Row]) -> tuple[tuple[Partition, ...], dict[str, str]]:
    """Return every division that has at least one group, and the fields that were left out with the reason."""
    fields, left_out = field_partitions(rows)
    own = (speaker_partition, length_partition, duration_partition, rate_partition, snr_partition)
    found = [partition(rows) for partition in own]
    return (*(part for part in found if part.groups), *fields), left_out


def speaker_partition(rows: Sequence[Row]) -> Partition:
    """Divide by speaker, in order of names; no group when no speaker is known."""
    names = {row["speaker"] for row in rows} - {None}
    groups = _by_value(["" if row["speaker"] is None else row["speaker"] for row in rows]) if names else {}
    ordered = sorted((UNKNOWN if name == "" else name, numbers) for name, numbers in groups.items())
    return Partition("speaker", "speaker", tuple(ordered))


def length_partition(rows: Sequence[Row]) -> Partition:
    """Divide by the number of reference words; utterances without any are in no group."""
    return Partition("length", "reference words", _by_edges([row["N"] for row in rows], _WORD_EDGES, step=1))


def duration_partition(rows: Sequence[Row]) -> Partition:
    """Divide by seconds of audio, where known."""
    return Partition("duration", "seconds", _by_edges([row["duration"] for row in rows], _SECOND_EDGES))


def rate_partition(rows: Sequence[Row]) -> Partition:
    """Divide by speaking rate, reference words per second of audio; rows without words or duration are in no group."""
    rates = [row["N"] / row["duration"] if row["N"] and row["duration"] else None for row in rows]
    return Partition("rate", "words per second", _by_edges(rates, _RATE_EDGES))


def snr_partition(rows: Sequence[Row]) -> Partition:
    """Divide by signal-to-noise ratio (field ``snr_db``); no group when it is known of no row."""
    values = [_number(_fields(row).get(SNR)) for row in rows]
    return Partition(SNR, "SNR (dB)", _with_unknown(_by_edges(values, _SNR_EDGES), values))


def field_partitions(rows: Sequence[Row]) -> tuple[tuple[Partition, ...], dict[str, str]]:
    """Divide by each field of the manifest.

    A field with at most 12 different values gives a group for each. More numbers give five groups of about equally many
    utterances. More texts give groups of the 12 most frequent values, and one of the rest. Rows without a value are a
    group of their own.

    Returns
    -------
    The divisions in order of field names, and ``{field: reason}`` of the fields that do not divide the utterances.

    Raises
    ------
    DataError
        A row whose ``fields`` is not an object.
    """
    names = sorted({name for row in rows for name in _fields(row)} - {SNR})
    found, left_out = [], {}
    for name in names:
        values = [_fields(row).get(name) for row in rows]
        reason, groups = _field_groups(values)
        if reason:
            left_out[name] = reason
        else:
            found.append(Partition(name, name, groups))
    return tuple(found), left_out


def _field_groups(values: list[Any]) -> tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    """Return (why the field is left out, or the empty string; its groups)."""
    if any(isinstance(value, list | dict) for value in values):
        return "its values are lists or objects", ()
    known = [value for value in values if value is not None]
    numeric = all(_number(value) is not None for value in known)
    distinct = len({str(value) for value in known})
    if distinct == 0:
        return "it has no value in any utterance", ()
    if distinct == 1 and len(known) == len(values):
        return "it is the same in every utterance", ()
    if numeric and distinct > _VALUES:
        numbers = [_number(value) for value in values]
        return "", _with_unknown(_by_quantiles(numbers), numbers)
    if distinct > _VALUES and distinct > len(known) / 2:
        return f"it has {distinct} values in {len(known)} utterances", ()
    groups = _by_value(["" if value is None else str(value) for value in values])
    unknown = groups.pop("", ())
    order = sorted(groups, key=(lambda name: (float(name), name)) if numeric else (lambda name: (0.0, name)))
    largest = Counter({name: len(groups[name]) for name in order}).most_common(_VALUES)
    shown = sorted((name for name, _ in largest), key=order.index) if numeric else [name for name, _ in largest]
    result = [(name, groups[name]) for name in shown]
    rest = sorted(number for name in groups.keys() - set(shown) for number in groups[name])
    if rest:
        result.append((f"({distinct - len(shown)} others)", tuple(rest)))
    return "", (*result, *([(UNKNOWN, unknown)] if unknown else []))


def _fields(row: Row) -> Mapping[str, Any]:
    fields = row.get("fields")
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise DataError(
            f'utterance {row["id"]!r}: \'fields\' must be an object such as {{"source": "radio"}}, not {fields!r}; '
            "correct the row, or delete 'fields' from it"
        )
    return fields


def _number(value: Any) -> float | None:
    """Return a finite number, or None; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _by_value(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    groups: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        groups.setdefault(value, []).append(number)
    return {name: tuple(numbers) for name, numbers in groups.items()}


def _by_edges(
    values: Sequence[float | None], edges: Sequence[float], *, step: int = 0, closed: float | None = None
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Divide numbers at ``edges``, the first values of the groups; None is in no group.

    ``step`` 1 names closed ranges of whole numbers (3–5), 0 half-open ranges (2–5). The last group has no end, or
    ``closed`` as its name's end.
    """
    found = []
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        part = tuple(
            number
            for number, value in enumerate(values)
            if value is not None and value >= low and (high is None or value < high)
        )
        if part:
            found.append((low, closed if high is None else high - step, part))
    for digits in (4, 8, 17):  # the fewest digits that distinguish the groups
        names = [_range_name(low, last, digits) for low, last, _ in found]
        if len(set(names)) == len(names):
            break
    return tuple((name, part) for name, (_, _, part) in zip(names, found, strict=True))


def _by_quantiles(values: Sequence[float | None]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    known = [value for value in values if value is not None]
    edges = np.unique(np.quantile(known, [index / _BINS for index in range(_BINS)]))
    return _by_edges(values, [float(edge) for edge in edges], closed=max(known))


def _range_name(low: float, last: float | None, digits: int) -> str:
    if last is None:
        return f"{_digits(low, digits)}+"
    if low == -math.inf:
        return f"< {_digits(last, digits)}"
    return _digits(low, digits) if last == low else f"{_digits(low, digits)}–{_digits(last, digits)}"


def _digits(value: float, digits: int) -> str:
    """Return a number with so many significant digits, but all of those before its point."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def _with_unknown(
    groups: tuple[tuple[str, tuple[int, ...]], ...], values: Sequence[float | None]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Add the rows without a value, where others have one."""
    unknown = tuple(number for number, value in enumerate(values) if value is None)
    return (*groups, (UNKNOWN, unknown)) if groups and unknown else groups
