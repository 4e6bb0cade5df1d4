"""Autoregressive predictive coding (APC; Chung et al. 2019, arXiv 1904.03240): predict the log-mel of coming speech.

In: batches of waveforms. Out: the L1 distance between the log-mel n frames ahead and what a causal encoder predicts of
it (equation 1): ``sum_t |x[t + n] - y[t]|``, summed over the values of a frame. x [F, stack * n_mels] holds the log-mel
frames of 10 ms that begin within each encoder frame; each channel has zero mean and unit variance over the utterance.
y[t] is a linear function of the context of frames 0 to t. The paper's LSTM is this project's transformer, as in the
paper's sequel (Chung and Glass 2020, arXiv 1910.12607).

The receptive fields of neighbouring frames overlap: frame t sees the beginning of frame t + 1. n must be so large that
frame t sees no sample of its target. Frames of 25 ms, 10 ms apart, need n = 3, one of the paper's values.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.config.objectives import ApcConfig
from speechssl.core.errors import ConfigError
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.logmel import FrameLogMel
from speechssl.models.norm import at_least_float32
from speechssl.models.transformer import linear
from speechssl.objectives.base import Curve, Loss, Objective, Prepared, Rule
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import empty_loss
from speechssl.objectives.shared.reconstruction import CHANCE, CURVES, PREDICTION_COLLAPSE, QUIET, reconstruction_loss

__all__ = ["Apc", "ApcPrepared", "ApcPreparer", "least_ahead"]


def least_ahead(grid: FrameGrid) -> int:
    """Return the least n for which frame t of a stem sees no sample of frame t + n, nor of any later one."""
    return -(-grid.receptive // grid.hop)


@dataclass(frozen=True)
class ApcPrepared(Prepared):
    """A batch and the frames that have one to predict; ``n_targets`` counts values."""

    context: FrameSelection
    """Frames t for which the utterance has all that is predicted from them."""
    lengths: Tensor | None
    """[B] int64 samples in each row, or None when no row is padded."""


@dataclass(frozen=True)
class ApcPreparer:
    """Finds the frames of a CPU batch that have a target. Nothing is drawn. A row of weight 0 gets no targets."""

    grid: FrameGrid
    ahead: int
    """Samples of an utterance that must follow those of a frame."""
    values: int
    """Values that are predicted from each frame."""

    def __call__(self, batch: Batch) -> ApcPrepared:
        """Return the batch with its frames."""
        counts = self.grid.frames((batch.lengths - self.ahead).clamp(min=0)) * (batch.weights > 0)
        context = np.arange(self.grid.frames(batch.wave.shape[1])) < counts.numpy()[:, None]
        return ApcPrepared(
            batch=batch,
            n_targets=int(context.sum()) * self.values,
            context=FrameSelection.of(context),
            lengths=batch.lengths if batch.padded else None,
        )


class Apc(Objective[ApcPrepared]):
    """The APC objective around a causal encoder; nothing depends on ``seed``.

    Raises
    ------
    ConfigError
        ``ahead`` is so small that the context sees a part of the target; or the encoder's frames do not lie a
        multiple of 10 ms apart.
    """

    title = "APC"
    causal = True
    curves = (
        *CURVES,
        Curve(
            "repeating_loss",
            "L1 loss of repeating the last frame, relative to predicting the mean",
            "What the log-mel of frame t would cost as the prediction of frame t + n.",
            held_out=True,
        ),
    )
    rules = (
        PREDICTION_COLLAPSE,
        Rule(
            metric="relative_loss",
            finding="target_leak",
            message="{name} is {value:.3f}: coming frames are predicted almost exactly, so the encoder sees them. "
            "Check that the audio is neither constant nor repeated, and use a larger objective.ahead",
            low=0.2,
            after=None,
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: ApcConfig, *, seed: int) -> None:
        super().__init__()
        grid, least = encoder.frontend.grid, least_ahead(encoder.frontend.grid)
        if cfg.ahead < least:
            raise ConfigError(
                f"objective.ahead = {cfg.ahead}: frames of {grid.receptive} samples, {grid.hop} apart, show a part of "
                f"the {least - 1} that follow; predict the one {least} ahead, or a later one"
            )
        self.encoder = encoder
        encoder.mask_embedding.requires_grad = False  # nothing is masked, and weight decay would move it
        self.cfg = cfg
        self.seed = seed
        self.mel = FrameLogMel(cfg.n_mels, grid)
        self.predict = linear(encoder.dim, self.mel.dim)
        self.chance = dict(CHANCE)

    def preparer(self, seed: int | None = None) -> ApcPreparer:
        """Return what finds the frames with a target."""
        del seed
        grid = self.encoder.frontend.grid
        return ApcPreparer(grid, self.cfg.ahead * grid.hop, self.mel.dim)

    def forward(self, prepared: ApcPrepared) -> Loss:
        """Return the L1 distance between frames and their predictions (equation 1)."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        wave, context = prepared.batch.wave, prepared.context
        output = self.encoder(wave, prepared.lengths)
        predicted = at_least_float32(self.predict(context.pick(output.x)))
        with torch.autocast(wave.device.type, enabled=False):
            with torch.no_grad():
                speech = self.mel(wave, prepared.lengths)
                now, later = context.pick(speech), context.pick(speech.roll(-self.cfg.ahead, dims=1))
                repeated = (now - later).abs().mean() / later.abs().mean().clamp(min=QUIET)
            loss = reconstruction_loss(predicted, later, prepared.n_targets)
        loss.metrics["repeating_loss"] = repeated
        return loss
