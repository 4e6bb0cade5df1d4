"""Records of tensors on their way between processes.

In: a frozen record (a batch, or what was prepared of it) and a piece of memory that both processes share. Out: a
parcel, and from it the same record on the other side. Large tensors lie in the shared piece, small ones and those that
find no room travel by value. No tensor travels as torch would send it: that costs a file descriptor each.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.data.batches.batch import each_tensor

__all__ = ["Parcel", "packed", "unpacked"]

LARGE = 1 << 14
"""Bytes from which a tensor is put into the shared piece."""
ALIGNMENT = 64


@dataclass(frozen=True)
class _Place:
    """A tensor in the shared piece."""

    offset: int
    shape: tuple[int, ...]
    kind: np.dtype


@dataclass(frozen=True)
class Parcel:
    """A record on its way: its class, and its fields as places, arrays, parcels or plain values."""

    record: type
    values: dict[str, Any]


class _Room:
    """The shared piece, filled from the end of what lies in it already."""

    def __init__(self, piece: np.ndarray, record: object) -> None:
        self._piece = piece
        arrays = [tensor.numpy() for tensor in each_tensor(record)]
        ends = [place.offset + array.nbytes for array in arrays if (place := self.place_of(array))]
        self._used = max(ends, default=0)

    def place_of(self, array: np.ndarray) -> _Place | None:
        """Return where an array lies in the piece; None when it lies elsewhere."""
        offset = array.ctypes.data - self._piece.ctypes.data
        inside = offset >= 0 and offset + array.nbytes <= len(self._piece) and array.nbytes > 0
        return _Place(offset, array.shape, array.dtype) if inside and array.flags.c_contiguous else None

    def put(self, array: np.ndarray) -> _Place | None:
        """Return the place of an array, copied into the piece if it is large; None when it has to travel by value."""
        if (place := self.place_of(array)) is not None:
            return place
        offset = self._used + -self._used % ALIGNMENT
        end = offset + array.nbytes
        if array.nbytes < LARGE or end > len(self._piece):
            return None
        self._piece[offset:end].view(array.dtype).reshape(array.shape)[...] = array
        self._used = end
        return _Place(offset, array.shape, array.dtype)


def packed(record: Any, piece: np.ndarray | None) -> Parcel:
    """Return what to send of a record of CPU tensors; ``piece`` is the shared memory (uint8), if there is any."""
    return _packed(record, _Room(np.empty(0, np.uint8) if piece is None else piece, record))


def unpacked(parcel: Parcel, piece: np.ndarray | None) -> Any:
    """Return the record; tensors in the shared piece stay where they are, and keep it."""
    values = {}
    for name, value in parcel.values.items():
        if isinstance(value, _Place):
            assert piece is not None
            end = value.offset + value.kind.itemsize * int(np.prod(value.shape))
            values[name] = torch.from_numpy(piece[value.offset : end].view(value.kind).reshape(value.shape))
        elif isinstance(value, np.ndarray):
            values[name] = torch.from_numpy(value)
        else:
            values[name] = unpacked(value, piece) if isinstance(value, Parcel) else value
    return parcel.record(**values)


def _packed(record: Any, room: _Room) -> Parcel:
    values: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            array = value.numpy()
            values[item.name] = room.put(array) or array
        else:
            values[item.name] = _packed(value, room) if _holds_tensors(value) else value
    return Parcel(type(record), values)


def _holds_tensors(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type) and any(True for _ in each_tensor(value))
