"""Hypotheses of several systems in columns: aligned with the reference, and with each other.

In: the word alignment of each system with one reference. Out: columns that hold the reference word (or nothing, where a
system inserted one) and the word of every system. Equal words that two systems insert at the same place share a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechssl.evaluation.alignment import AlignedPair, align_words

__all__ = ["Column", "align_systems"]


@dataclass(frozen=True)
class Column:
    """One place in the reference, or between two of its words."""

    ref: str | None
    """Reference word; None where there is an insertion."""
    words: tuple[str | None, ...]
    """The word of each system; None where it has none."""

    @property
    def agreed(self) -> bool:
        """Whether all systems have the same word here, right or wrong."""
        return len(set(self.words)) == 1


def align_systems(alignments: Sequence[Sequence[AlignedPair]]) -> list[Column]:
    """Merge the alignments of several systems with the same reference into columns.

    Every reference word is one column; its word of each system is that of the system's own alignment, so the errors of
    each row are those it was scored with. Insertions between two reference words are aligned with those of the systems
    before, by minimum edit distance.

    Raises
    ------
    ValueError
        The alignments have different reference words.
    """
    split = [_slots(pairs) for pairs in alignments]
    references = [[word for word, _ in slots] for _, slots in split]
    if any(words != references[0] for words in references):
        raise ValueError("the alignments have different reference words")
    columns: list[Column] = []
    for place in range(len(references[0]) + 1):
        columns += _inserted([inserted[place] for inserted, _ in split])
        if place < len(references[0]):
            columns.append(Column(references[0][place], tuple(slots[place][1] for _, slots in split)))
    return columns


def _slots(pairs: Sequence[AlignedPair]) -> tuple[list[list[str]], list[tuple[str | None, str | None]]]:
    """Return the insertions before each reference word (and after the last), and (reference, hypothesis) words."""
    inserted: list[list[str]] = [[]]
    slots: list[tuple[str | None, str | None]] = []
    for op, ref, hyp in pairs:
        if op == "I":
            inserted[-1].append(str(hyp))
        else:
            slots.append((ref, hyp))
            inserted.append([])
    return inserted, slots


def _inserted(words: Sequence[Sequence[str]]) -> list[Column]:
    """Align the words that each system inserts at one place."""
    columns: list[tuple[str | None, ...]] = []
    for number, own in enumerate(words):
        if not columns:
            columns = [(*[None] * number, word) for word in own]
            continue
        # A column's first word stands for it; its place in the alignment comes back by counting.
        faces = [next(word for word in column if word is not None) for column in columns]
        merged, at = [], 0
        for op, _, hyp in align_words(" ".join(faces), " ".join(own)):
            before = (None,) * number if op == "I" else columns[at]
            at += op != "I"
            merged.append((*before, hyp))
        columns = merged
    return [Column(None, column) for column in columns]
