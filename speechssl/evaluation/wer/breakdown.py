"""Parts of an evaluation: errors by speaker, length, duration, speaking rate, noise and manifest field.

In: complete rows of ``hypotheses.jsonl``. Out: `Group` records, each with its own bootstrap interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechssl.evaluation.bootstrap import Interval, bootstrap_wer
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.evaluation.wer.partition import Partition, speaker_partition

__all__ = ["Group", "by_partition", "by_speaker", "counts", "group_of", "speaker_interval"]

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


def counts(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return (errors, reference words) of each row: the table that `bootstrap` takes."""
    return [(row["S"] + row["D"] + row["I"], row["N"]) for row in rows]


def group_of(name: str, rows: Sequence[Row], *, n: int, seed: int) -> Group:
    """Pool the errors of some rows."""
    S, D, I, N = (sum(row[op] for row in rows) for op in ("S", "D", "I", "N"))
    interval = bootstrap_wer(counts(rows), n=n, seed=seed)
    low, high = interval or (None, None)
    return Group(name, len(rows), N, S, D, I, (S + D + I) / N if N else None, low, high)


def by_partition(rows: Sequence[Row], partition: Partition, *, n: int, seed: int) -> tuple[Group, ...]:
    """Pool the errors of each group of a partition of these rows, in its order."""
    return tuple(
        group_of(name, [rows[number] for number in numbers], n=n, seed=seed) for name, numbers in partition.groups
    )


def by_speaker(rows: Sequence[Row], *, n: int, seed: int) -> tuple[Group, ...]:
    """Group by speaker, highest WER first; rows without a speaker become one group, ``(unknown)``."""
    groups = by_partition(rows, speaker_partition(rows), n=n, seed=seed)
    return tuple(sorted(groups, key=lambda group: -1.0 if group.wer is None else group.wer, reverse=True))


def speaker_interval(rows: Sequence[Row], speakers: int, *, n: int, seed: int) -> Interval | None:
    """Interval of the WER with whole speakers drawn, over rows of known speakers; None with fewer than five of them."""
    if speakers < _SPEAKERS_FOR_INTERVAL:
        return None
    known = [row for row in rows if row["speaker"] is not None]
    return bootstrap_wer(counts(known), n=n, seed=seed, block=[row["speaker"] for row in known])
