"""What the loop writes down: metrics, rows that could not be read, skipped steps, findings about the run's health.

In: numbers and batches, on every rank. Out: lines on rank 0's disk, and the same decision to stop on every rank.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from speechssl.config import TrainingConfig
from speechssl.core.errors import RunError
from speechssl.core.ledger import Entry, Ledger
from speechssl.core.tolerance import TooManyBadError
from speechssl.data.batches.batch import BatchSummary
from speechssl.training.checkpoints.state import TrainingState
from speechssl.training.monitoring.health import Health
from speechssl.training.monitoring.log import Progress, read_metrics
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import RunFolder

__all__ = ["Journal", "fingerprint"]

logger = logging.getLogger("speechssl.train")

SHOWN = ("loss", "lr", "grad_norm", "throughput", "loader_wait", "skipped")
"""Metrics shown beside the progress bar."""
HELD_OUT_SHOWN = ("valid_loss", "valid_accuracy")
"""Those of validation in pretraining, which has every metric of the objective."""


def fingerprint(module: nn.Module) -> int:
    """Return the exact sum of the bit patterns of all weights and buffers: equal on ranks that have not diverged."""
    sums = []
    for value in module.state_dict().values():
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        sums.append(value.contiguous().view(kind).sum(dtype=torch.int64))
    return sum(torch.stack(sums).tolist()) if sums else 0


class Journal:
    """Writes on rank 0; its methods are collectives where ranks must agree or bring something along.

    As a context it writes down, when an error ends the run, what only this rank remembers.
    """

    def __init__(
        self, run: RunFolder, parallel: Parallel, training: TrainingConfig, progress: Progress, health: Health
    ) -> None:
        self.run, self.parallel, self.training = run, parallel, training
        self.progress, self.health = progress, health
        self._rejected: list[Entry] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TooManyBadError):
            self._rejected += error.entries
        if error is None or not self._rejected:
            return
        if self.parallel.first:
            self.run.record(self._rejected)
        else:  # the other ranks no longer take part in collectives
            Ledger(self.run.path / "ledger.jsonl").extend(self._rejected)
        self._rejected = []

    def begin(self, start: int) -> None:
        """Cut off the steps that are done again, and let the health checks see those that are not.

        A run's first line is the level of chance, where there is one.
        """
        self.run.metrics.cut(start)
        if self.parallel.first:
            lines = read_metrics(self.run.metrics.path)
            if self.health.chance and not any(line.get("phase") == "chance" for line in lines):
                self.run.metrics.append(start, "chance", self.health.chance)
            for line in lines:
                if line.get("phase") in {"train", "valid"}:
                    self.health.watch(int(line["step"]), line)

    def rejected(self, batch: BatchSummary) -> None:
        """Remember the rows of a micro-batch that were replaced by silence."""
        self._rejected += batch.rejected

    def flush(self) -> None:
        """Write what every rank remembers to the ledger (a collective)."""
        for entries in self.parallel.gather([asdict(entry) for entry in self._rejected]):
            self.run.record(Entry(**entry) for entry in entries)
        self._rejected = []

    def skipped(self, step: int, batches: Sequence[BatchSummary], reason: str, state: TrainingState) -> None:
        """Write down a step without an update, with the ids of all its utterances (a collective).

        Raises RunError when it is the ``max_skips``-th in a row.
        """
        state.skipped += 1
        state.skips_in_row += 1
        ids = [
            name for rank in self.parallel.gather([name for batch in batches for name in batch.ids]) for name in rank
        ]
        detail = f"step {step} was skipped on all ranks"
        self.run.record(Entry(self.run.stage, name, reason, detail, "dropped") for name in ids)
        values = {"name": "skipped_step", "severity": "warning", "message": f"no update: {reason}", "ids": ids}
        self.run.metrics.append(step + 1, "health", values)
        logger.warning("step %d: no update (%s), utterances %s", step, reason, ", ".join(ids[:8]))
        if state.skips_in_row >= self.training.max_skips:
            hint = (
                "Lower optim.lr, or set training.precision to 'fp32'; the utterances are listed in the ledger"
                if reason == "non_finite_gradient"
                else "Check the audio and the mask settings: no utterance of these steps has anything to predict"
            )
            raise RunError(
                f"{state.skips_in_row} steps in a row without an update ({reason}), up to step {step}. {hint} "
                f"({self.run.path / 'ledger.jsonl'})"
            )

    def train(self, step: int, values: dict[str, Any], objective: nn.Module) -> None:
        """Write a line of training metrics (a collective).

        Raises RunError when ranks hold different weights, or the run has collapsed and ``on_collapse`` is "stop".
        """
        self.flush()
        self.run.metrics.append(step, "train", values)
        self.progress.report(step, {name: values[name] for name in SHOWN if name in values})
        self._compare_ranks(step, objective)
        self._diagnose(step, values)

    def validation(self, step: int, values: dict[str, Any]) -> None:
        """Write a line of validation metrics (a collective); raises as ``train`` does."""
        self.run.metrics.append(step, "valid", values)
        few = {name: values[name] for name in HELD_OUT_SHOWN if name in values}
        self.progress.report(step, few or values)
        self._diagnose(step, values)

    def _compare_ranks(self, step: int, objective: nn.Module) -> None:
        if self.parallel.world > 1:
            prints = self.parallel.gather(fingerprint(objective))
            if strangers := [rank for rank, value in enumerate(prints) if value != prints[0]]:
                raise RunError(
                    f"after step {step} the weights of rank(s) {strangers} differ from those of rank 0: the ranks have "
                    "diverged. Suspect faulty memory, or different software on the machines; resume from a checkpoint"
                )

    def _diagnose(self, step: int, values: dict[str, Any]) -> None:
        stop = ""
        if self.parallel.first:
            for finding in self.health.watch(step, values):
                self.run.metrics.append(step, "health", asdict(finding))
                logger.warning("%s: %s", finding.name, finding.message)
                if finding.severity == "collapse" and self.training.on_collapse == "stop":
                    stop = f"step {step}: {finding.name}: {finding.message}"
        if stop := self.parallel.gather(stop)[0]:
            raise RunError(stop)
