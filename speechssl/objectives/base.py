"""What every objective offers to the training loop: prepare on the CPU, then turn prepared tensors into a loss.

``prepare`` draws masks, negatives and targets (pure functions of seed, epoch and utterance id), so the number of
targets is known before any forward pass and the loss can be normalised by its sum over micro-batches and ranks.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from speechssl.data.batch import Batch

__all__ = ["Loss", "Objective", "Prepared"]


@dataclass(frozen=True)
class Loss:
    """A loss as a sum, so that it can be normalised over accumulation and ranks."""

    sum: Tensor
    """Scalar, float32: the sum over targets, regularisers already multiplied by ``n_targets``."""
    n_targets: int
    """Frames with a target (pretraining) or utterances (CTC) that the sum runs over."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Scalars on the device, detached, each a mean over this micro-batch; the loop averages them by their weight."""
    metrics_weight: int | None = None
    """Weight of the metrics in an average over micro-batches; None: ``n_targets``."""


@dataclass(frozen=True)
class Prepared:
    """A batch with everything random already drawn. Objectives subclass it and add tensors (or None)."""

    batch: Batch
    n_targets: int

    def to(self, device: torch.device | str) -> Self:
        """Return a copy with every tensor, and the batch, on ``device``."""
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, batch=self.batch.to(device), **moved)


class Objective(nn.Module):
    """Base of pretext tasks and of CTC fine-tuning."""

    chance: dict[str, float]
    """Metric name -> value that a model which has learnt nothing would show (for training/health.py)."""
    seed: int = 0
    """Key of what ``prepare`` draws; validation draws by a key of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = {}

    def prepare(self, batch: Batch) -> Prepared:
        """Draw masks and targets for a CPU batch, whose samples may be int16. Rows with weight 0 get no targets.

        A function of the batch alone: on a GPU it is called before the step in front has been made.
        """
        raise AssertionError(f"{type(self).__name__} does not define prepare (batch of {len(batch.ids)})")

    def forward(self, prepared: Prepared) -> Loss:
        """Return the loss of one prepared micro-batch (on the model's device)."""
        raise AssertionError(f"{type(self).__name__} does not define forward ({prepared.n_targets} targets)")

    def begin_step(self, step: int) -> bool:
        """Set what depends on the step (temperature, freezing); return whether the trainable parameters changed."""
        del step
        return False

    def exported(self) -> dict[str, Tensor]:
        """Return the heads that a continued pretraining takes back, by name: everything but the encoder.

        An objective with a second encoder (a teacher) overrides this, and leaves it out.
        """
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    def after_update(self, step: int) -> None:
        """Do what follows an optimiser step (an EMA teacher); ``step`` is the number of updates made so far."""
        del step
