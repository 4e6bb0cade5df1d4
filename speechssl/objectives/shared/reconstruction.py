"""What objectives share that reconstruct the log-mel of clean speech: a head, an L1 loss, and what is watched.

In: the encoder's output at N frames, and clean waveforms. Out: a `Loss` that is summed over values, not over frames:
each frame has ``stack * n_mels`` of them, of which some may be no target. Chance is predicting the mean, which is 0, as
each channel is standardised over its utterance: ``relative_loss`` is 1 there, whatever the corpus.

A variational bottleneck (Kingma and Welling 2014, arXiv 1312.6114; ``beta`` of Higgins et al. 2017) is an option.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config.objectives import BottleneckConfig
from speechssl.core.errors import ConfigError
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.logmel import FrameLogMel
from speechssl.models.norm import LayerNorm, at_least_float32
from speechssl.models.transformer import linear
from speechssl.objectives.base import Curve, Loss, Objective, Rule

__all__ = [
    "CHANCE",
    "CURVES",
    "PREDICTION_COLLAPSE",
    "Bottleneck",
    "LogMelHead",
    "reconstruction_loss",
    "variational",
]

CHANCE = {"relative_loss": 1.0}
QUIET = 1e-3
"""Least mean absolute target that a loss is divided by. Speech has about 0.8; only digital silence has less."""

CURVES = (
    Curve(
        "relative_loss",
        "L1 loss, relative to predicting the mean",
        "L1 loss on log-mel, divided by the loss of predicting the mean of every channel; lower is better.",
        chance="loss",
        level=1.0,
        held_out=True,
    ),
    Curve(
        "prediction_spread",
        "Spread of the predictions, relative to the targets",
        "Standard deviation of predictions over frames, relative to that of the targets. A fall towards 0 is a "
        "collapse.",
        zero=True,
    ),
)
PREDICTION_COLLAPSE = Rule(
    metric="prediction_spread",
    finding="prediction_collapse",
    message="{name} is {value:.3f}: the same spectrum is predicted for practically every frame. Try a lower optim.lr "
    "or a longer warmup, and check that the audio is not silent",
    low=0.05,
)


class LogMelHead(nn.Module):
    """Predicts the log-mel of an encoder frame: linear, GELU, layer norm, linear (the prediction head of BERT).

    One module with the filterbank of its targets, so that continued pretraining takes both or neither.

    Parameters
    ----------
    n_mels
        Channels of each frame of 10 ms.
    grid
        Where the encoder's frames lie.
    dim
        Width D of the encoder's output.
    """

    def __init__(self, n_mels: int, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.mel = FrameLogMel(n_mels, grid)
        self.hidden = linear(dim, dim)
        self.norm = LayerNorm(dim)
        self.predict = linear(dim, self.mel.dim)

    def forward(self, context: Tensor) -> Tensor:
        """Return predictions [N, stack * n_mels] from [N, D], in at least float32."""
        return at_least_float32(self.predict(self.norm(functional.gelu(self.hidden(context)))))


def reconstruction_loss(predicted: Tensor, speech: Tensor, n_targets: int, hidden: Tensor | None = None) -> Loss:
    """Return sum_{n, i} h[n, i] |p[n, i] - s[n, i]|, with the metrics that `CURVES` and `PREDICTION_COLLAPSE` name.

    Parameters
    ----------
    predicted, speech
        p and s, [N, I]: what the head predicts, and standardised log-mel.
    n_targets
        Values that are targets: the sum of h, positive.
    hidden
        h, [N, I] bool; None for all values.
    """
    errors, sizes = (predicted - speech).abs(), speech.abs()
    if hidden is not None:
        errors, sizes = errors * hidden, sizes * hidden
    total = errors.sum()
    deviations = [values.detach().std(dim=0, correction=0).mean() for values in (predicted, speech)]
    metrics = {
        "l1": total.detach() / n_targets,
        "relative_loss": total.detach() / sizes.sum().clamp(min=QUIET * n_targets),
        "prediction_spread": deviations[0] / deviations[1].clamp(min=QUIET),
    }
    return Loss(sum=total, n_targets=n_targets, metrics=metrics)


KL = Curve(
    "kl",
    "Divergence of the latent variables (nats per frame)",
    "Kullback-Leibler divergence of the latent variables of a frame from the prior: what passes the bottleneck. At 0 "
    "nothing passes.",
    zero=True,
    held_out=True,
)
POSTERIOR_COLLAPSE = Rule(
    metric="kl",
    finding="posterior_collapse",
    message="{name} is {value:.4f} nats a frame: the latent variables follow the prior whatever is heard, so the head "
    "does without them. Lower objective.bottleneck.beta",
    low=0.05,
)


class Bottleneck(nn.Module):
    """Latent variables z of each frame between the encoder and the head: what the head knows of the frame.

    ``z = m + s * e`` with m and ln s^2 linear in the context, and e standard normal: drawn in training from torch's
    generator, as dropout is, and 0 in evaluation. Their divergence from the standard normal prior is
    ``sum_j (m_j^2 + s_j^2 - 1 - ln s_j^2) / 2`` a frame. With ``cfg.dim = 0`` there are no parameters, and the context
    passes as it is.

    Parameters
    ----------
    dim
        Width D of the encoder's output, to which z is widened again.
    """

    def __init__(self, dim: int, cfg: BottleneckConfig) -> None:
        super().__init__()
        if cfg.dim < 0 or cfg.beta < 0:
            raise ConfigError(f"objective.bottleneck: dim = {cfg.dim} and beta = {cfg.beta}: use 0 or more")
        self.cfg = cfg
        if cfg.dim:
            self.narrow = linear(dim, 2 * cfg.dim)
            self.widen = linear(cfg.dim, dim)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return [N, D] for the head, and the divergence summed over frames; None without a bottleneck."""
        if not self.cfg.dim:
            return context, None
        mean, log_variance = at_least_float32(self.narrow(context)).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        z = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return self.widen(z), divergence

    def joined(self, loss: Loss, divergence: Tensor | None, frames: int) -> Loss:
        """Return a loss of N frames with their weighted divergence."""
        if divergence is None:
            return loss
        metrics = loss.metrics | {"kl": divergence.detach() / frames}
        return replace(loss, sum=loss.sum + self.cfg.beta * divergence, metrics=metrics)


def variational(objective: type[Objective[Any]], cfg: BottleneckConfig) -> type[Objective[Any]]:
    """Return the class of an objective; with a bottleneck, one that declares its curve and its rule, too."""
    if not cfg.dim:
        return objective
    declared = {"title": f"{objective.title}, variational", "curves": (*objective.curves, KL)}
    return type(objective.__name__, (objective,), declared | {"rules": (*objective.rules, POSTERIOR_COLLAPSE)})
