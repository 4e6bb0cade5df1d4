"""The weights that validated best, and their mean (ESPnet's average of the n best; Izmailov et al. 2018).

In: the weights in place at each validation, and its value. Out: the best of them in ``checkpoints/best-STEP/``, and the
mean of every parameter. The disk holds as many weights as are averaged; averaging needs the memory of three.
"""

import logging
import math
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import CheckpointError
from speechssl.objectives.base import Objective
from speechssl.training.checkpoints.checkpoint import Checkpoints, State
from speechssl.training.monitoring.log import MetricsLog, read_metrics
from speechssl.training.parallel import Parallel

__all__ = ["Leaders", "Mean", "mean_of"]

logger = logging.getLogger("speechssl.train")


@dataclass(frozen=True)
class Mean:
    """The mean of the weights that validated best."""

    steps: tuple[int, ...]
    """Steps of the weights, increasing."""
    value: float
    """Its own validation value."""


class Leaders:
    """The ``count`` weights with the lowest validation values; of equal values the later ones. Only rank 0 writes.

    What is kept depends on the set of validations alone: validations that are done again after a resume give the same.
    """

    def __init__(self, checkpoints: Checkpoints, count: int, parallel: Parallel) -> None:
        self.checkpoints, self.count, self.parallel = checkpoints, count, parallel
        self._values: dict[int, float] = {}
        for path in sorted(checkpoints.folder.glob("best-*")) if parallel.first else ():
            if not re.fullmatch(r"best-\d{8,}", path.name):
                continue
            try:
                state = checkpoints.load(path)
                self._values[state["step"]] = float(state["value"])
            except CheckpointError as error:
                logger.warning("left out of the mean of the best weights: %s", error)

    def path(self, step: int) -> Path:
        """Return the folder of the weights of a step."""
        return self.checkpoints.folder / f"best-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of the weights that are kept, increasing; empty on the other ranks."""
        return sorted(self._ranked()[: self.count])

    def _ranked(self) -> list[int]:
        return sorted(self._values, key=lambda step: (self._values[step], -step))

    def keep(self, step: int, value: float, weights: State) -> None:
        """Write the weights of a validation, if they are among the best, and remove those that no longer are.

        A failure is a warning: the weights are then not among those that are averaged.
        """
        if not self.parallel.first:
            return
        if math.isfinite(value):
            self._values[step] = value
            if step in self.steps():
                try:
                    self.checkpoints.save(step, {"objective": weights, "value": value}, place=self.path(step))
                except CheckpointError as error:
                    logger.warning("left out of the mean of the best weights: %s", error)
                    del self._values[step]
        for worse in self._ranked()[self.count :]:
            shutil.rmtree(self.path(worse), ignore_errors=True)
            del self._values[worse]

    def mean(self, steps: Iterable[int]) -> State:
        """Return the mean of the weights of ``steps``.

        Raises CheckpointError when one of them is damaged.
        """
        return mean_of(self.checkpoints.load(self.path(step))["objective"] for step in steps)

    def validated_mean(
        self,
        objective: Objective[Any],
        validate: Callable[[], dict[str, float]],
        *,
        select: str,
        step: int,
        metrics: MetricsLog,
    ) -> Mean | None:
        """Validate the mean of the weights that are kept (a collective); None where there are fewer than two.

        ``validate`` is called with the mean in ``objective``. A line ``average`` of the metrics gets its values and the
        steps of the weights; a run that has that line already is not validated again.

        Raises CheckpointError when weights that were kept are damaged.
        """
        steps, scores = self.parallel.gather([self.steps(), self._scores(metrics)])[0]
        if len(steps) < 2:
            return None
        if scores is None:
            objective.load_state_dict(self.mean(steps))
            objective.eval()
            with torch.no_grad():
                scores = self.parallel.gather(validate())[0]
            objective.train()
            metrics.append(step, "average", {**scores, "steps": steps})
        return Mean(tuple(steps), float(scores[select]))

    def _scores(self, metrics: MetricsLog) -> dict[str, Any] | None:
        lines = read_metrics(metrics.path) if self.parallel.first else []
        found = (line for line in reversed(lines) if line.get("phase") == "average")
        return next((line for line in found if line["steps"] == self.steps()), None)


def mean_of(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of every floating-point tensor over states with the same names, at least one.

    Sums are float64, so that the mean of float32 is rounded once. Tensors of other types are those of the first state.
    """
    sums: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        count += 1
        for name, value in state.items():
            if name not in sums:
                kinds[name] = value.dtype
                sums[name] = value.to(torch.float64, copy=True) if value.is_floating_point() else value
            elif value.is_floating_point():
                sums[name] += value
    return {
        name: (total / count).to(kinds[name]) if kinds[name].is_floating_point else total
        for name, total in sums.items()
    }
