"""Slots: a piece is in use exactly as long as anything made of it."""

import gc

import numpy as np
import pytest
import torch

from speechssl.data.batches.memory import Slots, array_in


@pytest.mark.parametrize("keep", [
    lambda piece: piece,
    lambda piece: piece[10:20],
    lambda piece: torch.from_numpy(piece.view(np.int16)),
    lambda piece: torch.from_numpy(array_in(piece, (2, 50), np.int16))[1, 3:5],
    lambda piece: torch.from_numpy(array_in(piece, (2, 50), np.float32)).numpy()[1:],
])  # fmt: skip
def test_a_piece_is_free_when_nothing_refers_to_it(keep):
    slots = Slots(1, 1000)
    piece = slots.take()
    assert len(piece) >= 1000
    kept = keep(piece)
    del piece
    gc.collect()
    assert slots.take() is None
    del kept
    assert slots.take() is not None


def test_pieces_do_not_overlap_and_the_warm_one_comes_first():
    slots = Slots(3, 100)
    taken = [slots.take() for _ in range(3)]
    for number, piece in enumerate(taken):
        piece[:] = number
    assert [set(piece.tolist()) for piece in taken] == [{0}, {1}, {2}]
    assert {frozenset(row.tolist()) for row in slots.memory} == {frozenset([number]) for number in range(3)}
    last = taken.pop(1).ctypes.data
    del piece
    gc.collect()
    again = slots.take()
    assert again.ctypes.data == last
    assert (again == 1).all()


def test_what_does_not_fit_gets_memory_of_its_own():
    piece = np.zeros(100, np.uint8)
    assert np.shares_memory(array_in(piece, (5, 10), np.int16), piece)
    for array in (array_in(piece, (5, 11), np.int16), array_in(None, (5, 11), np.int16)):
        assert not np.shares_memory(array, piece)
        assert array.shape == (5, 11)
        assert array.dtype == np.int16


def test_the_memory_outlives_its_slots():
    piece = Slots(1, 1000).take()
    gc.collect()
    piece[:] = 7
    assert piece.sum() == 7 * len(piece)
