"""Reused memory for batches: page faults in fresh memory cost more time than filling it.

In: how many batches and how large. Out: a piece of memory for each, which is free again by itself as soon as nothing
refers to the batch made in it.
"""

import weakref

import numpy as np

__all__ = ["Slots", "array_in"]

PAGE = 4096


class Slots:
    """``count`` pieces of at least ``size`` bytes; pages that are never written take no memory.

    Attributes
    ----------
    memory : uint8 array [count, size]
    """

    def __init__(self, count: int, size: int) -> None:
        self.memory = np.empty((count, size + -size % PAGE), np.uint8)
        self._free = list(range(count))

    def take(self) -> np.ndarray | None:
        """Return the bytes of a free piece, the one used last first; None when all are in use.

        The piece is in use as long as these bytes, or any array or tensor that shares them, exist.
        """
        if not self._free:
            return None
        number = self._free.pop()
        # Not a view: numpy makes views refer to the base array, so this object would not be kept alive.
        piece = np.frombuffer(memoryview(self.memory[number]), np.uint8)
        weakref.finalize(piece, self._free.append, number).atexit = False
        return piece


def array_in(piece: np.ndarray | None, shape: tuple[int, int], kind: type[np.generic]) -> np.ndarray:
    """Return an uninitialised array in ``piece`` (uint8), or in new memory when there is none or it is too small."""
    size = shape[0] * shape[1] * np.dtype(kind).itemsize
    if piece is None or size > len(piece):
        return np.empty(shape, kind)
    return piece[:size].view(kind).reshape(shape)
