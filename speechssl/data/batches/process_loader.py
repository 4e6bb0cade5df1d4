"""Numbered batches, built ahead of time by processes that may die or hang without a word.

In: a function from numbers to batches. Out: batches in order, or a DataError within seconds that says what happened.
"""

import atexit
import multiprocessing
import signal
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speechssl.config import DataConfig
from speechssl.core.errors import DataError, SpeechsslError
from speechssl.core.processes import end_with_main
from speechssl.data.batches.memory import Slots
from speechssl.data.batches.parcels import Parcel, packed, unpacked
from speechssl.data.batches.supply import PREFETCH, Item, Read, Supply
from speechssl.data.batches.thread_loader import ThreadLoader

__all__ = ["BatchLoader", "batch_loader"]

POLL = 2.0
"""Seconds between looks at whether the loader processes are alive."""
GRACE = 30
"""Seconds a loader process goes on after SIGTERM, so that the step in progress can end and be saved."""


Message = Parcel | SpeechsslError


@dataclass(frozen=True)
class _Batches(Dataset[Message]):
    """What the DataLoader asks for batch numbers and places in the memory shared with it."""

    read: Read[Any]
    memory: Tensor

    def __getitem__(self, task: tuple[int, int | None]) -> Message:
        number, place = task
        piece = None if place is None else self.memory[place].numpy()
        try:
            return packed(self.read(number, piece), piece)
        except SpeechsslError as error:  # travels as a value: the loader would wrap its message in a traceback
            return error


@dataclass(frozen=True)
class _Tasks:
    """The numbers of a supply from some place on, each with a place for its batch; ``sent`` keeps those places."""

    supply: Supply[Any]
    start: int
    slots: Slots
    sent: deque[np.ndarray | None]

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        i = self.start
        while self.supply.stop is None or i < self.supply.stop:
            place, piece = self.slots.take() or (None, None)
            self.sent.append(piece)
            yield self.supply.number(i), place
            i += 1


class BatchLoader(Generic[Item]):
    """Gives batch ``i`` of a supply; asked in order, it has prepared the next ones."""

    def __init__(self, supply: Supply[Item]) -> None:
        self._supply = supply
        self._slots: Slots | None = None
        self._sent: deque[np.ndarray | None] = deque()
        self._next = 0
        self._iterator: Any = None

    def get(self, i: int) -> Item:
        """Return the ``i``-th batch.

        Raises
        ------
        DataError
            A loader process died, or gave nothing for ``timeout`` seconds.
        """
        if self._supply.workers == 0:
            return self._supply.read(self._supply.number(i), None)
        self.expect(i)
        try:
            message = self._wait(i)
        except BaseException:
            self.close()
            raise
        self._next = i + 1
        piece = self._sent.popleft()
        if isinstance(message, SpeechsslError):
            self.close()
            raise message
        return cast(Item, unpacked(message, piece))

    def expect(self, i: int) -> None:
        """Start preparing batch ``i`` and those after it, unless that is under way."""
        if self._supply.workers and (self._iterator is None or i != self._next):
            self.close()
            self._next = i
            self._iterator = self._start(i)

    def close(self) -> None:
        """Stop the loader processes, a hanging one by force."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        workers = list(iterator._workers)
        if any(not worker.is_alive() for worker in workers) or getattr(iterator, "hanging", False):
            for worker in workers:  # joining them would take up to ten seconds
                worker.kill()
        iterator._shutdown_workers()
        self._sent.clear()

    def _start(self, i: int) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["speechssl.data.batches.stream"])
        self._sent.clear()
        self._slots = self._slots or self._supply.slots(shared=True)
        loader = DataLoader(
            _Batches(self._supply.read, self._slots.memory),
            batch_size=None,
            sampler=_Tasks(self._supply, i, self._slots, self._sent),
            num_workers=self._supply.workers,
            collate_fn=_unchanged,
            timeout=min(POLL, self._supply.timeout),
            worker_init_fn=_settle,
            multiprocessing_context=context,
            prefetch_factor=PREFETCH,
            generator=torch.Generator(),  # a generator of its own: the global one belongs to the model
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Got pickle error")  # the original error says more
                iterator = iter(loader)
        except Exception as error:
            raise DataError(
                f"the loader processes cannot start: {error}; data.workers = 0 works without any"
            ) from error
        _close_at_exit(self)
        return iterator

    def _wait(self, i: int) -> Message:
        began = time.monotonic()
        while True:
            try:
                return next(self._iterator)
            except (RuntimeError, OSError, EOFError) as error:
                if isinstance(error, RuntimeError) and "timed out after" in str(error):
                    if time.monotonic() - began < self._supply.timeout:
                        continue  # the iterator is still good: its processes were alive a moment ago
                    self._iterator.hanging = True
                    raise self._supply.late(i) from error
                time.sleep(0.2)  # a broken connection may be noticed before the death that broke it
                if all(worker.is_alive() for worker in self._iterator._workers):
                    raise
                raise DataError(
                    f"a loader process died ({error}), waiting for {self._supply.place(i)}: usually it was "
                    "killed for lack of memory, or /dev/shm is full. Lower data.workers or data.batch_seconds, or give "
                    "the container more shared memory, then resume"
                ) from error


def batch_loader(
    read: Read[Item],
    cfg: DataConfig,
    *,
    number: Callable[[int], int],
    where: Callable[[int], str],
    size: int,
    held: int,
    stop: int | None = None,
) -> BatchLoader[Item] | ThreadLoader[Item]:
    """Return the loader that ``cfg.loader`` names, with ``cfg.workers``; the other parameters as of ``Supply``."""
    supply = Supply(read, number, where, stop, cfg.workers, cfg.timeout, size, held)
    return ThreadLoader(supply) if cfg.loader == "threads" and cfg.workers else BatchLoader(supply)


def _unchanged(batch: Any) -> Any:
    return batch


def _settle(worker: int) -> None:
    """Live exactly as long as the main process needs: leave signals to it for a while, and die when it is gone."""
    del worker
    end_with_main()
    # Ctrl-C and preemption reach the whole process group, and the main process has a step to end and to save.
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.alarm(GRACE)


def _close_at_exit(loader: BatchLoader[Any]) -> None:
    """Close before multiprocessing waits for its children at the end of the program."""
    reference = weakref.ref(loader)

    def close() -> None:
        if (alive := reference()) is not None:
            alive.close()

    atexit.register(close)
