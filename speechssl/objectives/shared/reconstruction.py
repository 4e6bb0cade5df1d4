"""What objectives share that reconstruct the log-mel of clean speech: a head, an L1 loss, and what is watched.

In: the encoder's output at N frames, and clean waveforms. Out: a `Loss` that is summed over values, not over frames:
each frame has ``stack * n_mels`` of them, of which some may be no target. Chance is predicting the mean, which is 0, as
each channel is standardised over its utterance: ``relative_loss`` is 1 there, whatever the corpus.
"""

from torch import Tensor, nn
from torch.nn import functional

from speechssl.models.frame_counts import FrameGrid
from speechssl.models.logmel import FrameLogMel
from speechssl.models.norm import LayerNorm, at_least_float32
from speechssl.models.transformer import linear
from speechssl.objectives.base import Curve, Loss, Rule

__all__ = ["CHANCE", "CURVES", "PREDICTION_COLLAPSE", "LogMelHead", "reconstruction_loss"]

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
