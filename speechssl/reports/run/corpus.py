"""The data of a run: utterances, hours, labels and speakers of each split, from ``manifest.jsonl``.

In: a manifest file, read line by line. Out: a `Corpus` with counts and a histogram of durations.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Corpus", "Part", "read_corpus"]

_ORDER = {"train": 0, "dev": 1, "valid": 1, "test": 2}
_BINS = 40


@dataclass(frozen=True)
class Part:
    """One split."""

    name: str
    utterances: int
    hours: float
    labelled: int
    labelled_hours: float
    speakers: int


@dataclass(frozen=True)
class Corpus:
    """All splits of one manifest."""

    source: str
    """The manifest, relative to the run folder."""
    parts: tuple[Part, ...]
    total: Part
    durations: tuple[tuple[float, float, float], ...]
    """Histogram: (from, to, hours), seconds."""


def read_corpus(paths: Sequence[Path], top: Path) -> tuple[Corpus | None, str]:
    """Return the first manifest that has utterances, and a sentence about its damaged lines (or the empty string)."""
    for path in paths:
        found: dict[str, list[tuple[float, bool, str | None]]] = {}
        bad = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line.decode("utf-8"))
                    seconds = float(row["duration"])
                    if not (math.isfinite(seconds) and seconds >= 0):
                        raise ValueError("duration")
                    entry = (seconds, bool(row.get("text")), row.get("speaker"))
                    found.setdefault(str(row.get("split") or "(no split)"), []).append(entry)
                except (ValueError, KeyError, TypeError, AttributeError):
                    bad += bool(line.strip())
        if not found:
            continue
        name = os.path.relpath(path, top)
        parts = tuple(_part(split, found[split]) for split in sorted(found, key=lambda s: (_ORDER.get(s, 3), s)))
        everything = [entry for entries in found.values() for entry in entries]
        corpus = Corpus(name, parts, _part("all", everything), _histogram([seconds for seconds, *_ in everything]))
        return corpus, f"{name}: {bad} damaged line{'s' * (bad != 1)} left out" if bad else ""
    return None, ""


def _part(name: str, entries: list[tuple[float, bool, str | None]]) -> Part:
    labelled = [seconds for seconds, has_text, _ in entries if has_text]
    return Part(
        name=name,
        utterances=len(entries),
        hours=sum(seconds for seconds, *_ in entries) / 3600,
        labelled=len(labelled),
        labelled_hours=sum(labelled) / 3600,
        speakers=len({speaker for *_, speaker in entries} - {None}),
    )


def _histogram(durations: list[float]) -> tuple[tuple[float, float, float], ...]:
    longest = max(durations)
    width = next((step for step in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30) if longest / step <= _BINS), longest / _BINS)
    hours = Counter[int]()
    for seconds in durations:
        hours[int(seconds / width)] += 1
    return tuple((index * width, (index + 1) * width, float(hours[index])) for index in range(max(hours) + 1))
