"""Targets of frame probes: phones of an alignment, pitch, energy.

In: a task, the utterances of each split, how to read them. Out: a class or a number for each frame.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.config import ProbeConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.targets.audio import Recordings
from speechssl.understanding.alignment import frame_labels, read_alignment
from speechssl.understanding.examples import Examples
from speechssl.understanding.extractors import Extractor
from speechssl.understanding.prosody import energy, pitch
from speechssl.understanding.tasks import NUMBERS, Task

__all__ = ["frame_targets"]

NONE = -100
"""Target of a frame without a label."""


def frame_targets(
    task: Task, splits: Sequence[Examples], recordings: Recordings, extractor: Extractor, cfg: ProbeConfig
) -> tuple[list[list[Tensor]], tuple[str, ...]]:
    """Return the targets of train, dev and test, and the classes (none for numbers).

    Numbers are standardised by the training set. Raises ConfigError without an alignment for ``phones``, and DataError
    when it fits no utterance of a split.
    """
    grid = {"hop": extractor.hop, "receptive": extractor.receptive}
    if task.name in NUMBERS:
        measure = pitch if task.name == "pitch" else energy
        places = {item: row for row, item in enumerate(recordings.ids)}
        found = [
            [
                measure(recordings.read(places[item]), x.shape[1], **grid)
                for item, x in zip(part.ids, part.features, strict=True)
            ]
            for part in splits
        ]
        known = np.concatenate(found[0])
        if np.isnan(known).all() or not (spread := float(np.nanstd(known))):
            raise DataError(f"task {task.name!r}: the training utterances have no {task.name} that varies")
        mean = float(np.nanmean(known))
        return [[torch.from_numpy((one - mean) / spread).float() for one in part] for part in found], ()
    if not cfg.alignment:
        raise ConfigError(
            "the task phones needs their times: --alignment FILE (CTM or .item) or a folder of TextGrid files"
        )
    alignment = read_alignment(Path(cfg.alignment))
    labels = [
        [
            frame_labels(alignment.get(item, ()), x.shape[1], **grid)
            for item, x in zip(part.ids, part.features, strict=True)
        ]
        for part in splits
    ]
    for split, part in zip(("train", "dev", "test"), labels, strict=True):
        if not any(label for one in part for label in one):
            raise DataError(f"{cfg.alignment}: has no utterance of {split}; its ids are like {min(alignment)!r}")
    classes = tuple(sorted({label for one in labels[0] for label in one if label}))
    # A phone of dev or test that train has not is an error: it equals no class.
    numbers = {label: place for place, label in enumerate(classes)}
    unseen = len(classes)

    def target(one: Sequence[str | None]) -> Tensor:
        return torch.tensor([NONE if label is None else numbers.get(label, unseen) for label in one])

    return [[target(one) for one in part] for part in labels], classes
