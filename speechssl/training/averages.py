"""Metrics between two log lines, added up on the device and read once: the loop does not wait (design.md, promise 5).

In: losses and counts of each step. Out: one dictionary, averaged over steps, micro-batches and ranks.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from speechssl.data.batches.batch import BatchSummary
from speechssl.objectives.base import Loss
from speechssl.training.parallel import Parallel

__all__ = ["Window"]


class Window:
    """Collects steps until ``close``; a skipped step leaves no trace in the averages of the losses."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._weights: dict[tuple[str, ...], int] = {}
        self._pending: list[tuple[tuple[str, ...], Tensor, int]] = []
        self._began = time.perf_counter()
        self._targets = self._steps = 0
        self._norms: list[Tensor] = []
        self._audio = self._wait = 0.0

    def add(self, loss: Loss, n_targets: int) -> None:
        """Add one micro-batch of the step in progress."""
        weight = n_targets if loss.metrics_weight is None else loss.metrics_weight
        values = torch.stack([loss.sum.detach(), *(value * weight for value in loss.metrics.values())])
        self._pending.append((tuple(loss.metrics), values.double(), weight))

    def step(self, batches: Sequence[BatchSummary], *, wait_seconds: float, total: int, norm: Tensor | None) -> None:
        """End a step: its micro-batches on this rank, the seconds spent waiting for them, its targets over all ranks.

        ``norm`` is the global gradient norm, or None for a skipped step, whose losses are then forgotten.
        """
        self._steps += 1
        self._audio += sum(batch.seconds for batch in batches)
        self._wait += wait_seconds
        if norm is not None:
            self._norms.append(norm)
            self._targets += total
            for names, values, weight in self._pending:
                self._sums[names] = self._sums[names] + values if names in self._sums else values
                self._weights[names] = self._weights.get(names, 0) + weight
        self._pending = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent inside: validation and saving are not training."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def close(self, parallel: Parallel) -> dict[str, Any]:
        """Return the averages over all ranks (a collective) and start the next window.

        Keys: ``loss`` (per target), every metric (by its weight), ``grad_norm`` and ``grad_norm_max``,
        ``n_targets``, ``audio_seconds`` and ``step_seconds`` (means per step; the audio is that of all ranks),
        ``throughput`` (seconds of audio per second), ``loader_wait`` (share of the time, of the slowest rank).
        """
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        sums: dict[str, float] = {"loss": 0.0}
        weights: dict[str, int] = {}
        for names, values in self._sums.items():
            loss, *means = values.tolist()
            sums["loss"] += loss
            for name, value in zip(names, means, strict=True):
                sums[name] = sums.get(name, 0.0) + value
                weights[name] = weights.get(name, 0) + self._weights[names]
        mine = {"sums": sums, "weights": weights, "audio": self._audio, "wait": self._wait / elapsed}
        ranks = parallel.gather(mine)
        result: dict[str, Any] = {}
        if self._norms:
            result["loss"] = sum(rank["sums"]["loss"] for rank in ranks) / max(1, self._targets)
        for name in dict.fromkeys(name for rank in ranks for name in rank["weights"]):
            weight = sum(rank["weights"].get(name, 0) for rank in ranks)
            result[name] = sum(rank["sums"].get(name, 0.0) for rank in ranks) / max(1, weight)
        if self._norms:
            norms = torch.stack(self._norms)
            result["grad_norm"], result["grad_norm_max"] = torch.stack([norms.mean(), norms.max()]).tolist()
        audio, steps = sum(rank["audio"] for rank in ranks), max(1, self._steps)
        result["n_targets"] = round(self._targets / max(1, len(self._norms)))
        result["audio_seconds"] = audio / steps
        result["step_seconds"] = elapsed / steps
        result["throughput"] = audio / elapsed
        result["loader_wait"] = min(1.0, max(rank["wait"] for rank in ranks))
        self._reset()
        return result
