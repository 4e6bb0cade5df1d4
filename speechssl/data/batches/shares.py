"""Batches of two kinds of labels in turn, so that the kind of which there is little makes a set share of the updates.

In: plans of one corpus. Out: ``micro(k)``, still a pure function of (seed, corpus, k).
"""

import math
from collections.abc import Collection
from typing import Literal, Protocol

import numpy as np

from speechssl.config import DataConfig
from speechssl.data.batches.plan import Plan, PlannedBatch
from speechssl.data.batches.selection import Selection
from speechssl.data.store.reader import Corpus

__all__ = ["Planned", "SharedPlan", "labelled_plan"]


class Planned(Protocol):
    """What a reader of batches needs of a plan."""

    kind: Literal["pretrain", "finetune", "evaluate"]

    def micro(self, k: int) -> PlannedBatch:
        """Return micro-batch ``k``."""


class SharedPlan:
    """Micro-batches of one plan and of another, mixed in a fixed proportion.

    Of the first k micro-batches, floor(k * share) are those of ``first``, in its order; the others those of ``second``.
    Each plan has epochs of its own.
    """

    kind: Literal["pretrain", "finetune", "evaluate"] = "finetune"

    def __init__(self, first: Plan, second: Plan, share: float) -> None:
        self.first, self.second, self.share = first, second, share

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of one pass over both."""
        return self.first.batches_per_epoch + self.second.batches_per_epoch

    def updates(self, epochs: float, batches_per_step: int) -> int:
        """Return the fewest updates, at least 1, with as many micro-batches as ``epochs`` passes over both have."""
        return max(1, math.ceil(epochs * self.batches_per_epoch / batches_per_step - 1e-9))

    def micro(self, k: int) -> PlannedBatch:
        """Return micro-batch ``k``, counted from 0."""
        before, after = int(k * self.share), int((k + 1) * self.share)
        return self.first.micro(before) if after > before else self.second.micro(k - before)


def labelled_plan(
    corpus: Corpus, cfg: DataConfig, seed: int, *, pseudo: Collection[str] = (), true_share: float = 0.0
) -> Plan | SharedPlan:
    """Return the batches of fine-tuning, mixed or (``true_share`` above 0) of true and of pseudo-labels in turn.

    Every utterance of the corpus has a text; ``pseudo`` are the ids of those whose text is a pseudo-label. Where all or
    none are, there is nothing to share.
    """
    made = np.array([name in pseudo for name in corpus.ids], dtype=bool)
    if not true_share or made.all() or not made.any():
        return Plan.finetune(corpus, cfg, seed)
    true, other = (
        Plan(corpus, cfg, Selection("finetune", cfg.min_seconds, cfg.max_seconds, kind), kind="finetune", seed=seed)
        for kind in (~made, made)
    )
    return SharedPlan(true, other, true_share)
