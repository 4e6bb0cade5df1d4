"""A sequence of numbered batches: how each is built, and how long one may take.

What the two kinds of loader (``loading`` and ``threads``) are given; the batch they give is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from speechssl.data.batch import Batch
from speechssl.errors import DataError

__all__ = ["Supply"]


@dataclass(frozen=True)
class Supply:
    """What a loader gives, and by how many workers."""

    read: Callable[[int], Batch]
    """Builds the batch of a number; picklable for loader processes, safe to call from several threads."""
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

    def place(self, i: int) -> str:
        """Say what the ``i``-th batch is read from."""
        return self.where(self.number(i))

    def late(self, i: int) -> DataError:
        """Return the error of a batch that does not come."""
        return DataError(
            f"no batch came from the loader for {self.timeout:g} s (data.timeout), waiting for {self.place(i)}: the "
            "disk or network hangs, or is slower than that. Resume once it answers"
        )
