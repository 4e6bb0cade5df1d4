"""Threads that build batches: nothing is copied between processes, and the indexes are in memory once.

In: numbers of batches, and memory for their samples. Out: futures of the batches. The heavy parts (reading, checksums,
FLAC, resampling, noise, conversion) run without the interpreter lock, so two threads use two cores.
"""

import queue
import threading
from concurrent.futures import Future
from typing import Any, Generic

import numpy as np

from speechssl.data.batches.supply import Item, Read

__all__ = ["Threads"]

PATIENCE = 5.0
"""Seconds that ``stop`` waits for a batch in progress. Threads are daemons: one that hangs does not keep the program
alive, as one of a ``ThreadPoolExecutor`` would."""

Tasks = queue.SimpleQueue[tuple[int, np.ndarray | None, Future[Any]] | None]


class Threads(Generic[Item]):
    """Build batches, in the order in which they were submitted."""

    def __init__(self, read: Read[Item], workers: int) -> None:
        self._tasks: Tasks = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(read, self._tasks), name=f"loader-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, number: int, piece: np.ndarray | None) -> Future[Item]:
        """Return the future of a batch; its samples lie in ``piece`` (uint8) where they fit."""
        future: Future[Item] = Future()
        self._tasks.put((number, piece, future))
        return future

    def stop(self, *, wait: bool) -> None:
        """End the threads, each after its batch; ``wait`` for them."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
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
