"""The feed: the same micro-batches ahead of time or when asked for, and errors where they belong."""

import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import DataError, RunError
from speechssl.objectives.base import Prepared
from speechssl.training.feed import AHEAD, CudaCopier, Feed
from tests.support.tiny import ListStream, batch_of, prepare, run_tiny, same, tiny, training, weights

CPU = torch.device("cpu")


def stored_of(step: int, number: int):
    """Return the batch with 16-bit samples."""
    batch = batch_of(step, number)
    return replace(batch, wave=(batch.wave * 8000).clamp(-32768, 32767).to(torch.int16))


def scaled_of(step: int, number: int):
    """Return the same batch as float32, made by numpy."""
    batch = stored_of(step, number)
    wave = np.multiply(batch.wave.numpy(), np.float32(1 / 32768), dtype=np.float32)
    return replace(batch, wave=torch.from_numpy(wave))


@dataclass
class Logged:
    """A copier that says what it does; ``ahead``: in a thread, as that of a GPU."""

    log: list[str]
    ahead: bool = True

    def start(self, item: Prepared) -> Prepared:
        self.log.append(f"start {item.batch.ids[0]}")
        return item.to("cpu")

    def finish(self, item: Prepared) -> Prepared:
        self.log.append(f"finish {item.batch.ids[0]}")
        return item


class Counting(ListStream):
    """Counts what was read, and how much of it is alive; fails at ``(step, number)``."""

    def __init__(self, batches_per_step: int, fails_at: tuple[int, int] | None = None) -> None:
        super().__init__(batches_per_step)
        self.fails_at, self.read, self.alive, self.most = fails_at, 0, 0, 0

    def step(self, step: int) -> Iterator[Prepared]:
        for number in range(self.share):
            if (step, number) == self.fails_at:
                raise DataError("the disk is gone")
            item = prepare(batch_of(step, number))
            self.read += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(item, self._gone)
            yield item
            del item

    def _gone(self) -> None:
        self.alive -= 1


def settled(stream: Counting, expected: int) -> int:
    """Wait until so many were read, and then a little for one too many."""
    deadline = time.monotonic() + 10
    while stream.read < expected and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.02)
    return stream.read


def test_on_a_cpu_everything_happens_when_it_is_asked_for():
    log: list[str] = []
    stream = Counting(2)
    with Feed(stream, CPU, range(3), copier=Logged(log, ahead=False)) as feed:
        for step in range(3):
            for number, (item, summary) in enumerate(feed.step(step)):
                assert stream.read == 2 * step + number + 1
                assert item.batch.ids == summary.ids == batch_of(step, number).ids
    assert log[:4] == ["start s0-m0-r0", "finish s0-m0-r0", "start s0-m1-r0", "finish s0-m1-r0"]


def test_on_a_gpu_a_thread_reads_and_copies_a_bounded_number_ahead_across_steps():
    log: list[str] = []
    stream = Counting(2)
    with Feed(stream, CPU, range(4), copier=Logged(log)) as feed:
        taken = 0
        for step in range(4):
            for number, (item, _) in enumerate(feed.step(step)):
                taken += 1
                first = item.batch.ids[0]
                assert torch.equal(item.batch.wave, batch_of(step, number).wave)
                assert log.index(f"start {first}") < log.index(f"finish {first}")
                assert settled(stream, min(8, taken + AHEAD + 1)) == min(8, taken + AHEAD + 1)
    assert stream.read == 8  # nothing beyond the last step


def test_a_step_out_of_order_is_refused():
    with Feed(ListStream(1), CPU, range(5, 9)) as feed, pytest.raises(RunError, match=r"step 7 .* is at 5"):
        list(feed.step(7))
    with Feed(ListStream(1), CPU, range(2)) as feed:
        for step in range(2):
            assert len(list(feed.step(step))) == 1
        with pytest.raises(RunError, match="step 2 was asked for out of order"):
            list(feed.step(2))


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_met_ahead_comes_in_its_own_place(ahead):
    with Feed(Counting(2, fails_at=(1, 1)), CPU, range(4), copier=Logged([], ahead)) as feed:
        assert len(list(feed.step(0))) == 2
        items = feed.step(1)
        assert next(items).summary.ids == batch_of(1, 0).ids
        with pytest.raises(DataError, match="the disk is gone"):
            next(items)


def test_closing_ends_the_thread_although_it_has_items_that_nobody_wants():
    before = threading.active_count()
    for taken in range(4):
        with Feed(Counting(3), CPU, range(100), copier=Logged([])) as feed:
            items = feed.step(0)
            for _ in range(taken % 3):
                next(items)
        assert threading.active_count() == before


def test_H4_all_waiting_for_prepared_items_is_counted(monkeypatch):
    """Reading and preparing take as long as this clock says; computing, which is between, is not counted."""
    clock = [0.0]
    monkeypatch.setattr("speechssl.training.feed.time.perf_counter", lambda: clock[0])

    class Slow(ListStream):
        def step(self, step):
            for item in super().step(step):
                clock[0] += 3.0
                yield item

    with Feed(Slow(2), CPU, range(2)) as feed:
        for _ in feed.step(0):
            clock[0] += 100.0
        assert feed.take_wait() == 6.0
        assert feed.take_wait() == 0.0


def test_H5_a_step_of_many_micro_batches_holds_few_of_them(tmp_path):
    stream = Counting(150)
    _, result = run_tiny(tmp_path, tiny(), stream, training(steps=2, save_every=2))
    assert (result.step, stream.read) == (2, 300)
    assert stream.most <= 3


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_16_bit_samples_train_to_the_same_bits_as_floats(tmp_path, dropout):
    stored, _ = run_tiny(tmp_path / "stored", tiny(dropout=dropout), ListStream(2, make=stored_of))
    scaled, _ = run_tiny(tmp_path / "scaled", tiny(dropout=dropout), ListStream(2, make=scaled_of))
    assert same(weights(stored), weights(scaled))
    other, _ = run_tiny(tmp_path / "other", tiny(dropout=dropout), ListStream(2))
    assert not same(weights(stored), weights(other))


def test_a_run_that_reads_ahead_is_the_same_run(tmp_path, monkeypatch):
    plain, _ = run_tiny(tmp_path / "plain", tiny(), ListStream(2), training(steps=5))
    log, stream = [], ListStream(2)
    monkeypatch.setattr("speechssl.training.feed.PlainCopier", lambda device: Logged(log))
    ahead, _ = run_tiny(tmp_path / "ahead", tiny(), stream, training(steps=5))
    assert same(weights(plain), weights(ahead))
    assert stream.asked == [0, 1, 2, 3, 4]  # nothing is read beyond the last step
    assert len(log) == 2 * 2 * 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_copies_of_a_gpu_arrive_before_they_are_computed_with_and_wait_for_nothing():
    """While the device is busy for long, the copies are made and the host goes on; every value is right in the end."""
    device = torch.device("cuda")
    sums = []
    with Feed(ListStream(3, make=stored_of), device, range(20)) as feed:
        assert isinstance(feed._copier, CudaCopier)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(20):
                for item, _ in feed.step(step):
                    torch.cuda._sleep(2_000_000)
                    sums.append(item.batch.wave.double().sum(dim=1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    expected = [scaled_of(step, number).wave.double().sum(dim=1) for step in range(20) for number in range(3)]
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(expected))
