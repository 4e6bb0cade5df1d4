"""Micro-batches for the loop: prepared by the loader, copied to the device before they are wanted.

In: a stream of prepared micro-batches on the CPU. Out: the same on the device, one by one. On a GPU a thread takes the
next one from the loader, pins it and begins its copy on a CUDA stream of its own, while the device computes the one in
front. On a CPU everything happens when it is asked for. Either way a bounded number is held at a time, however many
micro-batches a step has.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from speechssl.core.errors import RunError
from speechssl.data.batches.batch import BatchSummary, each_tensor, with_tensors
from speechssl.objectives.base import Prepared, PreparedT

__all__ = ["AHEAD", "Batches", "Copier", "CudaCopier", "Delivered", "Feed", "PlainCopier"]

AHEAD = 1
"""Micro-batches that wait on the device, on a GPU; one more is on its way."""
PATIENCE = 5.0
"""Seconds that ``close`` waits for the thread. It is a daemon: a disk that hangs does not keep the program alive."""

Prepared_co = TypeVar("Prepared_co", bound=Prepared, covariant=True)


class Batches(Protocol[Prepared_co]):
    """What the loop needs of a stream (``data.batches.stream.Stream`` is one)."""

    @property
    def share(self) -> int:
        """Micro-batches of each step on this rank."""

    def step(self, step: int) -> Iterator[Prepared_co]:
        """Yield this rank's micro-batches of a global step; number i of them is number i * world + rank over all."""


class Copier(Protocol):
    """How a prepared micro-batch gets to the device."""

    ahead: bool
    """Whether it copies while the device computes."""

    def start(self, item: PreparedT) -> PreparedT:
        """Begin to copy; called from the feed's thread where ``ahead``."""

    def finish(self, item: PreparedT) -> PreparedT:
        """Return what ``start`` gave, safe to compute with."""


@dataclass(frozen=True)
class PlainCopier:
    """Copies when the copy is wanted."""

    device: torch.device
    ahead: bool = False

    def start(self, item: PreparedT) -> PreparedT:
        """Do nothing yet."""
        return item

    def finish(self, item: PreparedT) -> PreparedT:
        """Copy."""
        return item.to(self.device)


class CudaCopier:
    """Copies from pinned memory on a stream of its own; the host waits for nothing."""

    ahead = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def start(self, item: PreparedT) -> PreparedT:
        """Pin and begin to copy; what is pinned is kept until it has been copied (by PyTorch's allocator)."""
        with torch.cuda.stream(self._side):
            return with_tensors(item, Tensor.pin_memory).to(self._device)

    def finish(self, item: PreparedT) -> PreparedT:
        """Let the computing stream wait for the copy, and the memory for the computing stream."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._side)
        for tensor in each_tensor(item):
            tensor.record_stream(computing)
        return item


class Delivered(NamedTuple, Generic[PreparedT]):
    """A micro-batch on the device, and what the loop keeps of it."""

    item: PreparedT
    summary: BatchSummary


class Feed(Generic[PreparedT]):
    """The micro-batches of consecutive steps; a context that ends its thread.

    Parameters
    ----------
    stream
        Gives a step's prepared micro-batches.
    device
        Device the micro-batches are moved to.
    steps
        The steps that will be asked for, in order. Nothing is read beyond them.
    copier
        How micro-batches get to the device; by default what suits it.
    part
        Names what is being done, for the profile.
    """

    def __init__(
        self,
        stream: Batches[PreparedT],
        device: torch.device,
        steps: range,
        *,
        copier: Copier | None = None,
        part: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._stream, self._part, self._steps = stream, part, steps
        self._copier = copier or (CudaCopier(device) if device.type == "cuda" else PlainCopier(device))
        self._waited = 0.0
        self._thread = _Thread(self._read()) if self._copier.ahead else None
        self._source: Iterator[tuple[int, Delivered[PreparedT]]] = self._thread or self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.close()

    def step(self, step: int) -> Iterator[Delivered[PreparedT]]:
        """Yield the micro-batches of a step on the device, each when it is asked for.

        Raises what reading and preparing them raise, also where that happened ahead; RunError for a step out of order.
        """
        for _ in range(self._stream.share):
            began = time.perf_counter()
            with self._part("loader"):
                at, delivered = next(self._source, (None, None))
            self._waited += time.perf_counter() - began
            if delivered is None or at != step:
                raise RunError(f"step {step} was asked for out of order: the feed gives {self._steps}, and is at {at}")
            yield delivered._replace(item=self._copier.finish(delivered.item))

    def take_wait(self) -> float:
        """Return the seconds spent waiting for prepared micro-batches since this was last called."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _read(self) -> Iterator[tuple[int, Delivered[PreparedT]]]:
        for step in self._steps:
            for item in self._stream.step(step):
                summary = item.batch.summary()
                yield step, Delivered(self._copier.start(item), summary)


class _Thread(Iterator[Any]):
    """Runs an iterator in a thread, ``AHEAD`` items ahead of the consumer; an error is raised in its place."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        item, error = self._ready.get()
        if error is not None:
            self._ready.put((None, error))  # the thread has ended: a later call gets the same error
            raise error
        return item

    def close(self) -> None:
        """Let the thread end: what it has ready is dropped, so that it does not wait for room."""
        self._closed.set()
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        error: BaseException = StopIteration()
        try:
            while not self._closed.is_set():
                self._ready.put((next(self._items), None))
        except BaseException as raised:  # every error is raised again in the loop
            error = raised
        if not self._closed.is_set():
            self._ready.put((None, error))
