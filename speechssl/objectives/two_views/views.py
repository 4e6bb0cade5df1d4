"""What objectives of two views share: two augmented copies of an utterance, their embeddings, and the comparison.

In: a CPU batch. Out: two views of each utterance, made by (seed, view, epoch, utterance id): a crop, then what
``augment`` says (speed, room, noise, gain), then span masks. Both views have equally many items, in the same order: the
frames that both hold, at the level of frames, or the utterance itself.

An item at the level of frames is a moment of the utterance. Crops begin on the frame grid, so it is frame t - begin of
each view. A speed would move it off the grid: speeds are for the level of utterances. The more views differ in where
they begin, the less a frame's position in the view tells which it is (a shortcut, found in arXiv 2201.10207).
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config.objectives import MocoConfig, SimClrConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator, key
from speechssl.data.batches.augment import Augmenter, Sounds, augmenter
from speechssl.data.batches.batch import Batch, full_scale
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.kernels.linear import Linear
from speechssl.models.norm import frame_mask
from speechssl.objectives.base import Curve, Loss, Objective, Plateau, Prepared, Rule
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import ACCURACY, cosine_rows, draw_masks

__all__ = ["ProjectionHead", "TwoViews", "View", "ViewsPrepared", "ViewsPreparer", "compared", "summed"]


@dataclass(frozen=True)
class View:
    """One view of B utterances, as the encoder hears it."""

    wave: Tensor
    """[B, T] float."""
    lengths: Tensor | None
    """[B] int64 samples in each row, or None when no row is padded."""
    frame_lengths: Tensor
    """[B] int64."""
    mask: Tensor
    """[B, F] bool."""
    items: FrameSelection
    """What is compared, in G groups of candidates: [B, F] frames, a group an utterance; or [1, B] or [B, 1]
    utterances."""


@dataclass(frozen=True)
class ViewsPrepared(Prepared):
    """Two views of a batch; ``n_targets`` counts pairs of items."""

    one: View
    other: View
    equal: Tensor
    """Scalar: share of the utterances whose views are the same samples under the same mask."""


@dataclass(frozen=True)
class ViewsPreparer:
    """Makes the views of a CPU batch. A row of weight 0 gets no targets, nor does a group of less than ``least``."""

    grid: FrameGrid
    cfg: SimClrConfig | MocoConfig
    seed: int
    sounds: Sounds
    together: bool
    """Utterances are one group, not a group each (at the level of utterances)."""
    least: int

    def __call__(self, batch: Batch) -> ViewsPrepared:
        """Return the batch with its views."""
        keys = [key("view", self.seed, number) for number in range(2)]
        cut = [self._cut(batch, each) for each in keys]
        frames = np.array([[self.grid.frames(len(wave)) for wave in waves] for waves, _ in cut])  # [2, B]
        counted = (frames > 0).all(axis=0) & (batch.weights.numpy() > 0)
        if self.cfg.level == "utterance":
            items = [counted[None] if self.together else counted[:, None]] * 2
        else:
            starts = np.array([starts for _, starts in cut])
            begin, end = starts.max(axis=0) - starts, (starts + frames).min(axis=0) - starts
            places = np.arange(frames.max(initial=0))
            both = (begin[..., None] <= places) & (places < end[..., None]) & counted[:, None]
            items = [selected[:, :width] for selected, width in zip(both, frames.max(axis=1), strict=True)]
        for selected in items:
            selected[selected.sum(axis=1) < self.least] = False
        views = [
            self._view(batch, waves, each, rows.tolist(), selected)
            for (waves, _), each, rows, selected in zip(cut, keys, frames, items, strict=True)
        ]
        pairs = zip(cut[0][0], cut[1][0], views[0].mask, views[1].mask, strict=True)
        equal = [np.array_equal(a, b) and torch.equal(masked, other) for a, b, masked, other in pairs]
        share = sum(same for same, counts in zip(equal, counted, strict=True) if counts) / max(1, counted.sum())
        n_targets = int(items[0].sum())
        return ViewsPrepared(batch, n_targets, views[0], views[1], torch.tensor(share, dtype=torch.float32))

    def _cut(self, batch: Batch, seed: int) -> tuple[list[np.ndarray], list[int]]:
        """Return one view of each utterance, [T'] each, and the frame of the utterance that it begins with."""
        augment: Augmenter | None = augmenter(self.cfg.augment, seed, self.sounds)
        waves, starts = [], []
        for row, length, item in zip(full_scale(batch.wave).numpy(), batch.lengths.tolist(), batch.ids, strict=True):
            frames = self.grid.frames(length)
            held = max(1, math.ceil(self.cfg.crop * frames))
            starts.append(int(generator("crop", seed, batch.epoch, item).integers(max(1, frames - held + 1))))
            begin = starts[-1] * self.grid.hop
            wave = row[begin : min(length, begin + (held - 1) * self.grid.hop + self.grid.receptive)]
            waves.append(wave if augment is None else augment(wave, batch.epoch, item))
        return waves, starts

    def _view(self, batch: Batch, waves: list[np.ndarray], seed: int, rows: list[int], items: np.ndarray) -> View:
        padded = np.zeros((len(waves), max(map(len, waves))), dtype=full_scale(batch.wave[:, :0]).numpy().dtype)
        for into, wave in zip(padded, waves, strict=True):
            into[: len(wave)] = wave
        lengths = torch.tensor([len(wave) for wave in waves])
        mask = draw_masks(batch, rows, self.grid.frames(padded.shape[1]), self.cfg.mask, seed)
        return View(
            wave=torch.from_numpy(padded),
            lengths=lengths if bool((lengths < padded.shape[1]).any()) else None,
            frame_lengths=torch.tensor(rows),
            mask=torch.from_numpy(mask),
            items=FrameSelection.of(items),
        )


class ProjectionHead(nn.Module):
    """g(h) = W2 relu(W1 h): from the encoder's width D to the space in which views are compared (SimCLR, section 2)."""

    def __init__(self, dim: int, final_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(dim, dim)
        self.out = Linear(dim, final_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings [N, final_dim] of [N, D], of unit length, in at least float32."""
        return cosine_rows(self.out(functional.relu(self.hidden(x))))


class TwoViews(Objective[ViewsPrepared]):
    """Base of the objectives around an encoder that compare two views; ``seed`` is the key of the views.

    Raises
    ------
    ConfigError
        A crop that leaves nothing to compare, or speeds at the level of frames.
    """

    curves = (
        Curve(
            "relative_loss",
            "Contrastive loss, relative to chance",
            "Contrastive loss, divided by the loss of taking all candidates as equally likely; lower is better.",
            chance="loss",
            level=1.0,
            zero=True,
            held_out=True,
        ),
        replace(ACCURACY, axis="Accuracy (%)", caption="How often the other view is ranked first.", chance=""),
        Curve(
            "embedding_variance",
            "Variance of the embeddings",
            "1 where embeddings point everywhere, 0 where all are the same vector. A fall to 0 is a collapse.",
            zero=True,
        ),
    )
    rules: ClassVar[tuple[Rule | Plateau, ...]] = (
        Rule(
            metric="equal_views",
            finding="view_of_itself",
            message="{value:.0%} of the utterances are paired with themselves: both views are the same samples under "
            "the same mask. Set objective.crop below 1, or noise, rooms or masks in objective.augment and "
            "objective.mask; check that the audio is not silent",
            high=0.5,
            after=None,
        ),
        Rule(
            metric="embedding_variance",
            finding="embedding_collapse",
            message="{name} is {value:.2g}: all embeddings are nearly the same vector. Go back to an earlier "
            "checkpoint with a lower optim.lr or a longer warmup; check that the audio is not silent",
            low=0.01,
            after=0.0,
        ),
    )
    together: bool
    """Utterances of a micro-batch are candidates of each other."""
    least: int
    """Items that a group of candidates needs."""

    def __init__(self, encoder: SpeechEncoder, cfg: Any, *, seed: int) -> None:
        super().__init__()
        if not (0.5 if cfg.level == "frame" else 0) < cfg.crop <= 1:
            raise ConfigError(f"objective.crop = {cfg.crop}: above 0, above 0.5 for frames (views overlap); at most 1")
        if cfg.level == "frame" and any(speed != 1 for speed in cfg.augment.speeds):
            raise ConfigError('objective.augment.speeds moves frames off the grid: use objective.level = "utterance"')
        augmenter(cfg.augment, seed)  # refuses what cannot be drawn
        self.encoder = encoder
        if cfg.mask.prob <= 0:
            encoder.mask_embedding.requires_grad = False  # nothing is masked, and weight decay would move it
        self.cfg = cfg
        self.seed = seed
        self.head = ProjectionHead(encoder.dim, cfg.final_dim)
        self.chance = {"relative_loss": 1.0}

    def preparer(self, seed: int | None = None) -> ViewsPreparer:
        """Return what draws views."""
        own = self.seed if seed is None else seed
        sounds = replace(self.sounds, quick=True)
        return ViewsPreparer(self.encoder.frontend.grid, self.cfg, own, sounds, self.together, self.least)

    def embed(self, view: View, encoder: SpeechEncoder, head: ProjectionHead, mask: Tensor | None) -> Tensor:
        """Return the embeddings [G, W, E] of the items of a view, those of a group side by side."""
        items = view.items
        if self.cfg.level == "frame":
            x = items.gather(encoder(view.wave, view.lengths, mask=mask, positions=items.positions).x)
        else:
            frames = encoder(view.wave, view.lengths, mask=mask).x
            valid = frame_mask(view.frame_lengths, frames.shape[1])[..., None]
            mean = frames.masked_fill(~valid, 0.0).sum(dim=1) / view.frame_lengths.clamp(min=1)[:, None]
            x = items.pick(mean[:, None])
        return items.spread(head(x))


def compared(logits: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each item, whether it is right, and what its loss is at chance, [N] each.

    ``logits`` [N, C] are minus infinity for what is no candidate, ``positive`` [N] the columns of the right ones.
    """
    losses = functional.cross_entropy(logits, positive, reduction="none")
    with torch.no_grad():
        place = positive[:, None]
        rivals = logits.scatter(1, place, -math.inf).amax(dim=1)
        return losses, logits.gather(1, place)[:, 0] > rivals, logits.isfinite().sum(dim=1).to(losses.dtype).log()


def summed(total: Tensor, embeddings: Tensor, prepared: ViewsPrepared, results: tuple[Tensor, Tensor, Tensor]) -> Loss:
    """Return the loss ``total`` with the metrics that `TwoViews` declares, of what `compared` gave."""
    losses, right, chance = (each.detach() for each in results)
    metrics = {
        "contrastive": losses.mean(),
        "relative_loss": losses.sum() / chance.sum().clamp(min=1e-6),
        "accuracy": right.float().mean(),
        "embedding_variance": embeddings.detach().var(dim=0, unbiased=False).sum(),
        "equal_views": prepared.equal,
    }
    return Loss(sum=total, n_targets=prepared.n_targets, metrics=metrics)
