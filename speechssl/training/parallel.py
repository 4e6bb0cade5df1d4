"""The ranks of one run: what torchrun started, which device each owns, and the few collectives the loop needs.

In: torchrun's environment, or nothing for one process. Out: ``Parallel``. Python numbers travel over gloo on the CPU,
so that agreeing on a count never waits for a GPU; gradients travel through DDP (NCCL on GPUs).
"""

import importlib
import json
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from speechssl.core.errors import ConfigError

__all__ = ["TIMEOUT_SECONDS", "Parallel", "start_parallel"]

TIMEOUT_SECONDS = 1800.0
"""How long a rank waits for the others (rank 0 may be validating); torchrun itself notices a rank that died at once."""

Summed = TypeVar("Summed", int, float, Tensor)

_stores: list[Any] = []
_groups = count()


@dataclass(frozen=True)
class Parallel:
    """One process among the ranks of a run. With one rank every method is a plain local operation."""

    world: int
    rank: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes files."""
        return self.rank == 0

    def sum(self, value: Summed) -> Summed:
        """Return the sum of ``value`` over ranks, of the same type (a collective; integers stay exact)."""
        if isinstance(value, Tensor):
            total = value.detach().clone()
            if self.world > 1:
                dist.all_reduce(total)
            return total
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
        dist.all_reduce(tensor)
        return type(value)(tensor.item())

    def any(self, value: bool) -> bool:
        """Return whether ``value`` is true on any rank (a collective)."""
        return bool(self.sum(int(value)))

    def all_finite(self, value: Tensor) -> bool:
        """Return whether every element of ``value`` is finite on every rank (a collective; waits for the device)."""
        return not self.any(not bool(torch.isfinite(value).all()))

    def gather(self, value: Any) -> list[Any]:
        """Return the ``value`` of every rank, in the order of ranks (a collective): JSON, and NaN and infinities."""
        if self.world == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(size) for size in sizes)
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(padded, torch.nn.functional.pad(data, (0, longest - len(data))))
        return [json.loads(bytes(row[: int(size)].numpy()).decode()) for row, size in zip(padded, sizes, strict=True)]

    def rows(self, value: Tensor) -> list[Tensor]:
        """Return the rows [N, ...] of every rank, detached, in the order of ranks (a collective; N may differ)."""
        value = value.detach()
        if self.world == 1:
            return [value]
        counts = self.gather(len(value))
        padded = value.new_zeros((max(1, *counts), *value.shape[1:]))
        padded[: len(value)] = value
        found = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(found, padded)
        return [rows[:count] for rows, count in zip(found, counts, strict=True)]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(0)

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return the module whose backward pass averages gradients over ranks (the objective itself with one rank).

        Call it again when the set of trainable parameters changed: DDP fixes that set when it is built.
        """
        if self.world == 1:
            return objective
        return DistributedDataParallel(
            objective,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # buffers are the same pure functions of the step on every rank
            gradient_as_bucket_view=True,
        )

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch: gradients are exchanged with the last one of a step only."""
        return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()

    def close(self) -> None:
        """Leave the group of ranks; its threads have ended on return.

        A group lives as long as anything refers to it. The frames of an exception in flight do (DDP, a collective that
        failed), so their variables are cleared; the traceback keeps its lines.
        """
        if self.world > 1 and dist.is_initialized():
            error = sys.exception()
            while error is not None:
                traceback.clear_frames(error.__traceback__)
                error = error.__context__
            dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("training.device is 'cuda' but torch sees no CUDA device; use 'cpu' or 'auto'")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own ({torch.cuda.device_count()} visible); "
            "lower torchrun's --nproc-per-node"
        )
    return torch.device("cuda", local_rank)


def _join(world: int, rank: int, backend: str, timeout: timedelta) -> None:
    """Join a group of ranks. The process may have left another one before (fine-tuning, then evaluation).

    The store of addresses outlives a group, and torch gives each first group the same name. So each group has a prefix
    of its own: without it, an early rank would connect to addresses of the group before.

    Leaving a group must end its threads. A thread of gloo that frees a tensor while the interpreter shuts down aborts
    the process ("terminate called without an active exception"): CPython 3.11 ends it inside a C++ destructor.
    torch._dynamo captures the default process group at import time; here it is imported before any group exists.
    """
    importlib.import_module("torch.distributed.nn.functional")
    if not _stores:
        _stores.append(next(iter(rendezvous("env://", rank, world, timeout=timeout)))[0])
    store = dist.PrefixStore(f"speechssl-{next(_groups)}", _stores[0])  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def start_parallel(device: Literal["auto", "cpu", "cuda"] = "auto", *, timeout: float = TIMEOUT_SECONDS) -> Parallel:
    """Join the ranks that torchrun started (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), or stand alone.

    Parameters
    ----------
    device
        ``auto`` takes the GPU of the local rank where there is one.
    timeout
        Seconds after which a collective that some rank never joins is an error.

    Raises
    ------
    ConfigError
        The device is not there.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1 and not dist.is_initialized():
        _join(world, rank, "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timedelta(seconds=timeout))
    return Parallel(world, rank, chosen)
