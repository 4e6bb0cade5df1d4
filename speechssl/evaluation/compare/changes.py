"""Where one system differs from another: the utterances and the reference words whose errors changed most.

In: `Matched` rows. Out: short lists, greatest change first, with all systems aligned against the reference and against
each other.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from speechssl.evaluation.compare.matching import Matched
from speechssl.evaluation.compare.multialign import Column, align_systems
from speechssl.evaluation.wer.edit_distance import align_words
from speechssl.evaluation.wer.hypotheses import Row

__all__ = ["Change", "WordChange", "changed_utterances", "changed_words"]

_WORDS = 12


@dataclass(frozen=True)
class Change:
    """One utterance whose number of errors changed."""

    id: str
    speaker: str | None
    duration: float | None
    """Seconds."""
    N: int
    errors: dict[str, int]
    """By system."""
    change: int
    """Errors of the system minus errors of the baseline; negative is a gain."""
    words_apart: int
    """Word edits between the two hypotheses, without regard to the reference."""
    columns: tuple[Column, ...]
    """Words of every system, in the order of the systems."""


@dataclass(frozen=True)
class WordChange:
    """One reference word that the systems do not recognise equally often."""

    word: str
    occurrences: int
    errors_baseline: int
    errors: int


def changed_utterances(matched: Matched, baseline: str, name: str, *, shown: int) -> tuple[Change, ...]:
    """Return at most ``shown`` utterances with the largest gains against the baseline, then as many with losses.

    Equal changes are in the order of fewer reference words, then of ids.
    """
    before, after = matched.rows[baseline], matched.rows[name]
    changes = [(_errors(b) - _errors(a), a["N"], k) for k, (a, b) in enumerate(zip(before, after, strict=True))]
    gained = sorted(change for change in changes if change[0] < 0)[:shown]
    lost = sorted((change for change in changes if change[0] > 0), key=lambda c: (-c[0], *c[1:]))[:shown]
    return tuple(_change(matched, baseline, name, number, change) for change, _, number in (*gained, *lost))


def changed_words(before: Sequence[Row], after: Sequence[Row]) -> tuple[WordChange, ...]:
    """Return the reference words whose errors fell most, at most 12, then those whose errors rose most, at most 12."""
    there, old, new = Counter[str](), Counter[str](), Counter[str]()
    for rows, wrong in ((before, old), (after, new)):
        for row in rows:
            wrong.update(ref for op, ref, _ in row["alignment"] if ref is not None and op != "C")
    there.update(word for row in before for word in row["ref"].split())
    found = [WordChange(word, there[word], old[word], new[word]) for word in there if old[word] != new[word]]
    found.sort(key=lambda item: (-abs(item.errors - item.errors_baseline), item.word))
    fell = [item for item in found if item.errors < item.errors_baseline]
    rose = [item for item in found if item.errors > item.errors_baseline]
    return (*fell[:_WORDS], *rose[:_WORDS])


def _change(matched: Matched, baseline: str, name: str, number: int, change: int) -> Change:
    meta = matched.meta[number]
    rows = {system: table[number] for system, table in matched.rows.items()}
    apart = align_words(rows[baseline]["hyp"], rows[name]["hyp"])
    columns = align_systems([[tuple(pair) for pair in row["alignment"]] for row in rows.values()])
    return Change(
        id=meta["id"],
        speaker=meta["speaker"],
        duration=meta["duration"],
        N=meta["N"],
        errors={system: _errors(row) for system, row in rows.items()},
        change=change,
        words_apart=sum(op != "C" for op, _, _ in apart),
        columns=tuple(columns),
    )


def _errors(row: Row) -> int:
    return int(row["S"] + row["D"] + row["I"])
