"""Reused memory for batches: page faults in fresh memory cost more time than filling it.

In: how many batches and how large. Out: a piece of memory for each, which is free again by itself as soon as nothing
refers to the batch made in it. Loader processes can share it, so that handing a batch over copies nothing.
"""

import weakref

import numpy as np
import torch

__all__ = ["Slots", "array_in"]

PAGE = 4096


class Slots:
    """``count`` pieces of at least ``size`` bytes; pages that are never written take no memory.

    Attributes
    ----------
    memory : uint8 tensor [count, size]; in memory that processes can share when ``shared``
    """

    def __init__(self, count: int, size: int, *, shared: bool) -> None:
        size += -size % PAGE
        if shared:
            empty = torch.empty(0, dtype=torch.uint8)
            self.memory = empty.set_(torch.UntypedStorage._new_shared(count * size)).view(count, size)
        else:
            self.memory = torch.empty(count, size, dtype=torch.uint8)
        self._bytes = self.memory.numpy()
        self._free = list(range(count))

    def take(self) -> tuple[int, np.ndarray] | None:
        """Return the number of a free piece, the one used last first, and its bytes; None when all are in use.

        The piece is in use as long as these bytes, or any array or tensor that shares them, exist.
        """
        try:
            number = self._free.pop()
        except IndexError:
            return None
        # Not a view: numpy makes views refer to the base array, so this object would not be kept alive.
        piece = np.frombuffer(memoryview(self._bytes[number]), np.uint8)
        weakref.finalize(piece, self._free.append, number).atexit = False
        return number, piece


def array_in(piece: np.ndarray | None, shape: tuple[int, int], kind: type[np.generic]) -> np.ndarray:
    """Return an uninitialised array in ``piece`` (uint8), or in new memory when there is none or it is too small."""
    size = shape[0] * shape[1] * np.dtype(kind).itemsize
    if piece is None or size > len(piece):
        return np.empty(shape, kind)
    return piece[:size].view(kind).reshape(shape)
