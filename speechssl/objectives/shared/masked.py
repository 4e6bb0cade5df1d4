"""What masked pretext tasks share: whose frames are masked, where they lie, and the pieces of a loss that is a sum.

In: a CPU batch and a mask configuration. Out: the mask and the `FrameSelection` of the masked frames, drawn for each
utterance by its own key, so that neither batch neighbours nor ranks nor workers can change them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from speechssl.config import MaskConfig
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.masking import mask_batch
from speechssl.models.norm import at_least_float32, frame_mask
from speechssl.objectives.base import Curve, Loss, Objective, Prepared, Rule
from speechssl.objectives.shared.frames import FrameSelection

__all__ = [
    "ACCURACY",
    "MASKED_LOSS",
    "MASKED_SHARE",
    "MaskPreparer",
    "MaskedObjective",
    "MaskedPrepared",
    "cosine_rows",
    "draw_masks",
    "empty_loss",
    "feature_penalty",
    "frame_counts",
    "penalty_weight",
]

ACCURACY = Curve(
    "accuracy",
    "Accuracy on masked frames (%)",
    "How often the right target is ranked first.",
    chance="accuracy",
    scale=100.0,
    zero=True,
    held_out=True,
)
"""The curve of every objective that chooses among candidates."""

MASKED_LOSS = Curve(
    "masked_loss",
    "Masked prediction loss (nats per masked frame)",
    "Masked prediction loss; lower is better.",
    chance="loss",
    held_out=True,
)
"""The curve of every objective that predicts the unit or code of masked frames."""
MASKED_SHARE = Rule(
    metric="masked_fraction",
    finding="masked_fraction",
    message="{value:.0%} of the frames are masked (usual: 49 to 57 %). Check the objective's mask.prob and "
    "mask.length; very short utterances have room for few spans, so raise data.min_seconds",
    low=0.15,
    high=0.85,
    after=None,
    severity="warning",
)
"""Enough must be masked to have something to predict, and little enough to predict it from."""


@dataclass(frozen=True)
class MaskedPrepared(Prepared):
    """A batch whose masked frames are known: ``n_targets`` of them."""

    mask: Tensor
    """[B, F] bool, frames that the context network does not see."""
    masked: FrameSelection
    """The masked frames that carry a target."""
    lengths: Tensor | None
    """[B] int64 samples in each row, or None when no row is padded (then the encoder builds no masks)."""
    frame_lengths: Tensor | None
    """[B] int64 frames in each row, or None as above."""

    @classmethod
    def of(cls, batch: Batch, rows: list[int], mask: np.ndarray, targets: np.ndarray | None = None, **own: Any) -> Self:
        """Return a CPU batch with its mask.

        Parameters
        ----------
        rows
            Valid frames in each row.
        mask, targets
            [B, F] bool: what is masked, and which of it carries a target (by default all).
        own
            What a subclass adds; ``n_targets`` where there are other targets than masked frames.
        """
        masked = mask if targets is None else targets
        return cls(
            batch=batch,
            mask=torch.from_numpy(mask),
            masked=FrameSelection.of(masked),
            lengths=batch.lengths if batch.padded else None,
            frame_lengths=torch.tensor(rows) if batch.padded else None,
            **{"n_targets": int(masked.sum())} | own,
        )

    @property
    def heard(self) -> Tensor:
        """[B, T] what the encoder hears."""
        return self.batch.wave

    def masked_fraction(self) -> Tensor:
        """Return the share of valid frames that are masked, as a scalar on the device."""
        frames = self.mask.numel() if self.frame_lengths is None else self.frame_lengths.sum()
        return self.mask.sum() / frames


def frame_counts(grid: FrameGrid, batch: Batch) -> tuple[list[int], int]:
    """Return the frames of each row and the frames of the padded batch (F)."""
    return [grid.frames(int(length)) for length in batch.lengths.tolist()], grid.frames(batch.wave.shape[1])


def draw_masks(batch: Batch, rows: list[int], frames: int, cfg: MaskConfig, seed: int) -> np.ndarray:
    """Draw the span masks of a batch, each keyed by (seed, epoch, utterance id) alone.

    Parameters
    ----------
    rows
        Valid frames in each row.
    frames
        Frames in the padded batch.

    Returns
    -------
    bool array [B, frames]; rows of weight 0 and padding are never masked.
    """
    counted = [length if weight > 0 else 0 for length, weight in zip(rows, batch.weights.tolist(), strict=True)]
    return mask_batch(counted, frames, cfg, (generator("mask", seed, batch.epoch, item) for item in batch.ids))


MaskedT = TypeVar("MaskedT", bound=MaskedPrepared)


@dataclass(frozen=True)
class MaskPreparer(Generic[MaskedT]):
    """Draws the masks of a CPU batch, keyed by (seed, epoch, utterance id). A row of weight 0 has none.

    Here it draws nothing else: targets are computed on the device.
    """

    grid: FrameGrid
    mask: MaskConfig
    seed: int

    def __call__(self, batch: Batch) -> MaskedT:
        """Return the batch with its masks."""
        rows, width = frame_counts(self.grid, batch)
        return self.prepared(batch, rows, draw_masks(batch, rows, width, self.mask, self.seed))

    def predictable(self, batch: Batch, rows: list[int], mask: np.ndarray) -> np.ndarray:
        """Return the masked frames [B, F] that have a target here."""
        del batch, rows
        return mask

    def prepared(self, batch: Batch, rows: list[int], mask: np.ndarray) -> MaskedT:
        """Return the batch with its masks [B, F] and what else the objective needs; ``rows`` are valid frames."""
        return cast(MaskedT, MaskedPrepared.of(batch, rows, mask))


class MaskedObjective(Objective[MaskedT]):
    """A pretext task whose loss is a function of the encoder's output on masked audio."""

    encoder: SpeechEncoder
    cfg: Any
    refused_in_sum: str = ""
    """Setting with which it cannot be a part of ``kind = "sum"``: the loss then needs another input of the encoder than
    masked audio, or another output than that at masked frames. Empty: none."""

    def preparer(self, seed: int | None = None) -> MaskPreparer[MaskedT]:
        """Return what draws masks."""
        raise AssertionError(f"{type(self).__name__} does not define preparer (seed {seed})")

    def encode(self, prepared: MaskedT, **changes: Any) -> EncoderOutput:
        """Return the encoder's output at the masked frames; ``changes`` are other arguments of the encoder."""
        options = {"mask": prepared.mask, "positions": prepared.masked.positions} | changes
        return cast(EncoderOutput, self.encoder(prepared.heard, prepared.lengths, **options))

    def loss(self, output: EncoderOutput, prepared: MaskedT) -> Loss:
        """Return the loss of what ``encode`` gave; there are targets."""
        raise AssertionError(f"{type(self).__name__} does not define loss ({prepared.n_targets} targets, {output})")

    def forward(self, prepared: MaskedT) -> Loss:
        """Return the loss of one prepared micro-batch."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        return self.loss(self.encode(prepared), prepared)


def penalty_weight(encoder: SpeechEncoder, weight: float) -> float:
    """Return the weight of the feature penalty: none for a stem that has nothing to learn (log-mel, or frozen)."""
    return weight if any(parameter.requires_grad for parameter in encoder.frontend.parameters()) else 0.0


def feature_penalty(features: Tensor, prepared: MaskedPrepared, *, counts: Tensor | None = None) -> Tensor:
    """Return the sum over targets of the mean squared stem output of the utterance that each target belongs to.

    wav2vec 2.0 takes one mean over the batch, padding included, times the number of masked frames. Here each utterance
    has its own mean over its valid frames, weighted by its own masked frames: equal for equal rows, and independent of
    padding and of batch neighbours otherwise. Taken before layer norm, in float32.

    Parameters
    ----------
    features
        [B, F, C] raw output of the stem.
    counts
        [B] targets in each row; by default the masked ones.
    """
    squares = at_least_float32(features).square().mean(dim=2)
    if prepared.frame_lengths is None:
        means = squares.mean(dim=1)
    else:
        valid = frame_mask(prepared.frame_lengths, squares.shape[1])
        means = squares.masked_fill(~valid, 0.0).sum(dim=1) / prepared.frame_lengths.clamp(min=1)
    return (means * (prepared.masked.counts if counts is None else counts)).sum()


def cosine_rows(x: Tensor) -> Tensor:
    """Scale the last dimension to unit length in at least float32, so that products of rows are cosines."""
    return nn.functional.normalize(at_least_float32(x), dim=-1, eps=1e-8)


def empty_loss(parameters: Iterable[nn.Parameter]) -> Loss:
    """Return a zero loss that reaches every trainable parameter: DDP waits for all of them on every rank."""
    sums = [parameter.sum() for parameter in parameters if parameter.requires_grad]
    return Loss(sum=torch.stack([at_least_float32(item) for item in sums]).sum() * 0.0, n_targets=0)
