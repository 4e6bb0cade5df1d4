"""Parts of an evaluation: errors by speaker, by length and by duration, and the most frequent confusions.

In: complete rows of ``hypotheses.jsonl``. Out: `Group` records with their own bootstrap intervals, and counted lists.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from speechssl.evaluation.alignment import AlignedPair
from speechssl.evaluation.hypotheses import Row
from speechssl.evaluation.significance import Interval, bootstrap_wer

__all__ = [
    "Group",
    "by_duration",
    "by_length",
    "by_speaker",
    "counts",
    "group_of",
    "operations",
    "speaker_interval",
    "top_substitutions",
    "top_units",
]

_WORD_EDGES = (1, 3, 6, 11, 16, 21, 31)
"""First lengths, in reference words, of the buckets of ``by_length``."""
_SECOND_EDGES = (0, 2, 5, 10, 15, 30)
"""First durations, in seconds, of the buckets of ``by_duration``."""
_TOP = 20
_SPEAKERS_FOR_INTERVAL = 5


@dataclass(frozen=True)
class Group:
    """Errors of a part of the utterances."""

    name: str
    utterances: int
    N: int
    S: int
    D: int
    I: int
    wer: float | None
    ci_low: float | None
    ci_high: float | None
    """95 % bootstrap interval over the utterances of this group; None with fewer than two utterances."""


def counts(rows: list[Row]) -> list[tuple[int, int]]:
    """Return (errors, reference words) of each row: the table that `significance` takes."""
    return [(row["S"] + row["D"] + row["I"], row["N"]) for row in rows]


def group_of(name: str, rows: list[Row], *, n: int, seed: int) -> Group:
    """Pool the errors of some rows."""
    S, D, I, N = (sum(row[op] for row in rows) for op in ("S", "D", "I", "N"))
    interval = bootstrap_wer(counts(rows), n=n, seed=seed)
    low, high = interval or (None, None)
    return Group(name, len(rows), N, S, D, I, (S + D + I) / N if N else None, low, high)


def by_speaker(rows: list[Row], *, n: int, seed: int) -> tuple[Group, ...]:
    """Group by speaker, highest WER first; rows without a speaker become one group, ``(unknown)``."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault("(unknown)" if row["speaker"] is None else row["speaker"], []).append(row)
    groups = [group_of(name, part, n=n, seed=seed) for name, part in sorted(parts.items())]
    return tuple(sorted(groups, key=lambda group: -1.0 if group.wer is None else group.wer, reverse=True))


def speaker_interval(rows: list[Row], speakers: int, *, n: int, seed: int) -> Interval | None:
    """Interval of the WER with whole speakers drawn, over rows of known speakers; None with fewer than five of them."""
    if speakers < _SPEAKERS_FOR_INTERVAL:
        return None
    known = [row for row in rows if row["speaker"] is not None]
    return bootstrap_wer(counts(known), n=n, seed=seed, block=[row["speaker"] for row in known])


def by_length(rows: list[Row], *, n: int, seed: int) -> tuple[Group, ...]:
    """Group by the number of reference words; utterances without any are in no group."""
    return _by_bucket(rows, "N", _WORD_EDGES, step=1, n=n, seed=seed)


def by_duration(rows: list[Row], *, n: int, seed: int) -> tuple[Group, ...]:
    """Group by seconds of audio, where known."""
    return _by_bucket(rows, "duration", _SECOND_EDGES, step=0, n=n, seed=seed)


def _by_bucket(
    rows: list[Row], field: str, edges: tuple[int, ...], *, step: int, n: int, seed: int
) -> tuple[Group, ...]:
    """Group by a number; ``step`` 1 names closed ranges of whole numbers (3-5), 0 half-open ranges (2-5)."""
    groups = []
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        part = [
            row for row in rows if row[field] is not None and row[field] >= low and (high is None or row[field] < high)
        ]
        last = None if high is None else high - step
        name = f"{low}+" if last is None else f"{low}" if last == low else f"{low}–{last}"
        if part:
            groups.append(group_of(name, part, n=n, seed=seed))
    return tuple(groups)


def operations(pairs: Counter[AlignedPair]) -> Counter[str]:
    """Count C, S, D and I over all aligned pairs."""
    ops = Counter[str]()
    for (op, _, _), count in pairs.items():
        ops[op] += count
    return ops


def top_substitutions(pairs: Counter[AlignedPair]) -> tuple[tuple[str, str, int], ...]:
    """Return (reference unit, hypothesis unit, count) of the most frequent substitutions."""
    found = [(str(ref), str(hyp), count) for (op, ref, hyp), count in pairs.items() if op == "S"]
    return tuple(sorted(found, key=lambda item: (-item[2], item[0], item[1]))[:_TOP])


def top_units(pairs: Counter[AlignedPair], op: Literal["D", "I"]) -> tuple[tuple[str, int], ...]:
    """Return (unit, count) of the most frequently deleted or inserted units."""
    side = 1 if op == "D" else 2
    found = [(str(pair[side]), count) for pair, count in pairs.items() if pair[0] == op]
    return tuple(sorted(found, key=lambda item: (-item[1], item[0]))[:_TOP])
