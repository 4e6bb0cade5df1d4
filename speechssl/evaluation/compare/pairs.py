"""Comparisons of every two systems: the difference, its certainty, and whether they err in the same places.

In: `Matched` rows. Out: a `Pair` for every two systems, with paired bootstrap (Bisani & Ney 2004), MAPSSWE (Gillick &
Cox 1989) and Holm's correction over all pairs. Differences are ``b - a``, so negative means that b is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from speechssl.evaluation.bootstrap import PairedBootstrap, paired_bootstrap
from speechssl.evaluation.compare.mapsswe import Mapsswe, holm, mapsswe
from speechssl.evaluation.compare.matching import Matched
from speechssl.evaluation.wer.breakdown import counts
from speechssl.evaluation.wer.hypotheses import Row

__all__ = ["LEVEL", "Pair", "pairs_of"]

LEVEL = 0.05
"""Two systems differ when the MAPSSWE p, corrected over all pairs, is below this."""
_SPEAKERS_FOR_INTERVAL = 5


@dataclass(frozen=True)
class Pair:
    """System b against system a."""

    a: str
    b: str
    bootstrap: PairedBootstrap | None
    """None with fewer than two utterances or no reference word."""
    speaker_low: float | None
    speaker_high: float | None
    """Interval of the difference with whole speakers drawn; None with fewer than five known speakers."""
    segments: int
    """Segments of the MAPSSWE test."""
    z: float
    """Of MAPSSWE: positive when a makes more errors."""
    p: float
    """Two-tailed p of MAPSSWE (as NIST ``sc_stats``)."""
    p_holm: float
    """The same, corrected over all pairs (Holm 1979)."""
    better: str | None
    """The better system where ``p_holm`` is below 0.05."""
    utterances_better: int
    """Utterances in which b makes fewer errors than a."""
    utterances_worse: int
    utterances_equal: int
    both_right: int
    """Reference words that both recognise."""
    only_a: int
    only_b: int
    neither: int


def pairs_of(matched: Matched, *, n: int, seed: int) -> tuple[Pair, ...]:
    """Compare every two systems, in the order given; ``n`` and ``seed`` are of the bootstrap."""
    named = list(combinations(matched.rows, 2))
    tests = [mapsswe(_alignments(matched.rows[a]), _alignments(matched.rows[b])) for a, b in named]
    corrected = holm([test.p for test in tests])
    return tuple(
        _pair(matched, a, b, test, p, n=n, seed=seed) for (a, b), test, p in zip(named, tests, corrected, strict=True)
    )


def _pair(matched: Matched, a: str, b: str, test: Mapsswe, p_holm: float, *, n: int, seed: int) -> Pair:
    rows_a, rows_b = matched.rows[a], matched.rows[b]
    left, right = counts(rows_a), counts(rows_b)
    changes = [errors_b - errors_a for (errors_a, _), (errors_b, _) in zip(left, right, strict=True)]
    over_speakers = _speakers(matched, left, right, n=n, seed=seed)
    words = [
        (first, second)
        for row_a, row_b in zip(rows_a, rows_b, strict=True)
        for first, second in zip(_right(row_a), _right(row_b), strict=True)
    ]
    return Pair(
        a=a,
        b=b,
        bootstrap=paired_bootstrap(left, right, n=n, seed=seed),
        speaker_low=over_speakers.low if over_speakers else None,
        speaker_high=over_speakers.high if over_speakers else None,
        segments=test.segments,
        z=test.z,
        p=test.p,
        p_holm=p_holm,
        better=None if p_holm >= LEVEL else a if test.mean < 0 else b,
        utterances_better=sum(change < 0 for change in changes),
        utterances_worse=sum(change > 0 for change in changes),
        utterances_equal=sum(change == 0 for change in changes),
        both_right=words.count((True, True)),
        only_a=words.count((True, False)),
        only_b=words.count((False, True)),
        neither=words.count((False, False)),
    )


def _alignments(rows: Sequence[Row]) -> list[list[tuple]]:
    return [[tuple(pair) for pair in row["alignment"]] for row in rows]


def _right(row: Row) -> list[bool]:
    """Return whether each reference word was recognised."""
    return [op == "C" for op, ref, _ in row["alignment"] if ref is not None]


def _speakers(
    matched: Matched, left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]], *, n: int, seed: int
) -> PairedBootstrap | None:
    """Draw whole speakers: the errors and words of each are pooled, and speakers stand in for utterances."""
    pooled: dict[str, list[int]] = {}
    for meta, (errors_a, words), (errors_b, _) in zip(matched.meta, left, right, strict=True):
        if meta["speaker"] is not None:
            sums = pooled.setdefault(meta["speaker"], [0, 0, 0])
            sums[0], sums[1], sums[2] = sums[0] + errors_a, sums[1] + errors_b, sums[2] + words
    if len(pooled) < _SPEAKERS_FOR_INTERVAL:
        return None
    a = [(errors, words) for errors, _, words in pooled.values()]
    b = [(errors, words) for _, errors, words in pooled.values()]
    return paired_bootstrap(a, b, n=n, seed=seed)
