"""A sequence of numbered batches: how each is built, and how long one may take.

What the two kinds of workers (``threads`` and ``processes``) are given; the batch they give is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from speechssl.core.errors import DataError
from speechssl.data.batches.batch import Batch, Prepared

__all__ = ["PREFETCH", "Item", "Read", "Supply"]

PREFETCH = 2
"""Batches that each worker prepares ahead."""

Item = TypeVar("Item", bound=Batch | Prepared)
"""The items of a loader: batches, or prepared batches."""
Read = Callable[[int, np.ndarray | None], Item]
"""Builds the item of a number, its samples in the memory given (uint8) where they fit."""


@dataclass(frozen=True)
class Supply(Generic[Item]):
    """What a loader gives, and by how many workers."""

    read: Read[Item]
    """Picklable for loader processes, safe to call from several threads."""
    number: Callable[[int], int]
    """Number of the sequence's ``i``-th batch."""
    where: Callable[[int], str]
    """Says what a number's batch is read from, for messages."""
    stop: int | None
    """Length of the sequence; None for an endless one."""
    workers: int
    """0: batches are built in this process when asked for."""
    timeout: float
    """Seconds after which a batch that has not come is given up."""
    size: int
    """Bytes of the large tensors of a usual batch; what is larger gets memory of its own."""
    held: int
    """Batches that the consumer holds at the same time."""

    def place(self, i: int) -> str:
        """Say what the ``i``-th batch is read from."""
        return self.where(self.number(i))

    def late(self, i: int) -> DataError:
        """Return the error of a batch that does not come."""
        return DataError(
            f"no batch came from the loader for {self.timeout:g} s (data.timeout), waiting for {self.place(i)}: the "
            "disk or network hangs, or is slower than that. Resume once it answers"
        )

    def died(self, unfinished: Sequence[int]) -> DataError:
        """Return the error of a worker process that died; it held one of the unfinished batches."""
        return DataError(
            f"a loader process died, building {' or '.join(map(self.place, unfinished))}: usually it was killed for "
            "lack of memory, or /dev/shm is full. Lower data.workers or data.batch_seconds, give the container more "
            "shared memory, or set data.loader to threads, then resume"
        )
