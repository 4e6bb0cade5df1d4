"""Numbered batches, built ahead of time by threads: nothing is copied between processes.

In: a function from numbers to batches, safe to call from several threads. Out: batches in order, or the error that
building one raised; a DataError when none comes. The heavy parts (reading, checksums, FLAC, conversion) run without
the interpreter lock, so two threads use two cores.
"""

import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Generic

import numpy as np

from speechssl.data.batches.supply import PREFETCH, Item, Read, Supply

__all__ = ["ThreadLoader"]

PATIENCE = 5.0
"""Seconds that ``close`` waits for a batch in progress. Threads are daemons: one that hangs does not keep the program
alive."""

Tasks = queue.SimpleQueue[tuple[int, np.ndarray | None, Future[Any]] | None]


class ThreadLoader(Generic[Item]):
    """Gives batch ``i`` of a supply; asked in order, it has prepared the next ones."""

    def __init__(self, supply: Supply[Item]) -> None:
        self._supply, self._slots = supply, supply.slots(shared=False)
        self._ahead: deque[Future[Item]] = deque()
        self._next = 0
        self._tasks: Tasks | None = None
        self._threads: list[threading.Thread] = []

    def get(self, i: int) -> Item:
        """Return the ``i``-th batch.

        Raises
        ------
        DataError
            There was none for ``timeout`` seconds; or what building it raised.
        """
        self.expect(i)
        future = self._ahead.popleft()
        self._next = i + 1
        self._fill()
        try:
            return future.result(self._supply.timeout)
        except BaseException as error:
            hanging = not future.done()
            self._stop_threads(wait=not hanging)
            if hanging and isinstance(error, TimeoutError):
                raise self._supply.late(i) from error
            raise

    def expect(self, i: int) -> None:
        """Start preparing batch ``i`` and those after it, unless that is under way."""
        if self._tasks is None or i != self._next:
            self.close()
            self._next = i
            self._tasks = queue.SimpleQueue()
            self._threads = [
                threading.Thread(target=_work, args=(self._supply.read, self._tasks), name=f"loader-{n}", daemon=True)
                for n in range(self._supply.workers)
            ]
            for thread in self._threads:
                thread.start()
        self._fill()

    def close(self) -> None:
        """Stop the threads, those in the midst of a batch after it."""
        self._stop_threads(wait=True)

    def _fill(self) -> None:
        assert self._tasks is not None
        while len(self._ahead) < PREFETCH * self._supply.workers:
            i = self._next + len(self._ahead)
            if self._supply.stop is not None and i >= self._supply.stop:
                return
            future: Future[Item] = Future()
            self._ahead.append(future)
            taken = self._slots.take()
            self._tasks.put((self._supply.number(i), taken and taken[1], future))

    def _stop_threads(self, *, wait: bool) -> None:
        threads, self._threads = self._threads, []
        tasks, self._tasks = self._tasks, None
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        if tasks is not None:
            for _ in threads:
                tasks.put(None)
        for thread in threads:
            if wait:
                thread.join(PATIENCE)


def _work(read: Read[Item], tasks: Tasks) -> None:
    """Build batches until told to stop."""
    while (task := tasks.get()) is not None:
        number, piece, future = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(number, piece))
            except BaseException as error:  # every error is raised again in the main thread
                future.set_exception(error)
        del piece, future, task  # release the last batch while this thread waits
