"""The loader by threads: batches in order whatever they do, errors of the batch they belong to, a clean end."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from speechssl.core.errors import AudioError, DataError
from speechssl.data.batches.loader import BatchLoader
from speechssl.data.batches.supply import PREFETCH, Supply
from speechssl.data.batches.threads import Threads
from tests.support.tiny import batch_of


class Reader:
    """Builds batches, some slowly; says what it was asked for."""

    def __init__(self, slow=(), failing=None, hold=None) -> None:
        self.slow, self.failing, self.hold = set(slow), failing or {}, hold
        self.asked: list[int] = []
        self.pieces: list[int | None] = []
        self.threads: set[str] = set()

    def __call__(self, k, piece):
        self.asked.append(k)
        self.pieces.append(None if piece is None else piece.ctypes.data)
        self.threads.add(threading.current_thread().name)
        if self.hold is not None:
            self.hold.wait(300)
        if k in self.slow:
            time.sleep(0.05)
        if k in self.failing:
            raise self.failing[k]
        return batch_of(0, k)


def loader_of(reader, workers=2, stop=None, timeout=300.0, held=3) -> BatchLoader:
    return BatchLoader(Supply(
        reader, number=lambda i: 10 * i, where=lambda k: f"batch {k}", stop=stop, workers=workers, timeout=timeout,
        size=64, held=held,
    ), Threads)  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_come_in_order_although_some_are_slow(workers):
    reader = Reader(slow=range(0, 300, 30))
    loader = loader_of(reader, workers)
    for i in range(20):
        batch = loader.get(i)
        assert batch.ids == batch_of(0, 10 * i).ids
        assert torch.equal(batch.wave, batch_of(0, 10 * i).wave)
    loader.close()
    assert len(reader.threads) <= workers
    assert set(reader.asked) >= {10 * i for i in range(20)}
    assert sorted(reader.asked) == list(dict.fromkeys(sorted(reader.asked)))  # nothing twice


def test_as_many_are_prepared_as_promised_and_no_more():
    reader = Reader()
    loader = loader_of(reader, 2)
    loader.expect(3)
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while len(reader.asked) < 2 * PREFETCH:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)
    assert sorted(reader.asked) == [30, 40, 50, 60]
    loader.close()


def test_a_sequence_ends_where_it_ends():
    reader = Reader()
    loader = loader_of(reader, 2, stop=3)
    assert [loader.get(i).ids for i in range(3)] == [batch_of(0, 10 * i).ids for i in range(3)]
    loader.close()
    assert sorted(reader.asked) == [0, 10, 20]


def test_a_jump_starts_anew_from_there():
    loader = loader_of(Reader())
    for i in (0, 1, 7, 8, 2):
        assert loader.get(i).ids == batch_of(0, 10 * i).ids
    loader.close()


@pytest.mark.parametrize("error", [DataError("gone"), AudioError("x", "undecodable", ""), TypeError("a fault")])
def test_an_error_is_raised_with_its_own_batch_and_afterwards_it_goes_on(error):
    reader = Reader(failing={20: error})
    loader = loader_of(reader)
    loader.get(0)
    loader.get(1)
    with pytest.raises(type(error)) as caught:
        loader.get(2)
    assert caught.value is error
    assert loader.get(3).ids == batch_of(0, 30).ids
    loader.close()


def test_a_hang_is_an_error_in_time_and_keeps_nobody():
    hold, others = threading.Event(), set(threading.enumerate())
    loader = loader_of(Reader(hold=hold), timeout=0.3)
    with pytest.raises(DataError, match=r"no batch came from the loader for 0.3 s .*waiting for batch 40: "):
        loader.get(4)
    hanging = set(threading.enumerate()) - others
    assert len(hanging) == 2
    assert all(thread.daemon for thread in hanging)
    hold.set()
    for thread in hanging:
        thread.join(300)
    assert not any(thread.is_alive() for thread in hanging)
    loader._supply = replace(loader._supply, timeout=300.0)
    assert loader.get(0).ids == batch_of(0, 0).ids
    loader.close()


def test_closing_in_the_middle_of_a_batch_waits_for_it_and_drops_the_rest():
    reader = Reader(slow=range(0, 1000, 10))
    loader = loader_of(reader, 2)
    loader.get(0)
    threads = list(loader._workers._threads)
    loader.close()
    assert not any(thread.is_alive() for thread in threads)
    asked = len(reader.asked)
    time.sleep(0.15)
    assert len(reader.asked) == asked < 2 + 2 * PREFETCH
    loader.close()  # twice is nothing


def test_memory_is_used_again_and_never_for_two():
    reader = Reader()
    loader = loader_of(reader, 1, held=1)
    kept = [loader.get(i) for i in range(10)]
    loader.close()
    assert len({pointer for pointer in reader.pieces if pointer is not None}) <= PREFETCH + 1
    assert len(kept) == 10
