"""Records between processes: the same values on the other side, large ones in the shared piece, no descriptor each."""

import pickle
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.data.batches.batch import Batch, Prepared
from speechssl.data.batches.parcels import ALIGNMENT, LARGE, packed, unpacked
from tests.support.tiny import batch_of


@dataclass(frozen=True)
class Drawn(Prepared):
    """A prepared batch with a large and a small tensor, one of another dtype, one that is not there."""

    large: Tensor
    small: Tensor
    flags: Tensor
    nothing: Tensor | None = None
    name: str = "drawn"


def drawn(wave: Tensor | None = None) -> Drawn:
    batch = batch_of(0, 0, rows=4, samples=LARGE)
    batch = batch if wave is None else replace(batch, wave=wave)
    large = torch.arange(3 * LARGE, dtype=torch.int16).view(3, -1)
    return Drawn(batch, 5, large, torch.arange(7), torch.arange(2 * LARGE) % 3 == 0)


def tensors(record) -> dict[str, Tensor]:
    found = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            found[item.name] = value
        elif isinstance(value, Batch):
            found |= {f"batch.{name}": tensor for name, tensor in tensors(value).items()}
    return found


def there(record, piece: np.ndarray | None) -> Drawn:
    """Send a record through the bytes that a queue would carry; ``piece`` stays where it is."""
    return unpacked(pickle.loads(pickle.dumps(packed(record, piece))), piece)


def test_H4_what_is_prepared_arrives_as_it_was_sent():
    sent = drawn()
    for piece in (None, np.zeros(10, np.uint8), np.zeros(1 << 20, np.uint8)):
        arrived = there(sent, piece)
        assert type(arrived) is Drawn
        assert (arrived.n_targets, arrived.nothing, arrived.name) == (5, None, "drawn")
        assert arrived.batch.ids == sent.batch.ids
        found, expected = tensors(arrived), tensors(sent)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)


def test_H4_large_tensors_lie_in_the_shared_piece_behind_the_samples():
    piece = np.zeros(1 << 20, np.uint8)
    wave = torch.from_numpy(piece[: 8 * LARGE].view(np.int16).reshape(4, LARGE))
    wave += 7
    sent = drawn(wave)
    arrived = tensors(there(sent, piece))
    inside = {
        name for name, value in arrived.items()
        if piece.ctypes.data <= value.data_ptr() < piece.ctypes.data + len(piece)
    }  # fmt: skip
    assert inside == {"batch.wave", "large", "flags"}
    assert torch.equal(arrived["batch.wave"], sent.batch.wave)
    assert arrived["batch.wave"].data_ptr() == piece.ctypes.data
    places = sorted((arrived[name].data_ptr() - piece.ctypes.data, arrived[name].nbytes) for name in inside)
    assert all(offset % ALIGNMENT == 0 for offset, _ in places)
    assert all(first + size <= second for (first, size), (second, _) in pairwise(places))


@pytest.mark.parametrize("room", [0, LARGE, 1 << 20])
def test_H5_no_tensor_travels_as_a_file_descriptor(room, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a tensor was sent through torch's own reduction")

    monkeypatch.setattr("torch.Tensor.__reduce_ex__", refuse)
    assert pickle.dumps(packed(drawn(), np.zeros(room, np.uint8)))
