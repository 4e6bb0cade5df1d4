"""Prepared batches of CTC fine-tuning: a batch with its masks, and the rows whose labels do not fit into their frames.

In: CPU batches with label ids. Out: prepared batches. This module does not import the model: loader processes would
then also import PyTorch's compiler.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.spec_augment import SpecAugment
from speechssl.config import MaskConfig
from speechssl.core.errors import DataError
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch, Prepared
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.logmel import MelAugmentation
from speechssl.models.masking import span_mask

__all__ = ["CtcPrepared", "CtcPreparer"]


@dataclass(frozen=True)
class CtcPrepared(Prepared):
    """A batch with its masks drawn."""

    weights: Tensor
    """[B] float32: 1 for rows that count, 0 for stand-ins and for rows with too few frames for their labels."""
    frame_counts: tuple[int, ...]
    """Encoder frames of each row."""
    label_counts: tuple[int, ...]
    """Labels of each row. Both stay on the CPU, where the loss kernel needs them."""
    valid: Tensor
    """[B, F] bool, frames of rows that count, padding left out."""
    padded: bool
    """Whether any row is shorter than the batch."""
    infeasible: int
    """Rows with too few frames; the labels of such a row cannot be emitted and its loss would be infinite."""
    mask: Tensor | None = None
    """[views * B, F] bool: all rows in the first view, then all in the second."""
    channel_mask: Tensor | None = None
    """[views * B, D] bool."""
    augmentation: MelAugmentation | None = None
    """Of [views * B] rows."""
    views: int = 1
    """How many times each row is recognised, each time with masks of its own (CR-CTC)."""


@dataclass(frozen=True)
class CtcPreparer:
    """Draws the masks of a CPU batch, keyed by (seed, epoch, utterance id), and finds rows whose labels do not fit.

    The masks of a second view have its number in their key, too.
    """

    grid: FrameGrid
    n_tokens: int
    channels: int
    """Width D of the encoder."""
    time: MaskConfig
    channel: MaskConfig
    masked: bool
    seed: int
    spec_augment: SpecAugment | None = None
    views: int = 1
    """Views of each row, where masks are drawn."""

    def __call__(self, batch: Batch) -> CtcPrepared:
        """Return the batch with its masks; DataError when the batch has no targets, or one beyond the vocabulary."""
        targets, target_lengths = batch.targets, batch.target_lengths
        if targets is None or target_lengths is None:
            raise DataError("a batch for CTC fine-tuning has no targets; give the stream `encode` and transcripts")
        if targets.numel() and int(targets.max()) >= self.n_tokens:  # ctc_loss would read out of bounds in silence
            row = int(targets.amax(dim=1).argmax())
            raise DataError(f"{batch.ids[row]}: label {int(targets.max())} is beyond the vocabulary of {self.n_tokens}")
        frame_lengths = self.grid.frames(batch.lengths)
        needed = target_lengths.clone()
        if targets.shape[1] > 1:
            inside = torch.arange(1, targets.shape[1]) < target_lengths[:, None]
            needed += ((targets[:, 1:] == targets[:, :-1]) & inside).sum(dim=1)
        counted = batch.weights > 0
        feasible = frame_lengths >= needed.clamp(min=1)
        weights = (counted & feasible).float()
        mask = channel_mask = None
        frames = self.grid.frames(batch.wave.shape[1])
        views = self.views if self.masked else 1
        if self.masked:
            drawn = [self._masks(batch, frame_lengths.tolist(), frames, view) for view in range(views)]
            mask, channel_mask = (torch.cat(masks) for masks in zip(*drawn, strict=True))
        return CtcPrepared(
            batch=batch,
            n_targets=int(weights.sum()),
            weights=weights,
            frame_counts=tuple(frame_lengths.tolist()),
            label_counts=tuple(target_lengths.tolist()),
            valid=(torch.arange(frames) < frame_lengths[:, None]) & (weights[:, None] > 0),
            padded=batch.padded,
            infeasible=int((counted & ~feasible).sum()),
            mask=mask,
            channel_mask=channel_mask,
            augmentation=self.spec_augment(batch, views) if self.masked and self.spec_augment else None,
            views=views,
        )

    def _masks(self, batch: Batch, frame_lengths: list[int], frames: int, view: int) -> tuple[Tensor, Tensor]:
        """Draw time ``[B, F]`` and channel ``[B, D]`` masks; always tensors, so that the graph never changes."""
        which = (view,) if view else ()
        time = np.zeros((len(batch.ids), frames), dtype=np.bool_)
        channel = np.zeros((len(batch.ids), self.channels), dtype=np.bool_)
        for row, (name, length) in enumerate(zip(batch.ids, frame_lengths, strict=True)):
            parts = (self.seed, batch.epoch, name, *which)
            time[row, :length] = span_mask(length, self.time, generator("ctc-time", *parts))
            channel[row] = span_mask(self.channels, self.channel, generator("ctc-channel", *parts))
        return torch.from_numpy(time), torch.from_numpy(channel)
