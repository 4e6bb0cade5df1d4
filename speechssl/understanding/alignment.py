"""When labels such as phones are spoken: read from files of aligners, placed on the frames of a model.

In: a CTM file, an ABX item file, or a folder of TextGrid files (tier ``phones`` or ``words``). Out: intervals by
utterance id; a label for each frame.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from speechssl.core.errors import DataError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.ingest.manifest import safe_id

__all__ = [
    "Interval",
    "Item",
    "alignment_of",
    "frame_labels",
    "item_lines",
    "make_items",
    "read_alignment",
    "read_items",
]

ITEM_HEADER = "#file onset offset #phone prev-phone next-phone speaker"
GAP = 0.02
"""Seconds between two intervals from which on they are no neighbours."""
SILENCE = "sil"
INTERVAL = re.compile(r'xmin = ([\d.eE+-]+)\s+xmax = ([\d.eE+-]+)\s+text = "((?:[^"]|"")*)"')


class Interval(NamedTuple):
    """A label and when it is spoken, in seconds of its utterance."""

    start: float
    end: float
    label: str


class Item(NamedTuple):
    """A phone of an ABX item file, with its neighbours and speaker; times are of the phone or of all three."""

    file: str
    start: float
    end: float
    label: str
    before: str
    after: str
    speaker: str


def read_alignment(path: Path, tier: Literal["phones", "words"] = "phones") -> dict[str, list[Interval]]:
    """Return the intervals of each utterance, by time; ``tier`` is that of TextGrid files.

    Raises DataError, with file and line, when it cannot be read.
    """
    found: dict[str, list[Interval]] = {}
    if path.is_dir():
        named = re.compile(rf'name = "{tier}?"(.*?)(?=item \[\d+\]|\Z)', re.DOTALL | re.IGNORECASE)
        for file in sorted(path.rglob("*.TextGrid")):
            found_tier = named.search(_text(file))
            if found_tier is None:
                raise DataError(
                    f"{file}: no tier of intervals with the name {tier}; export long TextGrid files with one"
                )
            intervals = [
                Interval(float(a), float(b), text.replace('""', '"')) for a, b, text in INTERVAL.findall(found_tier[1])
            ]
            found[safe_id(file.stem)] = [item for item in intervals if item.label]
    elif path.suffix == ".item":
        for item in read_items(path):
            found.setdefault(item.file, []).append(Interval(item.start, item.end, item.label))
    else:
        for number, line in enumerate(_text(path).splitlines(), 1):
            words = line.split()
            if not words or line.startswith(";;"):
                continue
            try:
                start, length = float(words[2]), float(words[3])
                found.setdefault(safe_id(words[0]), []).append(Interval(start, start + length, words[4]))
            except (IndexError, ValueError) as error:
                raise DataError(
                    f"{path}, line {number}: expected a CTM line, id channel start duration label"
                ) from error
    if not found:
        raise DataError(f"{path}: no alignment in it; give a CTM or .item file, or a folder of TextGrid files")
    return {name: sorted(intervals) for name, intervals in found.items()}


def alignment_of(
    ids: Collection[str], path: str, place: str, tier: Literal["phones", "words"] = "phones"
) -> dict[str, list[Interval]]:
    """Return an alignment of the data at ``place``; DataError when it has none of their utterances."""
    found = read_alignment(Path(path), tier)
    if not found.keys() & set(ids):
        raise DataError(
            f"{path}: none of its utterances is in {place}; its ids are like {min(found)!r}, "
            f"those of the data like {min(ids)!r}"
        )
    return found


def read_items(path: Path) -> list[Item]:
    """Return the lines of an ABX item file (ZeroSpeech, fastabx); DataError with the line when one is wrong."""
    first, *lines = _text(path).splitlines() or [""]
    if first.split() != ITEM_HEADER.split():
        raise DataError(f"{path}, line 1: expected the header {ITEM_HEADER!r}")
    items = []
    for number, line in enumerate(lines, 2):
        try:
            file, start, end, label, before, after, speaker = line.split()
            items.append(Item(safe_id(file), float(start), float(end), label, before, after, speaker))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected the seven fields {ITEM_HEADER}") from error
    return items


def make_items(
    alignment: Mapping[str, Sequence[Interval]],
    speakers: Mapping[str, str | None],
    *,
    triphones: bool = False,
    alone: bool = False,
    silences: Collection[str] = (),
) -> list[Item]:
    """Return phones as items of ABX: those with a neighbour on both sides.

    Parameters
    ----------
    speakers
        By utterance; utterances that are not in it are left out.
    triphones
        Times from the start of the phone before to the end of the phone after, as in triphone files of ZeroSpeech.
    alone
        Phones without a neighbour, too; ``sil`` stands for it.
    silences
        Labels in lower case that are neither phones nor neighbours.

    Raises DataError when an utterance has no speaker.
    """
    items = []
    for name in [name for name in alignment if name in speakers]:
        if not (speaker := speakers[name]):
            raise DataError(f"{name} has no speaker: add the field to the manifest, or give an ABX item file")
        found = [each for each in alignment[name] if each.label.lower() not in silences]
        for before, own, after in zip([None, *found[:-1]], found, [*found[1:], None], strict=True):
            if before is not None and own.start - before.end > GAP:
                before = None
            if after is not None and after.start - own.end > GAP:
                after = None
            labels = (own.label, before.label if before else SILENCE, after.label if after else SILENCE, speaker)
            if before and after:
                start, end = (before.start, after.end) if triphones else (own.start, own.end)
                items.append(Item(name, start, end, *labels))
            elif alone:
                items.append(Item(name, own.start, own.end, *labels))
    return items


def item_lines(items: Iterable[Item]) -> str:
    """Return the text of an ABX item file (ZeroSpeech, fastabx)."""
    lines = [
        f"{item.file} {item.start:.4f} {item.end:.4f} " + " ".join("_".join(text.split()) for text in item[3:])
        for item in items
    ]
    return "\n".join([ITEM_HEADER, *lines]) + "\n"


def frame_labels(intervals: Sequence[Interval], frames: int, *, hop: int, receptive: int) -> list[str | None]:
    """Return the label at the centre of each frame; None where there is none.

    Frame f sees the samples ``f hop`` to ``f hop + receptive``; an interval holds its start, not its end.
    """
    centres = (np.arange(frames) * hop + receptive / 2) / SAMPLE_RATE
    starts = np.array([item.start for item in intervals])
    places = np.searchsorted(starts, centres, side="right") - 1
    return [
        intervals[place].label if place >= 0 and centre < intervals[place].end else None
        for place, centre in zip(places.tolist(), centres.tolist(), strict=True)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the alignment cannot be read: {error}") from error
