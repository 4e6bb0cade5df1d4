"""Numbered batches in order, built ahead of time by threads or by processes.

In: a supply, and which kind of workers. Out: its i-th batch, or the error that building it raised; a DataError that
names the batches in progress when a worker hangs or dies.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Generic

from speechssl.config import DataConfig
from speechssl.core.errors import DataError
from speechssl.data.batches.memory import Slots
from speechssl.data.batches.processes import Processes
from speechssl.data.batches.supply import PREFETCH, Item, Read, Supply
from speechssl.data.batches.threads import Threads

__all__ = ["BatchLoader", "batch_loader"]


class BatchLoader(Generic[Item]):
    """Gives batch ``i`` of a supply; asked in order, its workers have prepared the next ones."""

    def __init__(self, supply: Supply[Item], kind: type[Threads[Item]] | type[Processes[Item]]) -> None:
        self._supply, self._kind = supply, kind
        self._slots = Slots(PREFETCH * supply.workers + supply.held, supply.size) if kind is Threads else None
        self._ahead: deque[Future[Item]] = deque()
        self._next = 0
        self._workers: Threads[Item] | Processes[Item] | None = None

    def get(self, i: int) -> Item:
        """Return the ``i``-th batch.

        Raises
        ------
        DataError
            A worker process died, or there was no batch for ``timeout`` seconds; or what building the batch raised.
        """
        supply = self._supply
        if supply.workers == 0:
            return supply.read(supply.number(i), None)
        self.expect(i)
        future = self._ahead.popleft()
        self._next = i + 1
        try:
            self._fill()
            return future.result(supply.timeout)
        except BaseException as error:
            hanging, broken = not future.done(), isinstance(error, BrokenExecutor)
            unfinished = [i + k for k, ahead in enumerate([future, *self._ahead]) if not _is_there(ahead)]
            self._stop(wait=not hanging and not broken)
            if broken:
                raise supply.died(unfinished[: supply.workers]) from error
            if hanging and isinstance(error, TimeoutError):
                raise supply.late(i) from error
            raise

    def expect(self, i: int) -> None:
        """Start preparing batch ``i`` and those after it, unless that is under way."""
        if self._supply.workers == 0 or (self._workers is not None and i == self._next):
            return
        self.close()
        self._next = i
        try:
            self._workers = self._kind(self._supply.read, self._supply.workers)
            self._fill()
        except Exception as error:
            self.close()
            raise DataError(f"the loader cannot start: {error}; data.workers = 0 works without any") from error

    def close(self) -> None:
        """Stop the workers: those in the midst of a batch after it, a hanging process by force."""
        self._stop(wait=True)

    def _fill(self) -> None:
        supply = self._supply
        assert self._workers is not None
        while len(self._ahead) < PREFETCH * supply.workers:
            i = self._next + len(self._ahead)
            if supply.stop is not None and i >= supply.stop:
                return
            piece = None if self._slots is None else self._slots.take()
            self._ahead.append(self._workers.submit(supply.number(i), piece))

    def _stop(self, *, wait: bool) -> None:
        workers, self._workers = self._workers, None
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        if workers is not None:
            workers.stop(wait=wait)


def batch_loader(
    read: Read[Item],
    cfg: DataConfig,
    *,
    number: Callable[[int], int],
    where: Callable[[int], str],
    size: int,
    held: int,
    stop: int | None = None,
) -> BatchLoader[Item]:
    """Return a loader by ``cfg.workers`` workers of the kind ``cfg.loader``; the other parameters as of ``Supply``."""
    supply = Supply(read, number, where, stop, cfg.workers, cfg.timeout, size, held)
    return BatchLoader(supply, Threads if cfg.loader == "threads" else Processes)


def _is_there(future: Future[Item]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
