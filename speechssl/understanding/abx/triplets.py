"""Triplets A, B, X of an ABX test, in cells of equal phones, speakers and context; and the error of each cell.

In: items. Out: blocks of cells that share X; from the distances of items the errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from speechssl.core.randomness import generator
from speechssl.evaluation.bootstrap import Interval, bootstrap_ratio
from speechssl.understanding.alignment import Item

__all__ = ["Block", "Cells", "Mode", "Score", "block_errors", "make_blocks"]

Mode = Literal["within", "across"]
Context = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """The cells of one phone in one context, for one speaker of A and B and one of X: a cell for each other phone B."""

    mode: Mode
    phone: int
    """Place in ``phones``: the phone of A and X."""
    speaker: str
    """Of A and B."""
    x: np.ndarray
    """[x] items; with ``within``, those of A."""
    targets: np.ndarray
    """[A and B] items of the speaker in the context, by phone."""
    phones: tuple[str, ...]
    first: np.ndarray
    """[phones] place in ``targets`` of each phone's first item."""

    @property
    def own(self) -> slice:
        """Where in ``targets`` A lies."""
        return slice(*np.append(self.first, len(self.targets))[self.phone : self.phone + 2])

    @property
    def x_and_a(self) -> int:
        """Number of pairs X, A."""
        a = self.own.stop - self.own.start
        return int(len(self.x) * (a - (self.mode == "within")))

    @property
    def triplets(self) -> int:
        """Number of triplets, of all cells."""
        return int(self.x_and_a * (len(self.targets) - self.own.stop + self.own.start))


def make_blocks(
    items: Sequence[Item], mode: Mode, *, any_context: bool, max_items: int, max_speakers: int, seed: int
) -> list[Block]:
    """Return all cells of a test: A and X are one phone, B is another, A and B of one speaker, all in one context.

    ``max_items`` and ``max_speakers`` bound the items of a phone, context and speaker, and the speakers of X for each
    A; which ones are drawn depends on ``seed`` and on what they are, not on their order.
    """
    groups: dict[tuple[Context, str], dict[str, list[int]]] = {}
    for number in sorted(range(len(items)), key=lambda number: items[number]):
        item = items[number]
        context: Context = () if any_context else (item.before, item.after)
        groups.setdefault((context, item.speaker), {}).setdefault(item.label, []).append(number)
    speakers_of: dict[tuple[Context, str], list[str]] = {}
    for (context, speaker), phones in groups.items():
        for phone in phones:
            phones[phone] = _drawn(phones[phone], max_items, "abx-items", seed, *context, speaker, phone)
            speakers_of.setdefault((context, phone), []).append(speaker)
    blocks = []
    for (context, speaker), members in groups.items():
        names = tuple(sorted(members))
        if len(names) < 2:
            continue
        sizes = [len(members[phone]) for phone in names]
        targets, first = np.concatenate([members[phone] for phone in names]), np.cumsum([0, *sizes[:-1]])
        for place, phone in enumerate(names):
            if mode == "within":
                others = [speaker] if sizes[place] > 1 else []
            else:
                others = sorted(other for other in speakers_of[context, phone] if other != speaker)
                others = _drawn(others, max_speakers, "abx-speakers", seed, *context, speaker, phone)
            blocks += [
                Block(mode, place, speaker, np.array(groups[context, other][phone]), targets, names, first)
                for other in others
            ]
    return blocks


def _drawn(found: list[T], most: int, *parts: str | int) -> list[T]:
    if len(found) <= most:
        return found
    return [found[place] for place in sorted(generator(*parts).choice(len(found), most, replace=False).tolist())]


def block_errors(distances: np.ndarray, block: Block) -> np.ndarray:
    """Return the error of each cell of a block: share of triplets in which X is nearer to B, a tie being one half.

    ``distances`` [x, targets] are those of X to A and B. X itself is never A.
    """
    own = distances[:, block.own, None]
    if block.mode == "within":
        own = np.where(np.eye(len(own), dtype=bool)[:, :, None], -np.inf, own)
    other = distances[:, None, :]
    wrong = (own > other).sum(axis=(0, 1)) + 0.5 * (own == other).sum(axis=(0, 1))
    errors = np.add.reduceat(wrong, block.first) / (np.diff(block.first, append=len(block.targets)) * block.x_and_a)
    return np.delete(errors, block.phone)


@dataclass(frozen=True)
class Score:
    """ABX error of a layer."""

    error: float
    interval: Interval | None
    """95 %, over the speakers of A and B; None for one speaker."""


class Cells:
    """The cells of blocks, and how they are averaged.

    As ZeroSpeech 2021 and Libri-light (Kahn et al. 2020) do it: first over contexts and speakers of X, then over
    speakers of A and B, then over ordered pairs of phones. In any context the first two means are one.
    """

    def __init__(self, blocks: Sequence[Block], *, any_context: bool) -> None:
        self.blocks = blocks
        self.pairs = np.concatenate([_pairs(block) for block in blocks])
        """[P, 2] items whose distances are needed, by block."""
        phones = [(b.phones[b.phone], other) for b in blocks for other in b.phones if other != b.phones[b.phone]]
        speakers, speaker = np.unique([block.speaker for block in blocks], return_inverse=True)
        places = {pair: place for place, pair in enumerate(sorted(set(phones)))}
        slots = np.array([places[pair] for pair in phones]) * len(speakers)
        slots += np.repeat(speaker, [len(block.phones) - 1 for block in blocks])
        found, slot = np.unique(slots, return_inverse=True)  # pairs of phones for one speaker of A and B
        cells = np.bincount(slot)
        weight = cells.astype(float) if any_context else np.ones(len(found))
        share = weight / np.bincount(found // len(speakers), weight)[found // len(speakers)] / len(places)
        self._weight = (share / cells)[slot]
        """[cells] in the average; they sum to 1."""
        self._speaker = (found % len(speakers))[slot]
        self.counts = {
            "cells": len(slot),
            "triplets": sum(block.triplets for block in blocks),
            "phone_pairs": len(places),
            "speakers": len(speakers),
        }

    def score(self, distances: np.ndarray, *, resamples: int, seed: int) -> Score:
        """Return the average error for the distances [P] of ``pairs``.

        The interval draws speakers of A and B; a speaker's weight within a pair of phones is that of the whole set.
        """
        errors, place = [], 0
        for block in self.blocks:
            size = len(block.x) * len(block.targets)
            errors.append(block_errors(distances[place : place + size].reshape(len(block.x), -1), block))
            place += size
        share = np.bincount(self._speaker, self._weight * np.concatenate(errors))
        table = np.stack([share, np.bincount(self._speaker, self._weight)], axis=1)
        interval = bootstrap_ratio(table, n=resamples, seed=seed)
        return Score(float(share.sum()), None if interval is None else (interval[0], min(1.0, interval[1])))


def _pairs(block: Block) -> np.ndarray:
    x, target = np.broadcast_arrays(block.x[:, None], block.targets)
    return np.stack([x.ravel(), target.ravel()], axis=1)
