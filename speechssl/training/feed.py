"""Micro-batches for the loop: read, prepared, and copied to the device before they are wanted.

In: a stream of batches on the CPU. Out: prepared micro-batches on the device. On a GPU the next step is read and
prepared while the device still computes this one, and micro-batches are copied from pinned memory on a CUDA stream of
their own, beside the computation of the one in front. On a CPU everything happens when it is asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from speechssl.data.batch import Batch
from speechssl.objectives.base import Prepared

__all__ = ["Batches", "Copier", "CudaCopier", "Feed", "PlainCopier"]

Record = TypeVar("Record", bound=Prepared | Batch)


class Batches(Protocol):
    """What the loop needs of a stream (``data.stream.Stream`` is one)."""

    def step(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of a global step; number i of them is number i * world + rank over all."""

    @property
    def wait_seconds(self) -> float:
        """Seconds spent waiting for data since this was last read."""


class Copier(Protocol):
    """How a prepared micro-batch gets to the device."""

    ahead: bool
    """Whether it copies while the device computes."""

    def start(self, item: Prepared) -> Prepared:
        """Begin to copy."""

    def finish(self, item: Prepared) -> Prepared:
        """Return what ``start`` gave, safe to compute with."""


@dataclass(frozen=True)
class PlainCopier:
    """Copies when the copy is wanted."""

    device: torch.device
    ahead: bool = False

    def start(self, item: Prepared) -> Prepared:
        """Do nothing yet."""
        return item

    def finish(self, item: Prepared) -> Prepared:
        """Copy."""
        return item.to(self.device)


class CudaCopier:
    """Copies from pinned memory on a stream of its own; the host waits for nothing."""

    ahead = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def start(self, item: Prepared) -> Prepared:
        """Pin and begin to copy; what is pinned is kept until it has been copied (by PyTorch's allocator)."""
        with torch.cuda.stream(self._side):
            return _pinned(item).to(self._device)

    def finish(self, item: Prepared) -> Prepared:
        """Let the computing stream wait for the copy, and the memory for the computing stream."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._side)
        for tensor in _tensors(item):
            tensor.record_stream(computing)
        return item


class Feed:
    """The micro-batches of each step.

    Parameters
    ----------
    stream
        Gives a step's batches.
    prepare
        The objective's; of a batch only, so that it can be called before the step in front has been made.
    device
        Where they are computed with.
    copier
        How they get there; by default what suits the device.
    part
        Names what is being done, for the profile.
    """

    def __init__(
        self,
        stream: Batches,
        prepare: Callable[[Batch], Prepared],
        device: torch.device,
        *,
        copier: Copier | None = None,
        part: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._stream, self._prepare, self._part = stream, prepare, part
        self._copier = copier or (CudaCopier(device) if device.type == "cuda" else PlainCopier(device))
        self._next: tuple[int, tuple[list[Batch], list[Prepared]] | Exception] | None = None
        self._moving: tuple[Prepared, Prepared] | None = None

    def step(self, step: int) -> tuple[list[Batch], list[Prepared]]:
        """Return the micro-batches of a step and what the objective made of them, all on the CPU.

        Raises what reading and preparing them raise, also when that was done ahead.
        """
        known, self._next = self._next, None
        if known is None or known[0] != step:
            self._moving = None
            return self._made(step)
        if isinstance(known[1], Exception):
            raise known[1]
        return known[1]

    def ahead(self, step: int) -> None:
        """Read and prepare a step, and begin to copy its first micro-batch, where that costs the device no time."""
        if not self._copier.ahead:
            return
        try:
            made = self._made(step)
            self._next = (step, made)
            self._moving = (made[1][0], self._copier.start(made[1][0]))
        except Exception as error:  # of the step to come: it must not keep this one from being finished and saved
            self._next = (step, error)

    def on_device(self, items: Iterable[Prepared]) -> Iterator[Prepared]:
        """Yield micro-batches on the device. What the loop does with one is only queued there, so the next one's copy
        begins while it is computed.
        """
        for item in items:
            moving, self._moving = self._moving, None
            started = moving[1] if moving is not None and moving[0] is item else self._copier.start(item)
            yield self._copier.finish(started)

    def _made(self, step: int) -> tuple[list[Batch], list[Prepared]]:
        with self._part("loader"):
            batches = self._stream.step(step)
        with self._part("prepare"):
            return batches, [self._prepare(batch) for batch in batches]


def _pinned(record: Record) -> Record:
    """Return a copy of a record with every tensor, of the records in it too, in pinned memory."""
    changed: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            changed[item.name] = value.pin_memory()
        elif isinstance(value, Batch):
            changed[item.name] = _pinned(value)
    return replace(record, **changed)


def _tensors(record: Prepared | Batch) -> Iterator[Tensor]:
    """Yield every tensor of a record and of the records in it."""
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Batch):
            yield from _tensors(value)
