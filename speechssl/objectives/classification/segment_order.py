"""Order prediction: which of K permutations the segments of an utterance were shuffled by.

The task is that of jigsaw puzzles of images (Noroozi and Favaro 2016, arXiv 1603.09246), in time; Carr et al. 2021
(arXiv 2103.09879) shuffle audio. In: batches of waveforms. Out: with x_1 ... x_S the segments of an utterance and p_k
the permutation that was drawn, the cross-entropy ``-log softmax(g([h_1; ...; h_S]))[k]``, summed over utterances. The
encoder hears the segments x_{p_k(1)} ... x_{p_k(S)} joined to one wave; h_j is its output averaged over the frames of
the j-th, and g is an MLP.

k and the places of the segments are drawn by (seed, epoch, utterance id). Three things would tell k without listening:

- Length. All segments of an utterance are equally long, and so a joint lies at the same places in every order.
- Ends that fit. A segment fills a part of its cell, an S-th of the utterance, at a random place. The gap between two
  segments, on average ``1 - share`` of a cell, is not heard, so the wave jumps at every joint in every order.
- Frames across a joint. They are in no mean: segments are whole hops, and only frames wholly within one count.

What remains: the silence before and after an utterance tells its first and its last segment, where it was not cropped.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

from speechssl.config.objectives import SegmentOrderConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.objectives.base import Loss, Objective
from speechssl.objectives.classification.classes import (
    CURVES,
    RULES,
    ClassHead,
    ClassPrepared,
    chance,
    class_loss,
    utterances,
)
from speechssl.objectives.shared.masked import empty_loss

__all__ = ["SegmentOrder", "SegmentOrderPreparer", "distant_permutations"]

MOST_SEGMENTS = 8
"""Of which there are 40,320 permutations to choose from."""


@cache
def distant_permutations(segments: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Return ``count`` permutations of ``segments`` that differ in many places, the unshuffled order first.

    Greedy, as in Noroozi and Favaro (algorithm 1), by the smallest Hamming distance to those chosen so far; the mean
    distance, which is theirs, settles a draw, and then lexicographic order.
    """
    every = np.array(list(permutations(range(segments))))
    nearest, total = np.full(len(every), segments + 1), np.zeros(len(every), dtype=np.int64)
    chosen = [0]
    for _ in range(count - 1):
        distance = (every != every[chosen[-1]]).sum(axis=1)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int(np.argmax(nearest * (count * segments) + total)))
    return tuple(tuple(order) for order in every[chosen].tolist())


@dataclass(frozen=True)
class SegmentOrderPreparer:
    """Cuts and shuffles each utterance of a CPU batch, keyed by (seed, epoch, utterance id)."""

    grid: FrameGrid
    cfg: SegmentOrderConfig
    seed: int

    def __call__(self, batch: Batch) -> ClassPrepared:
        """Return the batch shuffled. A row of weight 0, or whose segments have no whole frame, gets no target."""
        shuffled, classes, spans = [], [], []
        orders = distant_permutations(self.cfg.segments, self.cfg.permutations)
        for item, wave in utterances(batch):
            random = generator("segment-order", self.seed, batch.epoch, item)
            segments = self.cut(wave, random)
            samples = len(segments[0])
            if (frames := self.grid.frames(samples)) > 0:
                classes.append(int(random.integers(len(orders))))
                shuffled.append(np.concatenate([segments[place] for place in orders[classes[-1]]]))
                spans.append([(first // self.grid.hop, frames) for first in range(0, len(shuffled[-1]), samples)])
        return ClassPrepared.of(batch, self.grid, shuffled, classes, spans)

    def cut(self, wave: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
        """Return the segments of an utterance in their order: whole hops, each at a random place in its cell."""
        cell = len(wave) // self.cfg.segments
        samples = int(self.cfg.share * cell) // self.grid.hop * self.grid.hop
        starts = cell * np.arange(self.cfg.segments)
        starts += random.integers(cell - samples, size=len(starts), endpoint=True)
        return [wave[start : start + samples] for start in starts]


class SegmentOrder(Objective[ClassPrepared]):
    """The objective around an encoder, whose mask embedding is frozen; ``seed`` is the key of cuts and orders.

    Raises
    ------
    ConfigError
        Fewer than 2 segments or more than 8; more permutations than there are, or only one; a share that is not above
        0, or above 1.
    """

    title = "Order prediction"
    curves = CURVES
    rules = RULES

    def __init__(self, encoder: SpeechEncoder, cfg: SegmentOrderConfig, *, seed: int) -> None:
        super().__init__()
        if not 2 <= cfg.segments <= MOST_SEGMENTS:
            raise ConfigError(f"objective.segments = {cfg.segments}: give 2 to {MOST_SEGMENTS}")
        most = math.factorial(cfg.segments)
        if not 2 <= cfg.permutations <= most:
            raise ConfigError(
                f"objective.permutations = {cfg.permutations}: give 2 to {most}, the permutations of {cfg.segments}"
            )
        if not 0 < cfg.share <= 1:
            raise ConfigError(f"objective.share = {cfg.share}: give a share above 0, and at most 1")
        self.encoder = encoder
        self.encoder.mask_embedding.requires_grad = False  # no frame is masked
        self.cfg = cfg
        self.seed = seed
        self.head = ClassHead(encoder.dim, cfg.permutations, segments=cfg.segments)
        self.chance = chance(cfg.permutations)

    @staticmethod
    def candidates(cfg: SegmentOrderConfig, iteration: int) -> int:
        """Return the number of permutations."""
        del iteration
        return cfg.permutations

    def preparer(self, seed: int | None = None) -> SegmentOrderPreparer:
        """Return what cuts and shuffles."""
        return SegmentOrderPreparer(self.encoder.frontend.grid, self.cfg, self.seed if seed is None else seed)

    def forward(self, prepared: ClassPrepared) -> Loss:
        """Return the cross-entropy of the permutations."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        x = self.encoder(prepared.audio, prepared.lengths).x
        return class_loss(self.head(x, prepared.segments), prepared.classes)
