"""Contrastive predictive coding (CPC; van den Oord et al. 2018, arXiv 1807.03748): tell coming latents from others.

In: batches of waveforms. Out: InfoNCE (equation 4). z[t] is the layer-normed output of the stem, [C], and c[t] the
context of frames 0 to t by a causal encoder, [D]. For each of K steps a linear predictor W_k [C, D] scores a latent z
as ``f_k(z, c[t]) = exp(z . W_k c[t] / sqrt(C))`` (equation 3; the root is only a scale of W_k). A step costs
``-log f_k(z[t + k], c[t]) / (f_k(z[t + k], c[t]) + sum over negatives f_k(z', c[t]))``; a frame costs the mean of its
steps.

Negatives are frames of the same utterance and of others of the micro-batch, drawn once for a frame and shared by its
steps (as Riviere et al. 2020, arXiv 2002.02848). One that is itself the frame to predict does not count at that step.

Where receptive fields overlap, the context sees a part of the nearest frames. ``first`` leaves them out; the paper
predicts them.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from speechssl.config.objectives import CpcConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.kernels.linear import Linear
from speechssl.models.masking import sample_frames
from speechssl.models.norm import at_least_float32
from speechssl.objectives.base import Curve, Loss, Objective, Prepared, Rule
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import ACCURACY, cosine_rows, empty_loss, frame_counts

__all__ = ["Cpc", "CpcPrepared", "CpcPreparer"]


@dataclass(frozen=True)
class CpcPrepared(Prepared):
    """A batch, the frames that predict (``n_targets`` of them), and their negatives."""

    context: FrameSelection
    """Frames t whose utterance has all the frames that are predicted from t."""
    negatives: Tensor
    """[N, M] int64, frames as positions in ``[B * F]``."""
    lengths: Tensor | None
    """[B] int64 samples in each row, or None when no row is padded."""


@dataclass(frozen=True)
class CpcPreparer:
    """Draws the negatives of a CPU batch, keyed by (seed, epoch, utterance id) and the lengths of all rows.

    A row of weight 0 gets no targets and gives no negatives. Where no other row has a frame, negatives across
    utterances are of the same one.
    """

    grid: FrameGrid
    cfg: CpcConfig
    seed: int

    def __call__(self, batch: Batch) -> CpcPrepared:
        """Return the batch with its negatives."""
        cfg = self.cfg
        rows, width = frame_counts(self.grid, batch)
        frames = np.array(rows) * (batch.weights.numpy() > 0)
        counts = np.maximum(frames - (cfg.first + cfg.steps - 1), 0)
        places = np.flatnonzero(np.arange(width) < frames[:, None])  # of all frames there are, row by row
        begins = np.cumsum(frames) - frames
        drawn = [np.zeros((0, cfg.within + cfg.across), dtype=np.int64)]
        for item, begin, own, count in zip(batch.ids, begins, frames, counts, strict=True):
            if not count:
                continue
            rng = generator("latents", self.seed, batch.epoch, item)
            near = begin + sample_frames(own, count * cfg.within, rng)
            others = len(places) - own
            far = sample_frames(others or own, count * cfg.across, rng)
            far = far + own * (far >= begin) if others else far + begin  # the others lie before and after its own
            drawn.append(places[np.concatenate([near.reshape(count, -1), far.reshape(count, -1)], axis=1)])
        return CpcPrepared(
            batch=batch,
            n_targets=int(counts.sum()),
            context=FrameSelection.of(np.arange(width) < counts[:, None]),
            negatives=torch.from_numpy(np.concatenate(drawn)),
            lengths=batch.lengths if batch.padded else None,
        )


class Cpc(Objective[CpcPrepared]):
    """The CPC objective around a causal encoder; ``seed`` is the key of the negatives.

    Raises
    ------
    ConfigError
        There is no step, no negative, or the first step is not ahead.
    """

    title = "CPC"
    causal = True
    curves = (
        Curve(
            "contrastive",
            "Contrastive loss (nats per step and frame)",
            "Contrastive loss, a mean over steps; lower is better.",
            chance="loss",
            held_out=True,
        ),
        replace(ACCURACY, axis="Accuracy of all steps (%)"),
        Curve(
            "last_accuracy",
            "Accuracy of the last step (%)",
            "How often the true latent of the farthest step is ranked first.",
            chance="accuracy",
            scale=100.0,
            zero=True,
            held_out=True,
        ),
    )
    rules = (
        Rule(
            metric="target_variance",
            finding="target_collapse",
            message="{name} is {value:.2g}: all latents point the same way, so there is nothing to predict. Go back to "
            "an earlier checkpoint with a lower optim.lr; check that the audio is not silent",
            low=0.01,
            after=0.0,
        ),
        Rule(
            metric="negatives_counted",
            finding="negatives_collide",
            message="{value:.0%} of the negatives count: the others are what is to be predicted. Raise "
            "data.min_seconds, or objective.across together with data.batch_seconds",
            low=0.5,
            after=None,
        ),
        Rule(
            metric="last_accuracy",
            finding="target_leak",
            message="{name} is {value:.3f}: the farthest frame is told almost always, so the encoder sees it. Check "
            "that the audio is neither constant nor repeated; use more steps, or more negatives of the same utterance",
            high=0.95,
            after=None,
        ),
    )

    def __init__(self, encoder: SpeechEncoder, cfg: CpcConfig, *, seed: int) -> None:
        super().__init__()
        if min(cfg.steps, cfg.first, cfg.within + cfg.across) < 1 or min(cfg.within, cfg.across) < 0:
            raise ConfigError(
                f"objective.steps = {cfg.steps}, first = {cfg.first}, within = {cfg.within}, across = {cfg.across}: "
                "at least one step, one frame ahead, and one negative are needed"
            )
        self.encoder = encoder
        encoder.mask_embedding.requires_grad = False  # nothing is masked, and weight decay would move it
        self.cfg = cfg
        self.seed = seed
        self.predict = Linear(encoder.dim, cfg.steps * encoder.frontend.dim, bias=False)
        torch.nn.init.normal_(self.predict.weight, std=0.02)
        among = self.candidates(cfg, 0)
        self.chance = {"contrastive": math.log(among), "accuracy": 1 / among, "last_accuracy": 1 / among}

    @staticmethod
    def candidates(cfg: CpcConfig, iteration: int) -> int:
        """Return how many latents are compared: the true one and the negatives."""
        del iteration
        return 1 + cfg.within + cfg.across

    def preparer(self, seed: int | None = None) -> CpcPreparer:
        """Return what draws negatives."""
        return CpcPreparer(self.encoder.frontend.grid, self.cfg, self.seed if seed is None else seed)

    def forward(self, prepared: CpcPrepared) -> Loss:
        """Return InfoNCE (equation 4) of all frames that predict, a mean over steps."""
        if prepared.n_targets == 0:
            return empty_loss(self.parameters())
        wave, context, negatives, n = prepared.batch.wave, prepared.context, prepared.negatives, prepared.n_targets
        output = self.encoder(wave, prepared.lengths)
        latents = self.encoder.normalise_features(output.features).flatten(0, 1)  # z, [B * F, C]
        predicted = at_least_float32(self.predict(context.pick(output.x))).view(n, self.cfg.steps, -1)  # W_k c
        steps = torch.arange(self.cfg.first, self.cfg.first + self.cfg.steps, device=wave.device)
        positives = context.frames[:, None] + steps
        with torch.autocast(wave.device.type, enabled=False):
            predicted = predicted / math.sqrt(predicted.shape[2])
            others = latents.index_select(0, negatives.flatten()).view(*negatives.shape, -1)
            true = latents.index_select(0, positives.flatten()).view_as(predicted)
            positive = (predicted * true).sum(dim=2)  # [N, K]
            itself = negatives[:, None] == positives[..., None]
            rivals = torch.bmm(predicted, others.mT).masked_fill(itself, -math.inf)  # [N, K, M]
            losses = torch.logsumexp(torch.cat([positive[..., None], rivals], dim=2), dim=2) - positive
            total = losses.mean(dim=1).sum()
            # A step without any negative that counts is not a success.
            correct = (positive > rivals.amax(dim=2)) & ~itself.all(dim=2)
        metrics = {
            "contrastive": total.detach() / n,
            "accuracy": correct.float().mean(),
            "last_accuracy": correct[:, -1].float().mean(),
            "negatives_counted": 1 - itself.float().mean(),
            "target_variance": cosine_rows(true[:, 0].detach()).var(dim=0, unbiased=False).sum(),
        }
        return Loss(sum=total, n_targets=n, metrics=metrics)
