"""Use of discrete targets: quality and counts of the k-means units of each iteration.

In: the ``units`` folder of an iteration (``units.json``, ``units.npz``). Out: a `UnitUse`, or None where there is none.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.core.errors import DataError
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.html import Html
from speechssl.targets.table import UnitTable

__all__ = ["UnitUse", "read_units", "use_chart"]

_LARGEST = 512 << 20
"""Bytes of a table above which its counts are not read, so that a report takes seconds for a large corpus too."""


@dataclass(frozen=True)
class UnitUse:
    """The units that one iteration predicts."""

    units: int
    dead: int | None
    """Units that no frame carries."""
    perplexity: float | None
    """exp(entropy): the number of units in effective use."""
    entropy: float | None
    """Nats: the loss of a model that knows only how frequent each unit is."""
    largest_share: float | None
    """Share of the most frequent unit: the accuracy of always guessing it."""
    frames_per_run: float | None
    features: str
    shares: tuple[float, ...]
    """Share of the frames, most frequent unit first; empty when it was not counted."""
    kmeans_hours: float | None = None
    """Audio that the k-means was fitted on."""


def read_units(folder: Path, notes: list[str], top: Path) -> UnitUse | None:
    """Read the units of an iteration; ``notes`` says what could not be read (paths relative to ``top``)."""
    path = folder / "units.json"
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        units = int(known["units"])
    except (ValueError, KeyError, TypeError):
        notes.append(f"{os.path.relpath(path, top)}: does not describe units; left out")
        return None
    shares: tuple[float, ...] = ()
    table = folder / "units.npz"
    if table.exists() and table.stat().st_size <= _LARGEST:
        try:
            counts = sorted(UnitTable.load(table).counts().tolist(), reverse=True)
            frames = max(1, sum(counts))
            shares = tuple(count / frames for count in counts)
        except (DataError, ValueError) as error:
            notes.append(f"{os.path.relpath(table, top)}: {error}")
    return UnitUse(
        units,
        _number(known, "dead", int),
        _number(known, "perplexity", float),
        _number(known, "entropy", float),
        _number(known, "largest_share", float),
        _number(known, "frames_per_run", float),
        str(known.get("features", "")),
        shares,
        _number(known, "kmeans_hours", float) or None,
    )


def use_chart(named: Sequence[tuple[str, UnitUse]]) -> Html | None:
    """Draw the share of the frames of each unit, the most frequent first; None without counts."""
    series = [
        Series(name, [float(rank) for rank in range(1, len(use.shares) + 1)], [100 * share for share in use.shares],
               style=index % 4)
        for index, (name, use) in enumerate(named)
    ]  # fmt: skip
    return line_chart(series, x_label="unit, the most frequent first", y_label="Frames of each unit (%)", zero=True)


def _number(known: dict[str, Any], name: str, kind: type) -> Any:
    value = known.get(name)
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
