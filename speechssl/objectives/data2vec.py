"""data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525): predict a teacher's view of a whole utterance from parts of it.

In: batches of waveforms. Out: the squared error of the predictions of masked frames, summed. The teacher, a moving
average of the student, reads the utterance once, unmasked. The student reads several masked views of it; its blocks
see the visible frames alone. A convolutional decoder predicts the teacher's targets at the masked frames of each view.

The positional convolution sees the mask embedding in place of masked frames, where fairseq has zeros. So the embedding
is trained, and fine-tuning can mask with it. fairseq masks equally many frames in all rows of a batch; here each mask
is drawn by the key of its utterance and view.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.config.objectives import Data2VecConfig, MaskConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import key
from speechssl.data.batches.batch import Batch
from speechssl.models.decoder import ConvolutionalDecoder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.kernels.dropout import dropout
from speechssl.models.teacher import INPUT_PARTS, Teacher, annealed
from speechssl.objectives.base import Curve, Loss, Objective, Ranks, Rule
from speechssl.objectives.shared.distillation import (
    FROZEN_TEACHER,
    STEM_COLLAPSE,
    TARGET_COLLAPSE,
    deviation,
    normalised_branches,
)
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import MASKED_SHARE, MaskedPrepared, draw_masks, empty_loss, frame_counts

__all__ = ["Data2Vec", "Data2VecPrepared", "Data2VecPreparer"]


@dataclass(frozen=True)
class Data2VecPrepared(MaskedPrepared):
    """C masked views of each of B utterances; row ``b * C + c`` of ``mask`` and ``masked`` is view c of utterance b."""

    visible: FrameSelection
    """The frames of each view that are not masked."""
    shared: Tensor
    """[N] int64, where the target of each masked frame lies in ``[B * F]``: views of one utterance share it."""

    def masked_fraction(self) -> Tensor:
        """Return the share of the valid frames of all views that are masked."""
        views = 1 if self.frame_lengths is None else len(self.mask) // len(self.frame_lengths)
        return super().masked_fraction() / views


@dataclass(frozen=True)
class Data2VecPreparer:
    """Draws the masks of all views of a CPU batch, keyed by (seed, view, epoch, utterance id).

    A row of weight 0 gets no targets, and neither does a view that is masked from end to end.
    """

    grid: FrameGrid
    mask: MaskConfig
    clones: int
    seed: int

    def __call__(self, batch: Batch) -> Data2VecPrepared:
        """Return the batch with its views."""
        rows, width = frame_counts(self.grid, batch)
        keys = [key("view", self.seed, view) for view in range(self.clones)]
        mask = np.stack([draw_masks(batch, rows, width, self.mask, each) for each in keys], axis=1)  # [B, C, F]
        frames = np.array(rows)[:, None]
        mask[mask.sum(axis=2) == frames] = False
        valid = np.broadcast_to(np.arange(width) < frames[:, :, None], mask.shape)
        places = np.broadcast_to(np.arange(len(rows) * width).reshape(-1, 1, width), mask.shape)
        visible = FrameSelection.of((valid & ~mask).reshape(-1, width))
        shared = torch.from_numpy(places[mask])
        return Data2VecPrepared.of(batch, rows, mask.reshape(-1, width), visible=visible, shared=shared)


class Data2Vec(Objective[Data2VecPrepared]):
    """The data2vec 2.0 objective around an encoder; ``seed`` is the key of the masks.

    Raises
    ------
    ConfigError
        Sizes of the decoder do not fit; no view, or no layer to learn from.
    """

    title = "data2vec 2.0"
    curves = (
        Curve(
            "unexplained_variance",
            "Unexplained variance of the targets",
            "Squared error on masked frames, relative to that of predicting each channel's mean over the utterance: 1 "
            "is chance. Targets change as the teacher learns, so it need not fall all the time.",
            chance="loss",
            level=1.0,
            zero=True,
            held_out=True,
        ),
        Curve(
            "target_deviation",
            "Deviation of the targets",
            "Standard deviation of the targets over frames, a mean over channels. Near 0 nothing is left to predict.",
            zero=True,
        ),
        Curve(
            "target_rank",
            "Effective rank of the targets (dimensions)",
            "Number of directions in effective use among the targets. A fall to 1 is a collapse that variances hide.",
            zero=True,
        ),
    )
    rules = (
        TARGET_COLLAPSE,
        Rule(
            metric="target_rank",
            finding="dimension_collapse",
            message="{name} is {value:.2f}: all channels of the targets say practically the same. Try a slower teacher "
            "(objective.ema_start nearer to 1), a lower optim.lr, or more audio in a step",
            low=2.0,
            severity="warning",
        ),
        Rule(
            metric="prediction_deviation",
            finding="prediction_collapse",
            message="{name} is {value:.4f}: all frames get nearly the same prediction. Try a lower optim.lr or a "
            "longer warmup",
            low=0.01,
        ),
        STEM_COLLAPSE,
        FROZEN_TEACHER,
        MASKED_SHARE,
    )

    def __init__(self, encoder: SpeechEncoder, cfg: Data2VecConfig, *, seed: int) -> None:
        super().__init__()
        if min(cfg.clones, cfg.top_layers) < 1:
            raise ConfigError("objective.clones and objective.top_layers must be at least 1")
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.teacher = Teacher(encoder, without=INPUT_PARTS)
        sizes = {"layers": cfg.decoder_layers, "kernel": cfg.decoder_kernel, "groups": cfg.decoder_groups}
        self.decoder = ConvolutionalDecoder(encoder.dim, cfg.decoder_dim, **sizes)
        self.chance = {"unexplained_variance": 1.0}

    def preparer(self, seed: int | None = None) -> Data2VecPreparer:
        """Return what draws the masks of the views."""
        grid, own = self.encoder.frontend.grid, self.seed if seed is None else seed
        return Data2VecPreparer(grid, self.cfg.mask, self.cfg.clones, own)

    def after_update(self, step: int, parallel: Ranks) -> None:
        """Move the teacher; every rank has the same weights, and makes the same of them."""
        del parallel
        self.teacher.follow(self.encoder, annealed(self.cfg.ema_start, self.cfg.ema_end, step, self.cfg.ema_steps))

    def exported(self) -> dict[str, Tensor]:
        """Return the decoder: a continued pretraining makes its teacher from the encoder."""
        return {name: value for name, value in super().exported().items() if not name.startswith("teacher.")}

    def targets(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        """Return the targets [B, F, D] of projected features x [B, F, D]: the mean of the teacher's last layers."""
        return torch.stack(normalised_branches(self.teacher, x, frame_lengths, self.cfg.top_layers)).mean(dim=0)

    def predict(self, x: Tensor, prepared: Data2VecPrepared) -> Tensor:
        """Return predictions [N, D] of the masked frames of all views, from projected features x [B, F, D]."""
        clones, visible = self.cfg.clones, prepared.visible
        lengths = None if prepared.frame_lengths is None else prepared.frame_lengths.repeat_interleave(clones)
        x = self.encoder.input_dropout(x).repeat_interleave(clones, dim=0)
        noise = torch.randn_like(x).mul_(self.cfg.mask_noise) if self.training else torch.zeros_like(x)
        x = self.encoder.hide(x, prepared.mask)
        if self.cfg.visible_only:
            seen = visible.gather(self.encoder.context(x, lengths, visible=(visible.positions, visible.counts)).x)
            seen = dropout(seen, self.cfg.decoder_dropout, training=self.training)
            x = noise.flatten(0, 1).index_copy(0, visible.frames, seen).view_as(x)
        else:
            x = self.encoder.context(x + noise.masked_fill(~prepared.mask[..., None], 0.0), lengths).x
            x = dropout(x, self.cfg.decoder_dropout, training=self.training)
        return self.decoder.predict(prepared.masked.pick(self.decoder(x, lengths)))

    def forward(self, prepared: Data2VecPrepared) -> Loss:
        """Return ``sum |prediction - target|^2 / sqrt(D)`` over the masked frames of all views (section 3)."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        x = self.encoder.project(self.encoder.features(prepared.batch.wave, prepared.lengths))
        targets = self.targets(x, prepared.frame_lengths).flatten(0, 1).index_select(0, prepared.shared)
        predictions = self.predict(x, prepared)
        features = x.detach().flatten(0, 1).index_select(0, prepared.shared)
        errors = (predictions - targets).square().sum()
        metrics = {
            "unexplained_variance": errors.detach() / targets.square().sum().clamp(min=1e-8),
            "target_deviation": deviation(targets),
            "target_rank": _effective_rank(targets),
            "prediction_deviation": deviation(predictions.detach()),
            "feature_deviation": deviation(features),
            "teacher_moved": self.teacher.moved(),
            "masked_fraction": prepared.masked_fraction(),
        }
        return Loss(sum=errors / math.sqrt(self.encoder.dim), n_targets=prepared.n_targets, metrics=metrics)


def _effective_rank(x: Tensor) -> Tensor:
    """Return the participation ratio ``tr(C)^2 / tr(C^2)`` of the covariance C of [N, D]: from 1 to D."""
    with torch.autocast(x.device.type, enabled=False):
        centred = x - x.mean(dim=0)
        covariance = centred.t() @ centred
        return covariance.trace().square() / covariance.square().sum().clamp(min=1e-8)
