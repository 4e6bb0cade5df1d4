"""Divides utterances into train, dev and test, so that no speaker is in two of them.

In: for each utterance split and speaker as far as the source gives them, and whether it is labelled. Out: a split for
each, and the rule in one sentence. Everything is decided by hashes of names, so the same corpus always gives the same
splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from speechssl.core.randomness import key

__all__ = ["Candidate", "assign_splits"]

_CAUTION = {"test": 0, "dev": 1, "train": 3}
"""A speaker or recording that the source has in several splits belongs to the first of these; other names between."""


@dataclass(frozen=True)
class Candidate:
    """The properties of an utterance that decide its split."""

    id: str
    duration: float
    labelled: bool
    speaker: str | None
    split: str | None
    """The split given by the source, which is kept."""
    group: str = ""
    """Copies of one recording share it."""

    @property
    def unit(self) -> str:
        """The unit that is not divided: the speaker, else the recording."""
        return f"speaker {self.speaker}" if self.speaker else self.piece

    @property
    def piece(self) -> str:
        """The recording, regardless of speaker."""
        return f"recording {self.group or self.id}"


def assign_splits(items: Sequence[Candidate], *, dev_fraction: float, test_fraction: float) -> tuple[list[str], str]:
    """Return the split of each utterance and the rule that was used.

    1. A given split is kept, and holds for other utterances of the same speaker that have none.
    2. Labelled speech without a split is divided by whole speakers (whole recordings where the speaker is unknown), in
       the order of their hashes, until test and dev have their fractions of all labelled audio.
    3. When the source has no dev or no test and no unassigned speech is left, it is taken out of the given train.
    4. With too few speakers for all three, utterances are divided instead: not speaker-disjoint, and the rule says so.
    5. Unlabelled speech follows its speaker, so that none of a dev or test speaker is trained on; else it is train.
    """
    homes = _homes(items)
    splits = [item.split or homes.get(item.unit) or homes.get(item.piece) for item in items]
    free = [i for i, item in enumerate(items) if item.labelled and splits[i] is None]
    given = sum(item.labelled and item.split is not None for item in items)
    clauses = [f"given by the source for {given} labelled utterances"] if given else []

    held = {"test": 0.0, "dev": 0.0, "train": 0.0}
    total = 0.0
    for item, split in zip(items, splits, strict=True):
        if item.labelled:
            total += item.duration
            if split in held:
                held[split] += item.duration
    wanted = {"test": test_fraction * total, "dev": dev_fraction * total}
    missing = [name for name in ("test", "dev") if wanted[name] > 0 and not held[name]]
    pool, divide, carved = _pool(items, splits, free, len(missing), has_train=held["train"] > 0)
    if carved:
        clauses.append(f"{' and '.join(missing)} taken out of the given train")
    units: dict[str, list[int]] = defaultdict(list)
    for i in pool:
        units[items[i].piece if divide else items[i].unit].append(i)
    lengths = {unit: sum(items[i].duration for i in rows) for unit, rows in units.items()}
    chosen = _choose(lengths, wanted, held, missing, keep_train=carved or not held["train"])
    for unit, rows in units.items():
        for i in rows:
            splits[i] = chosen.get(unit, "train")
    if pool:
        clauses.append(_describe(items, pool, divide=divide))

    if not divide:
        homes |= chosen
        for i, item in enumerate(items):  # unlabelled audio of speakers taken out of train follows them
            if carved and not item.labelled and splits[i] == "train":
                splits[i] = chosen.get(item.unit, "train")
    homes |= {items[i].piece: splits[i] or "train" for i in pool}
    final = [
        split or homes.get(item.piece) or homes.get(item.unit) or "train"
        for item, split in zip(items, splits, strict=True)
    ]
    if any(not item.labelled and item.split is None for item in items):
        clauses.append("unlabelled audio follows its speaker, else it is train")
    return final, "; ".join(clauses) or "nothing to divide"


def _homes(items: Iterable[Candidate]) -> dict[str, str]:
    """Return the source's split of each speaker and each recording; of several the first in the order above."""
    homes: dict[str, str] = {}
    for item in items:
        for unit in (item.unit, item.piece):
            if item.split and _CAUTION.get(item.split, 2) <= _CAUTION.get(homes.get(unit, "train"), 2):
                homes[unit] = item.split
    return homes


def _pool(
    items: Sequence[Candidate], splits: Sequence[str | None], free: list[int], missing: int, *, has_train: bool
) -> tuple[list[int], bool, bool]:
    """Return the units to divide, whether speakers are divided, and whether the units are from the given train."""
    needed = missing + (0 if has_train else 1)
    if not missing or len({items[i].unit for i in free}) >= needed:
        return free, False, False
    carved = [i for i, item in enumerate(items) if item.labelled and splits[i] == "train"]
    pool = free + carved
    divide = len({items[i].unit for i in pool}) < missing + 1
    return pool, divide and bool(pool), bool(carved)


def _choose(
    lengths: dict[str, float], wanted: dict[str, float], held: dict[str, float], missing: list[str], *, keep_train: bool
) -> dict[str, str]:
    """Take units for test, then for dev, in the order of their hashes; leave enough units for what comes after."""
    left = sorted(lengths, key=lambda unit: (key("split", unit), unit))
    chosen: dict[str, str] = {}
    for place, name in enumerate(("test", "dev")):
        reserve = int(keep_train) + int(place == 0 and "dev" in missing)
        target, have = wanted[name] - held[name], 0.0
        if target <= 0:
            continue
        for unit in list(left):
            if len(left) > reserve and have < target and have + lengths[unit] <= 1.25 * target:
                chosen[unit] = name
                have += lengths[unit]
                left.remove(unit)
        spare = len(left) > reserve or (len(left) > int(keep_train) and name == "test")
        if not have and name in missing and spare:  # every unit is larger than the share: the nearest to it
            unit = min(left, key=lambda u: (abs(lengths[u] - target), key("split", u), u))
            chosen[unit] = name
            left.remove(unit)
    return chosen


def _describe(items: Sequence[Candidate], pool: Sequence[int], *, divide: bool) -> str:
    speakers = {items[i].speaker for i in pool if items[i].speaker}
    unknown = sum(items[i].speaker is None for i in pool)
    if divide and speakers:
        return f"by hash of the utterance, NOT speaker-disjoint: only {len(speakers)} speakers"
    parts = [f"by hash of the speaker ({len(speakers)} speakers, none in two splits)"] if speakers else []
    if unknown:
        parts.append(f"by hash of the utterance for {unknown} without a known speaker")
    return "; ".join(parts)
