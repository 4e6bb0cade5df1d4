"""Everything about a run that changes while it trains, as one checkpoint sees it.

The position in the data and all randomness are functions of the step (docs/design.md, promise 2), so neither is here.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from speechssl.core.errors import CheckpointError
from speechssl.objectives.base import Objective
from speechssl.training.checkpoints.checkpoint import Checkpoints, State
from speechssl.training.checkpoints.leaders import Leaders, Mean
from speechssl.training.ema import WeightAverage
from speechssl.training.parallel import Parallel

__all__ = ["SAVE_ATTEMPTS", "TrainingState"]

SAVE_ATTEMPTS = 3
"""Consecutive failed saves after which the run stops; until then it goes on, with a warning each."""

logger = logging.getLogger("speechssl.train")


@dataclass
class TrainingState:
    """Weights, optimiser, average of the weights, and the counters that decisions depend on."""

    objective: Objective
    optimizer: Optimizer
    average: WeightAverage | None = None
    skipped: int = 0
    """Steps without an update so far."""
    skips_in_row: int = 0
    failed_saves: int = 0
    """Consecutive saves that failed."""
    best_step: int | None = None
    best_value: float | None = None
    """Lowest validation value and its step; ``best/`` itself remembers them, so a checkpoint need not."""
    history: list[tuple[int, float]] = field(default_factory=list)
    """Step and value of each validation that is due, up to the checkpoint: what early stopping depends on."""

    def to_dict(self) -> State:
        """Return tensors, numbers and dictionaries only: what ``torch.load(weights_only=True)`` takes."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "average": None if self.average is None else self.average.state_dict(),
            "skipped": self.skipped,
            "skips_in_row": self.skips_in_row,
            "history": list(self.history),
        }

    def restore(self, saved: State) -> None:
        """Take back a checkpoint. Settings of the optimiser come from the configuration, its moments from the
        checkpoint.

        Raises CheckpointError when the checkpoint belongs to another model.
        """
        try:
            self.objective.load_state_dict(saved["objective"])
            settings = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": saved["optimizer"], "param_groups": settings})
            if self.average is not None and saved["average"] is not None:
                self.average.load_state_dict(saved["average"])
            elif self.average is not None:
                self.average = WeightAverage(self.objective, self.average.decay)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint of step {saved['step']} does not fit this configuration: {error}. "
                "Use the configuration it was made with, or another output folder"
            ) from error
        self.skipped, self.skips_in_row = saved["skipped"], saved["skips_in_row"]
        self.history = [(step, value) for step, value in saved.get("history", ())]

    def resume(self, checkpoints: Checkpoints, parallel: Parallel) -> int:
        """Take back the newest whole checkpoint, the same on every rank; return the number of steps done (0: none).

        Raises CheckpointError when there are checkpoints but none is whole, or the newest belongs to another model.
        """
        found = checkpoints.newest() if parallel.first else None
        step = int(parallel.gather(found[0] if found else 0)[0])
        if step:
            self.restore(found[1] if found else checkpoints.load(checkpoints.path(step)))
        kept = _best(checkpoints) if parallel.first else None
        self.best_step, self.best_value = parallel.gather(kept)[0] or (None, None)
        return step

    def save(self, step: int, checkpoints: Checkpoints, parallel: Parallel, *, must: bool) -> None:
        """Write a checkpoint from rank 0 while the others wait; all ranks learn whether it worked.

        Raises CheckpointError when it failed, and it was needed (``must``) or it is the ``SAVE_ATTEMPTS``-th in a row.
        """
        problem = ""
        if parallel.first:
            try:
                checkpoints.save(step, self.to_dict())
            except CheckpointError as error:
                problem = str(error)
        problem = parallel.gather(problem)[0]
        self.failed_saves = self.failed_saves + 1 if problem else 0
        if problem and (must or self.failed_saves >= SAVE_ATTEMPTS):
            raise CheckpointError(problem)
        if problem:
            logger.warning("going on without a checkpoint (%d of %d): %s", self.failed_saves, SAVE_ATTEMPTS, problem)

    def keep_best(self, step: int, value: float, checkpoints: Checkpoints, parallel: Parallel) -> None:
        """Write the weights that are in place to ``best/`` if ``value`` is the lowest so far."""
        if not value < (math.inf if self.best_value is None else self.best_value):
            return
        problem = ""
        if parallel.first:
            try:
                checkpoints.save(step, {"objective": self.objective.state_dict(), "value": value}, best=True)
            except CheckpointError as error:
                problem = str(error)
        if problem := parallel.gather(problem)[0]:
            logger.warning("the best weights so far were not kept: %s", problem)
        else:
            self.best_step, self.best_value = step, value

    def waited(self, start: int) -> int:
        """Return the validations after step ``start`` that came after the lowest value, the first of equal ones."""
        best = min(self.history, key=lambda item: item[1], default=(0, 0.0))[0]
        return sum(step > max(best, start) for step, _ in self.history)

    def is_best(self, mean: Mean | None) -> bool:
        """Whether the mean of the best weights is at least as good as the best single ones."""
        return mean is not None and mean.value <= (math.inf if self.best_value is None else self.best_value)

    def take_best(self, checkpoints: Checkpoints, mean: Mean | None = None, leaders: Leaders | None = None) -> None:
        """Put the weights to export in place.

        They are the mean of the best where that is best, those of ``best/`` if there are any, otherwise the last
        (averaged) ones.
        """
        if mean is not None and leaders is not None and self.is_best(mean):
            self.objective.load_state_dict(leaders.mean(mean.steps))
        elif self.best_step is not None and (found := checkpoints.best()) is not None:
            self.objective.load_state_dict(found[1]["objective"])
        elif self.average is not None:
            self.average.copy_to_module()

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Put the weights that are validated and exported in place (their average, where one is kept), in eval mode."""
        self.objective.eval()
        try:
            with torch.no_grad():
                if self.average is None:
                    yield
                else:
                    with self.average.applied():
                        yield
        finally:
            self.objective.train()


def _best(checkpoints: Checkpoints) -> tuple[int, float] | None:
    try:
        found = checkpoints.best()
    except CheckpointError as error:
        logger.warning("the best weights so far are lost; later ones will take their place: %s", error)
        return None
    return None if found is None else (found[0], float(found[1]["value"]))
