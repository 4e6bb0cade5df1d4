"""The items of an ABX test: phones of utterances, and the frames that belong to them.

In: an alignment or an ABX item file, the features of the utterances. Out: items, and a layer's frames of all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.config.understanding.abx import AbxConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.ingest.manifest import Utterance
from speechssl.targets.audio import Recordings
from speechssl.understanding.alignment import Item, make_items, read_alignment, read_items
from speechssl.understanding.features import Features

__all__ = ["PlacedItems", "check_times", "frames_of", "layer_frames", "load_items", "place_items"]

ROUNDING = 0.02
"""Seconds by which an item may end after its recording: aligners round to frames."""


def load_items(cfg: AbxConfig, utterances: Mapping[str, Utterance]) -> tuple[list[Item], int]:
    """Return the items of these utterances, and how many other utterances the alignment has.

    Raises
    ------
    ConfigError
        No alignment was given.
    DataError
        It cannot be read, none of it belongs to the utterances, or an utterance has no speaker.
    """
    if not cfg.alignment:
        raise ConfigError("abx needs --alignment FILE: times of phones, as a CTM or ABX item file, or TextGrid files")
    path = Path(cfg.alignment)
    if path.suffix == ".item":
        found = read_items(path)
        names = {item.file for item in found}
        items = [item for item in found if item.file in utterances]
    else:
        alignment = read_alignment(path)
        names = set(alignment)
        speakers = {name: entry.speaker for name, entry in utterances.items()}
        items = make_items(
            alignment, speakers, triphones=cfg.span == "triphone", alone=cfg.context == "any",
            silences=[label.lower() for label in cfg.silences],
        )  # fmt: skip
    if names and names.isdisjoint(utterances):
        raise DataError(
            f"{path}: none of its utterances is in the data; its ids are like {min(names)!r}, "
            f"those of the data like {min(utterances)!r}"
        )
    return items, len(names - utterances.keys())


@dataclass(frozen=True)
class PlacedItems:
    """Items that have frames, and where these lie in the frames of all utterances, one after the other."""

    items: list[Item]
    starts: np.ndarray
    """[N] first frame of each item."""
    lengths: np.ndarray
    """[N] frames, at least 1."""
    utterances: list[str]
    left_out: dict[str, int]
    """Reason -> items without frames."""


def frames_of(start: float, end: float, *, hop: int, receptive: int) -> tuple[int, int]:
    """Return the first frame, and the one after the last, whose centre lies in ``start`` to ``end`` s, both included.

    The centre of frame f is the sample ``f hop + receptive / 2``. ZeroSpeech and fastabx take ``hop / 2`` instead.
    """
    first, last = ((time * SAMPLE_RATE - receptive / 2) / hop for time in (start, end))
    return max(0, math.ceil(round(first, 6))), math.floor(round(last, 6)) + 1


def check_times(items: Sequence[Item], recordings: Recordings, source: str) -> None:
    """Raise DataError when an item ends after its recording, or before its start."""
    seconds = dict(zip(recordings.ids, (recordings.samples / SAMPLE_RATE).tolist(), strict=True))
    for item in items:
        if not 0 <= item.start <= item.end <= seconds[item.file] + ROUNDING:
            raise DataError(
                f"{source}: {item.label} of {item.file} lies at {item.start:.3f} to {item.end:.3f} s; the recording "
                f"lasts {seconds[item.file]:.3f} s; times must be seconds of the utterance"
            )


def place_items(items: Sequence[Item], features: Features) -> PlacedItems:
    """Find the frames of the items."""
    hop, receptive = features.hop, int(features.info["receptive"])
    left_out = {"utterance without frames": 0, "shorter than a frame": 0}
    offsets: dict[str, int] = {}
    counts: dict[str, int] = {}
    total = 0
    kept, starts, lengths = [], [], []
    for item in items:
        if item.file not in features:
            left_out["utterance without frames"] += 1
            continue
        if item.file not in offsets:
            offsets[item.file], counts[item.file] = total, len(features.layer(item.file, 0))
            total += counts[item.file]
        first, end = frames_of(item.start, item.end, hop=hop, receptive=receptive)
        if (length := min(end, counts[item.file]) - first) < 1:
            left_out["shorter than a frame"] += 1
            continue
        kept.append(item)
        starts.append(offsets[item.file] + first)
        lengths.append(length)
    return PlacedItems(
        kept, np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64), list(offsets), left_out
    )


def layer_frames(placed: PlacedItems, features: Features, place: int) -> Tensor:
    """Return the frames [F, dim] of a layer of all utterances that have items."""
    return torch.cat([features.layer(name, place).float() for name in placed.utterances])
