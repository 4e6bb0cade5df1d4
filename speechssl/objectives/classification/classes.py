"""What pretext tasks share that tell the class of a whole utterance: its audio, a head, and a loss.

In: a CPU batch, and for each utterance its changed audio, a class, and S segments whose frames are averaged. Out: the
cross-entropy of the class, summed over utterances. The mean outputs of the S segments, side by side, go to the head.
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
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.norm import at_least_float32
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
    """N utterances of a batch that have a class: ``n_targets`` of them."""

    audio: Tensor
    """[N, T] what the encoder hears, in floating point with full scale 1."""
    lengths: Tensor | None
    """[N] int64 samples in each row, or None when none is padded."""
    segments: Tensor
    """[N, S, F] float32: the weight of each frame in the mean of a segment, 0 outside."""
    classes: Tensor
    """[N] int64."""

    @classmethod
    def of(
        cls,
        batch: Batch,
        grid: FrameGrid,
        audio: Sequence[np.ndarray],
        classes: Sequence[int],
        spans: Sequence[Sequence[tuple[int, int]]],
    ) -> Self:
        """Return a CPU batch with the audio and the classes of its utterances.

        ``spans`` are the S segments of each: first frame and number of frames.
        """
        lengths = [len(wave) for wave in audio]
        width = max(lengths, default=0)
        padded = np.zeros((len(audio), width), dtype=np.float64 if batch.wave.dtype == torch.float64 else np.float32)
        segments = np.zeros((len(audio), len(spans[0]) if spans else 0, grid.frames(width)), dtype=np.float32)
        for row, wave in enumerate(audio):
            padded[row, : len(wave)] = wave
            for segment, (first, frames) in enumerate(spans[row]):
                segments[row, segment, first : first + frames] = 1 / frames
        return cls(
            batch=batch,
            n_targets=len(classes),
            audio=torch.from_numpy(padded),
            lengths=torch.tensor(lengths) if min(lengths, default=0) < width else None,
            segments=torch.from_numpy(segments),
            classes=torch.tensor(classes, dtype=torch.int64),
        )


def utterances(batch: Batch) -> list[tuple[str, np.ndarray]]:
    """Return the id and the samples of each row of a CPU batch that has weight, with full scale 1."""
    rows = zip(batch.ids, full_scale(batch.wave).numpy(), batch.lengths.tolist(), batch.weights.tolist(), strict=True)
    return [(item, wave[:length]) for item, wave, length, weight in rows if weight > 0]


class ClassHead(nn.Module):
    """Scores the K classes of utterances: linear for one segment; for S > 1 with a hidden layer that compares them."""

    def __init__(self, dim: int, classes: int, *, segments: int = 1) -> None:
        super().__init__()
        self.hidden = nn.Sequential(linear(segments * dim, dim), nn.GELU()) if segments > 1 else nn.Identity()
        self.predict = linear(dim, classes)

    def forward(self, x: Tensor, segments: Tensor) -> Tensor:
        """Return [N, K] scores, in at least float32, of the encoder's output [N, F, D] and weights [N, S, F]."""
        outside = segments.sum(dim=1) == 0  # padding among them, where the output is undefined
        means = segments.to(x.dtype) @ x.masked_fill(outside[..., None], 0.0)
        return at_least_float32(self.predict(self.hidden(means.flatten(1))))


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
