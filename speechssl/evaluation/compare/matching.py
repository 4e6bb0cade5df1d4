"""Matches the utterances of several systems, so that all are compared on the same ones.

In: rows of each system. Out: rows in one order for all, or an error that names the first difference. With ``common``:
the utterances that all systems share, and the number of others that each has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import Row

__all__ = ["Matched", "match"]

_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """Rows of several systems on the same utterances."""

    rows: dict[str, list[Row]]
    """By system; entry k of every list is the same utterance with the same reference. In order of ids."""
    left_out: dict[str, int]
    """Rows of each system that the others do not share."""
    other_references: tuple[str, ...]
    """Utterances that were left out because their references differ."""
    meta: tuple[Row, ...]
    """Entry k holds what any system records of utterance k, as a row: speaker, duration, fields, N."""


def match(systems: Mapping[str, Sequence[Row]], *, common: bool = False) -> Matched:
    """Match the scored rows of two systems or more by utterance id; ``common`` leaves out what differs.

    Raises DataError when the utterances or the references differ (without ``common``), or no utterance is left.
    """
    tables = {name: {str(row["id"]): row for row in rows} for name, rows in systems.items()}
    names = list(tables)
    everything = set().union(*tables.values())
    shared = everything.intersection(*tables.values())
    if shared != everything and not common:
        raise DataError(_missing(tables, sorted(everything - shared)))
    ids = sorted(shared)
    refs = {id_: {table[id_]["ref"] for table in tables.values()} for id_ in ids}
    other = tuple(id_ for id_ in ids if len(refs[id_]) > 1)
    if other and not common:
        raise DataError(_different(tables, names, other))
    kept = [id_ for id_ in ids if len(refs[id_]) == 1]
    if not kept:
        raise DataError(
            f"the systems {_list(names)} have no utterance with the same id and the same reference in common; "
            "evaluate them on the same split, with the same text normalisation"
        )
    rows = {name: [table[id_] for id_ in kept] for name, table in tables.items()}
    left_out = {name: len(table) - len(kept) for name, table in tables.items()}
    return Matched(rows, left_out, other, tuple(_meta([rows[name][k] for name in names]) for k in range(len(kept))))


def _meta(rows: Sequence[Row]) -> Row:
    """Merge the rows of one utterance; of each field the first system that has it is used."""
    fields: dict[str, Any] = {}
    for row in rows:
        if isinstance(row.get("fields"), dict):
            fields |= {name: value for name, value in row["fields"].items() if fields.get(name) is None}
    first = rows[0]
    known = {name: next((r[name] for r in rows if r[name] is not None), None) for name in ("speaker", "duration")}
    return {"id": first["id"], "ref": first["ref"], "N": first["N"], **known, "fields": fields}


def _missing(tables: Mapping[str, Mapping[str, Row]], missing: Sequence[str]) -> str:
    first = missing[0]
    having = [name for name, table in tables.items() if first in table]
    lacking = [name for name, table in tables.items() if first not in table]
    sizes = ", ".join(f"{name}: {len(table)}" for name, table in tables.items())
    return (
        f"the systems were scored on different utterances ({sizes}): {len(missing)} are not in all of them. The first, "
        f"{first!r}, is in {_list(having)} but not in {_list(lacking)}. Evaluate all systems on the same split, or "
        "compare the utterances they share with --common"
    )


def _different(tables: Mapping[str, Mapping[str, Row]], names: Sequence[str], other: Sequence[str]) -> str:
    first = other[0]
    left = tables[names[0]][first]["ref"]
    name = next(name for name in names if tables[name][first]["ref"] != left)
    right = tables[name][first]["ref"]
    return (
        f"the systems have different references for {len(other)} utterances. The first, {first!r}, is "
        f"{_cut(left, right)!r} in {names[0]} but {_cut(right, left)!r} in {name}. Evaluate all systems with the same "
        "transcripts and text normalisation, or leave these utterances out with --common"
    )


def _cut(text: str, other: str) -> str:
    """Return the text around its first difference from another."""
    place = next((k for k, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = max(0, place - 20)
    return ("…" if start else "") + text[start : place + 20] + ("…" if place + 20 < len(text) else "")


def _list(names: Sequence[str]) -> str:
    shown = list(names[:_SHOWN]) + ([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
