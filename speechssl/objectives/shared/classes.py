"""What pretext tasks share that tell the class of a whole utterance: its pieces, a head, and a loss.

In: a CPU batch, and for each utterance S pieces of audio and a class. Out: the cross-entropy of the class, summed over
utterances. The encoder hears each piece alone; its output is averaged over the frames of a piece, and the means of the
S pieces, side by side, go to the head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.data.batches.batch import Batch, Prepared, full_scale
from speechssl.models.encoder import EncoderOutput
from speechssl.models.norm import at_least_float32, frame_mask
from speechssl.models.transformer import linear
from speechssl.objectives.base import Curve, Loss, Rule

__all__ = ["CURVES", "RULES", "ClassHead", "ClassPrepared", "chance", "class_loss", "utterances"]

CURVES = (
    Curve(
        "class_loss",
        "Class loss (nats per utterance)",
        "Cross-entropy of the class of an utterance; lower is better.",
        chance="loss",
        held_out=True,
    ),
    Curve(
        "accuracy",
        "Accuracy (% of the utterances)",
        "How often the right class is ranked first.",
        chance="accuracy",
        scale=100.0,
        zero=True,
        held_out=True,
    ),
    Curve("class_share", "Share of the class", "How often each class was drawn.", zero=True, groups=True),
)
RULES = (
    Rule(
        metric="class_share",
        finding="class_not_drawn",
        message="{name} is 0: no utterance got this class since the last line of metrics. Check how classes are drawn; "
        "if few utterances are seen between two lines, raise training.log_every",
        low=1e-6,
        severity="warning",
    ),
    Rule(
        metric="accuracy",
        finding="class_betrayed",
        message="{name} is {value:.3f} at step {step}: nothing is left to learn. If it was so early, something else "
        "than speech betrays the class (silence, a band limit). Choose classes that are harder to tell apart",
        high=0.995,
        after=None,
        severity="warning",
    ),
)


def chance(classes: int) -> dict[str, float]:
    """Return the metrics of a model that has learnt nothing, of equally likely classes."""
    return {"class_loss": math.log(classes), "accuracy": 1 / classes}


@dataclass(frozen=True)
class ClassPrepared(Prepared):
    """N utterances of a batch that have a class: ``n_targets`` of them, with S pieces each."""

    pieces: Tensor
    """[N * S, L] audio in floating point with full scale 1, the pieces of an utterance one after another."""
    lengths: Tensor | None
    """[N * S] int64 samples of each piece, or None when none is padded."""
    classes: Tensor
    """[N] int64."""

    @classmethod
    def of(cls, batch: Batch, pieces: Sequence[np.ndarray], classes: Sequence[int]) -> Self:
        """Return a CPU batch with the pieces and classes of its utterances."""
        lengths = [len(piece) for piece in pieces]
        width = max(lengths, default=0)
        padded = np.zeros((len(pieces), width), dtype=np.float64 if batch.wave.dtype == torch.float64 else np.float32)
        for row, piece in zip(padded, pieces, strict=True):
            row[: len(piece)] = piece
        return cls(
            batch=batch,
            n_targets=len(classes),
            pieces=torch.from_numpy(padded),
            lengths=torch.tensor(lengths) if min(lengths, default=0) < width else None,
            classes=torch.tensor(classes, dtype=torch.int64),
        )


def utterances(batch: Batch) -> list[tuple[str, np.ndarray]]:
    """Return the id and the samples of each row of a CPU batch that has weight, with full scale 1."""
    rows = zip(batch.ids, full_scale(batch.wave).numpy(), batch.lengths.tolist(), batch.weights.tolist(), strict=True)
    return [(item, wave[:length]) for item, wave, length, weight in rows if weight > 0]


class ClassHead(nn.Module):
    """Scores the K classes of utterances: linear for one piece; for more, with a hidden layer that compares them."""

    def __init__(self, dim: int, classes: int, *, pieces: int = 1) -> None:
        super().__init__()
        self.pieces = pieces
        self.hidden = nn.Sequential(linear(pieces * dim, dim), nn.GELU()) if pieces > 1 else nn.Identity()
        self.predict = linear(dim, classes)

    def forward(self, output: EncoderOutput) -> Tensor:
        """Return [N, K] scores, in at least float32, of what the encoder made of N * S pieces."""
        x, lengths = output.x, output.frame_lengths
        if lengths is None:
            means = x.mean(dim=1)
        else:
            valid = frame_mask(lengths, x.shape[1])
            means = x.masked_fill(~valid[..., None], 0.0).sum(dim=1) / lengths[:, None]
        return at_least_float32(self.predict(self.hidden(means.view(-1, self.pieces * x.shape[2]))))


def class_loss(logits: Tensor, classes: Tensor) -> Loss:
    """Return -sum_n log softmax(logits[n])[classes[n]] of N >= 1 utterances, with the metrics of `CURVES`."""
    total = functional.cross_entropy(logits, classes, reduction="sum")
    shares = (classes[:, None] == torch.arange(logits.shape[1], device=classes.device)).float().mean(dim=0)
    metrics = {
        "class_loss": total.detach() / len(classes),
        "accuracy": (logits.argmax(dim=1) == classes).float().mean(),
        **{f"class_share_{number}": share for number, share in enumerate(shares)},
    }
    return Loss(sum=total, n_targets=len(classes), metrics=metrics)
