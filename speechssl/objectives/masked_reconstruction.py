"""Masked reconstruction (Mockingjay, arXiv 1910.12638; TERA, arXiv 2007.06028): predict the log-mel of masked speech.

In: batches of waveforms. Out: the L1 distance between predicted and true log-mel, summed over what was masked:
``sum_{t, c} h[t, c] |p[t, c] - s[t, c]|``. s [F, stack * n_mels] holds the log-mel frames of 10 ms that begin within
each encoder frame; each channel has zero mean and unit variance over the utterance. h is 1 in masked frames. With
``channels`` it is also 1 in one block of mel channels of all frames of an utterance, for a log-mel stem.

Masked frames become the encoder's mask embedding. The papers set four fifths of them to zero, replace a tenth by other
frames and leave a tenth unchanged. Windows of 25 ms overlap, so a frame beside a span shows the edge of it, as there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.config.masked_objectives import MaskedReconstructionConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.frame_counts import MEL_STRIDE
from speechssl.models.masking import channel_block
from speechssl.objectives.base import Loss, Rule
from speechssl.objectives.shared.masked import MaskedObjective, MaskedPrepared, MaskPreparer
from speechssl.objectives.shared.reconstruction import (
    CHANCE,
    CURVES,
    PREDICTION_COLLAPSE,
    Bottleneck,
    LogMelHead,
    reconstruction_loss,
)

__all__ = ["MaskedReconstruction", "ReconstructionPrepared", "ReconstructionPreparer"]


@dataclass(frozen=True)
class ReconstructionPrepared(MaskedPrepared):
    """Masks of one batch. ``n_targets`` counts values, and ``masked`` selects the frames that hold any of them."""

    channels: Tensor | None
    """[B, M] bool, mel channels hidden in all frames of a row; None where only frames are masked."""


@dataclass(frozen=True)
class ReconstructionPreparer(MaskPreparer[ReconstructionPrepared]):
    """Draws the masks of a CPU batch, keyed by (seed, epoch, utterance id). A row of weight 0 gets no targets."""

    n_mels: int
    widest: int
    """Most mel channels that are hidden; 0: none ever."""

    def prepared(self, batch: Batch, rows: list[int], mask: np.ndarray) -> ReconstructionPrepared:
        """Return the batch with its masks of frames and channels."""
        targets, values, channels = mask, int(mask.sum()) * self.n_mels, None
        if self.widest:
            channels = self._channels(batch)
            counts = channels.sum(axis=1)
            valid = np.arange(mask.shape[1]) < np.array(rows)[:, None]
            targets = mask | (valid & (counts > 0)[:, None])
            values += int(((targets & ~mask).sum(axis=1) * counts).sum())
        return ReconstructionPrepared.of(
            batch,
            rows,
            mask,
            targets,
            n_targets=values * (self.grid.hop // MEL_STRIDE),
            channels=None if channels is None else torch.from_numpy(channels),
        )

    def _channels(self, batch: Batch) -> np.ndarray:
        """Return [B, M] bool: one block of channels a row, none in a row of weight 0."""
        blocks = [
            channel_block(self.n_mels, self.widest, generator("channels", self.seed, batch.epoch, item))
            for item in batch.ids
        ]
        return np.stack(blocks) & (batch.weights.numpy() > 0)[:, None]


class MaskedReconstruction(MaskedObjective[ReconstructionPrepared]):
    """The objective around an encoder; ``seed`` is the key of the masks.

    Raises
    ------
    ConfigError
        The encoder's frames do not lie a multiple of 10 ms apart; or channels are to be hidden of a stem that is not
        log-mel, or has other mel channels than the targets.
    """

    title = "Masked reconstruction"
    curves = CURVES
    rules = (
        PREDICTION_COLLAPSE,
        Rule(
            metric="relative_loss",
            finding="target_leak",
            message="{name} is {value:.3f}: masked speech is known almost exactly, so the input may show it. Use a "
            "larger objective.mask.length, and check that the audio is neither constant nor repeated",
            low=0.25,
            after=None,
            severity="warning",
        ),
        Rule(
            metric="masked_fraction",
            finding="masked_fraction",
            message="{value:.0%} of the frames are masked (published: 14 %). Check the objective's mask.prob and "
            "mask.length; very short utterances have room for few spans, so raise data.min_seconds",
            low=0.04,
            high=0.85,
            after=None,
            severity="warning",
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: MaskedReconstructionConfig, *, seed: int) -> None:
        super().__init__()
        _check_channels(encoder, cfg)
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.refused_in_sum = "channels" if cfg.channels else ""
        self.bottleneck = Bottleneck(encoder.dim, cfg.bottleneck)
        self.head = LogMelHead(cfg.n_mels, encoder.frontend.grid, encoder.dim)
        self.chance = dict(CHANCE)

    def preparer(self, seed: int | None = None) -> ReconstructionPreparer:
        """Return what draws masks."""
        cfg, grid = self.cfg, self.encoder.frontend.grid
        return ReconstructionPreparer(grid, cfg.mask, self.seed if seed is None else seed, cfg.n_mels, cfg.channels)

    def block(self, prepared: ReconstructionPrepared) -> Tensor | None:
        """Return the hidden channels of each row [B, stack * M]; None where only frames are masked."""
        return None if prepared.channels is None else prepared.channels.repeat(1, self.head.mel.stack)

    def encode(self, prepared: ReconstructionPrepared, **changes: Any) -> EncoderOutput:
        """Return the encoder's output at the frames that hold any target."""
        return super().encode(prepared, feature_mask=self.block(prepared), **changes)

    def loss(self, output: EncoderOutput, prepared: ReconstructionPrepared) -> Loss:
        """Return the L1 loss of the log-mel values that the encoder does not see."""
        wave, masked, block = prepared.batch.wave, prepared.masked, self.block(prepared)
        context, divergence = self.bottleneck(masked.gather(output.x))
        predicted = self.head(context)
        with torch.autocast(wave.device.type, enabled=False):
            speech = masked.pick(self.head.mel(wave, prepared.lengths))
            hidden = None if block is None else masked.pick(prepared.mask[..., None] | block[:, None])
            loss = reconstruction_loss(predicted, speech, prepared.n_targets, hidden)
        loss.metrics["masked_fraction"] = prepared.masked_fraction()
        return self.bottleneck.joined(loss, divergence, len(masked))


def _check_channels(encoder: SpeechEncoder, cfg: MaskedReconstructionConfig) -> None:
    stem = encoder.cfg.frontend
    if not 0 <= cfg.channels < cfg.n_mels:
        raise ConfigError(f"objective.channels = {cfg.channels}: hide 0 to {cfg.n_mels - 1} of {cfg.n_mels} channels")
    if cfg.channels and (stem.kind != "logmel" or stem.conv2d):
        raise ConfigError(
            f"objective.channels = {cfg.channels} hides mel channels, which a {'conv2d' if stem.conv2d else stem.kind} "
            "stem has not: write 0, or model.frontend.kind = 'logmel' with model.frontend.conv2d = 0"
        )
    if cfg.channels and stem.n_mels != cfg.n_mels:
        raise ConfigError(
            f"objective.n_mels = {cfg.n_mels}, but the stem shows {stem.n_mels} channels: hidden ones must be the same"
        )
