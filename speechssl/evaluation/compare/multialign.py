"""Hypotheses of several systems in columns: aligned with the reference, and with each other.

In: the word alignment of each system with one reference. Out: columns that hold the reference word (or nothing, where a
system inserted one) and the word of every system. Equal words that two systems insert at the same place share a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechssl.evaluation.wer.edit_distance import AlignedPair

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

    Every reference word is one column. The word of each system is from its own alignment, so the errors of each row are
    those it was scored with. Insertions between two reference words are aligned with those of the systems before, so
    that as many equal words as possible share a column.

    Raises ValueError when the alignments have different reference words.
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
        faces = [{word for word in column if word is not None} for column in columns]
        merged: list[tuple[str | None, ...]] = []
        done, used = 0, 0
        for column, word in [*_shared(faces, own), (len(faces), len(own))]:
            apart = max(column - done, word - used)  # between two shared words, the other words share one column
            for k in range(apart):
                before = columns[done + k] if done + k < column else (None,) * number
                merged.append((*before, own[used + k] if used + k < word else None))
            if column < len(faces):
                merged.append((*columns[column], own[word]))
            done, used = column + 1, word + 1
        columns = merged
    return [Column(None, column) for column in columns]


def _shared(faces: Sequence[set[str]], own: Sequence[str]) -> list[tuple[int, int]]:
    """Return (column, word) of a longest common subsequence of columns and words."""
    longest = [[0] * (len(own) + 1) for _ in range(len(faces) + 1)]
    for i in range(len(faces) - 1, -1, -1):
        for j in range(len(own) - 1, -1, -1):
            skip = max(longest[i + 1][j], longest[i][j + 1])
            longest[i][j] = max(skip, longest[i + 1][j + 1] + 1) if own[j] in faces[i] else skip
    found, i, j = [], 0, 0
    while i < len(faces) and j < len(own):
        if own[j] in faces[i] and longest[i][j] == longest[i + 1][j + 1] + 1:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return found
