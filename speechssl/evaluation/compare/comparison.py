"""Systems compared on the same utterances: which is better, by how much, how sure, and where.

In: scored rows of two or more systems. Out: a `Comparison`: scores, a `Pair` for every two systems (paired bootstrap,
MAPSSWE with Holm's correction over all pairs), errors by group, and the utterances and words that changed most.
Differences are always ``b - a`` in word error rate, so negative means that b is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from speechssl.evaluation.bootstrap import PairedBootstrap, paired_bootstrap
from speechssl.evaluation.compare.changes import Change, WordChange, changed_utterances, changed_words
from speechssl.evaluation.compare.matching import Matched, match
from speechssl.evaluation.compare.pairs import Pair, pairs_of
from speechssl.evaluation.wer.breakdown import counts
from speechssl.evaluation.wer.hypotheses import Row
from speechssl.evaluation.wer.partition import partitions
from speechssl.evaluation.wer.report import WerReport
from speechssl.evaluation.wer.summary import report_of

__all__ = ["Comparison", "GroupDifference", "GroupTable", "SystemScore", "compare"]


@dataclass(frozen=True)
class SystemScore:
    """One system on the compared utterances."""

    name: str
    score: WerReport
    rank: int
    """1 for the lowest error rate; equal rates share a rank."""


@dataclass(frozen=True)
class GroupDifference:
    """One group of utterances: a rate for each system, and each system against the baseline."""

    name: str
    utterances: int
    N: int
    wer: dict[str, float | None]
    against_baseline: dict[str, PairedBootstrap | None]
    """By system other than the baseline; no correction for the number of groups."""


@dataclass(frozen=True)
class GroupTable:
    """One division of the utterances."""

    name: str
    title: str
    groups: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison."""

    baseline: str
    systems: tuple[SystemScore, ...]
    """The baseline, then the others in the order given."""
    pairs: tuple[Pair, ...]
    """Every two systems, in that order."""
    groups: tuple[GroupTable, ...]
    fields_left_out: dict[str, str]
    changed: dict[str, tuple[Change, ...]]
    """By system other than the baseline: the utterances whose errors changed most, those that gained first."""
    changed_words: dict[str, tuple[WordChange, ...]]
    oracle: float | None
    """Error rate if the best hypothesis of each utterance were chosen: the limit of any choice between the systems."""
    utterances: int
    N: int
    left_out: dict[str, int]
    """Utterances of each system that were not compared; all 0 unless ``common`` was set."""
    other_references: tuple[str, ...]
    """Utterances left out because the systems were scored against different references."""
    resamples: int
    seed: int

    @property
    def whole(self) -> bool:
        """Whether every utterance of every system was compared."""
        return not any(self.left_out.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def compare(
    systems: Mapping[str, Sequence[Row]],
    *,
    baseline: str | None = None,
    common: bool = False,
    n: int = 2_000,
    seed: int = 1,
    shown: int = 10,
) -> Comparison:
    """Compare two or more systems.

    Parameters
    ----------
    systems
        Scored rows (of `read_hypotheses`) by name.
    baseline
        The system that groups and changes are compared with; the first when absent.
    common
        Compare the utterances that all systems share, instead of refusing different sets.
    n, seed
        Resamples and seed of every bootstrap.
    shown
        Utterances listed as better, and as worse, for each system.

    Raises
    ------
    DataError
        The systems cannot be compared (see `match`).
    ValueError
        Fewer than two systems, or no system has the baseline's name.
    """
    names = list(systems)
    if len(names) < 2:
        raise ValueError(f"a comparison needs two systems, not {len(names)}")
    first = names[0] if baseline is None else baseline
    if first not in systems:
        raise ValueError(f"no system is called {first!r}; the systems are {', '.join(names)}")
    others = [name for name in names if name != first]
    matched = match({name: systems[name] for name in (first, *others)}, common=common)
    scores = {name: report_of(rows, n=n, seed=seed) for name, rows in matched.rows.items()}
    order = sorted(score.wer for score in scores.values() if score.wer is not None)
    parts, left_out = partitions(matched.meta)
    by_system = [[errors for errors, _ in counts(rows)] for rows in matched.rows.values()]
    best = sum(min(errors) for errors in zip(*by_system, strict=True))
    N = sum(row["N"] for row in matched.meta)
    tables = []
    for part in parts:
        groups = [_group(name, numbers, matched, first, n=n, seed=seed) for name, numbers in part.groups]
        tables.append(GroupTable(part.name, part.title, tuple(groups)))
    return Comparison(
        baseline=first,
        systems=tuple(
            SystemScore(name, score, 1 if score.wer is None else 1 + order.index(score.wer))
            for name, score in scores.items()
        ),
        pairs=pairs_of(matched, n=n, seed=seed),
        groups=tuple(tables),
        fields_left_out=left_out,
        changed={name: changed_utterances(matched, first, name, shown=shown) for name in others},
        changed_words={name: changed_words(matched.rows[first], matched.rows[name]) for name in others},
        oracle=best / N if N else None,
        utterances=len(matched.meta),
        N=N,
        left_out=matched.left_out,
        other_references=matched.other_references,
        resamples=n,
        seed=seed,
    )


def _group(name: str, numbers: Sequence[int], matched: Matched, baseline: str, *, n: int, seed: int) -> GroupDifference:
    tables = {system: counts([rows[k] for k in numbers]) for system, rows in matched.rows.items()}
    N = sum(words for _, words in tables[baseline])
    return GroupDifference(
        name=name,
        utterances=len(numbers),
        N=N,
        wer={system: sum(errors for errors, _ in table) / N if N else None for system, table in tables.items()},
        against_baseline={
            system: paired_bootstrap(tables[baseline], table, n=n, seed=seed)
            for system, table in tables.items()
            if system != baseline
        },
    )
