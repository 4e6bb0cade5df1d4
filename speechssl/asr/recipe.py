"""How long to fine-tune, by hours of labels.

In: hours of transcribed audio. Out: settings of the loop. Epochs follow public recipes from random weights: AN4 (0.6 h)
70 with deepspeech.pytorch and 200 with ESPnet, LibriSpeech (100 h) 70 with ESPnet and 30 with icefall on three speeds.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from speechssl.config import TrainingConfig

__all__ = ["Recipe", "recipe_for"]

EPOCHS = ((0.1, 300.0), (1.0, 150.0), (10.0, 80.0), (100.0, 60.0))
"""Hours of labels and epochs; between them epochs are a power of the hours, beyond them constant."""
VALIDATIONS = 40
"""Validations in a run."""
FEWEST_UPDATES = 50
"""Between two validations: dev audio costs time, too."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the loop for fine-tuning."""

    epochs: float
    patience: int = VALIDATIONS // 4
    average: int = 5

    def applied(self, training: TrainingConfig, updates_per_epoch: float) -> TrainingConfig:
        """Return ``training`` with this recipe; ``updates_per_epoch`` are those of the plan."""
        every = max(FEWEST_UPDATES, round(self.epochs * updates_per_epoch / VALIDATIONS))
        own = replace(training, epochs=self.epochs, validate_every=every)
        return replace(own, patience=self.patience, average=self.average)


def recipe_for(hours: float) -> Recipe:
    """Return the recipe for ``hours`` of transcribed audio, above 0."""
    hours = min(max(hours, EPOCHS[0][0]), EPOCHS[-1][0])
    (low, many), (high, few) = next(pair for pair in pairwise(EPOCHS) if hours <= pair[1][0])
    share = math.log(hours / low) / math.log(high / low)
    return Recipe(float(round(many * (few / many) ** share)))
