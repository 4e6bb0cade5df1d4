"""The feed: the same micro-batches ahead of time or when asked for, and errors where they belong."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from speechssl.errors import DataError
from speechssl.objectives.base import Prepared
from speechssl.training.feed import CudaCopier, Feed, PlainCopier
from tests.tiny import ListStream, batch_of, run_tiny, same, tiny, training, weights

CPU = torch.device("cpu")


def prepare(batch) -> Prepared:
    return Prepared(batch, len(batch.ids))


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
    """A copier that says what it does, as one of a GPU would do it."""

    log: list[str]
    ahead: bool = True

    def start(self, item: Prepared) -> Prepared:
        self.log.append(f"start {item.batch.ids[0]}")
        return item.to("cpu")

    def finish(self, item: Prepared) -> Prepared:
        self.log.append(f"finish {item.batch.ids[0]}")
        return item


@dataclass
class Failing(ListStream):
    """Fails at one step."""

    at: int = 1
    asked: list[int] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(2)

    def step(self, step):
        if step == self.at:
            raise DataError("the disk is gone")
        return super().step(step)


def steps_of(feed: Feed, log: list[str], steps: int = 3) -> Iterator[list[Prepared]]:
    for step in range(steps):
        _, items = feed.step(step)
        found = []
        for item in feed.on_device(items):
            log.append(f"compute {item.batch.ids[0]}")
            found.append(item)
        feed.ahead(step + 1)
        log.append("update")
        yield found


def test_on_a_cpu_everything_happens_when_it_is_asked_for():
    stream, log = ListStream(2), []
    assert [len(items) for items in steps_of(Feed(stream, prepare, CPU), log)] == [2, 2, 2]
    assert stream.asked == [0, 1, 2]
    assert log[:3] == ["compute s0-m0-r0", "compute s0-m1-r0", "update"]


def test_the_next_step_is_read_and_on_its_way_before_the_update():
    stream, log = ListStream(2), []
    feed = Feed(stream, prepare, CPU, copier=Logged(log))
    for step, items in enumerate(steps_of(feed, log)):
        assert stream.asked == list(range(step + 2))
        for number, item in enumerate(items):
            assert item.batch.ids == batch_of(step, number).ids
            assert torch.equal(item.batch.wave, batch_of(step, number).wave)
    assert log == [
        "start s0-m0-r0", "finish s0-m0-r0", "compute s0-m0-r0",
        "start s0-m1-r0", "finish s0-m1-r0", "compute s0-m1-r0",
        "start s1-m0-r0", "update",
        "finish s1-m0-r0", "compute s1-m0-r0", "start s1-m1-r0", "finish s1-m1-r0", "compute s1-m1-r0",
        "start s2-m0-r0", "update",
        "finish s2-m0-r0", "compute s2-m0-r0", "start s2-m1-r0", "finish s2-m1-r0", "compute s2-m1-r0",
        "start s3-m0-r0", "update",
    ]  # fmt: skip


def test_another_step_than_the_one_ahead_is_read_anew():
    log = []
    feed = Feed(ListStream(1), prepare, CPU, copier=Logged(log))
    feed.ahead(5)
    _, items = feed.step(2)
    assert [item.batch.ids[0] for item in feed.on_device(items)] == ["s2-m0-r0"]
    assert log == ["start s5-m0-r0", "start s2-m0-r0", "finish s2-m0-r0"]


def test_an_error_met_ahead_belongs_to_its_own_step():
    log = []
    for copier in (Logged(log), PlainCopier(CPU)):
        feed = Feed(Failing(), prepare, CPU, copier=copier)
        feed.step(0)
        feed.ahead(1)
        with pytest.raises(DataError, match="the disk is gone"):
            feed.step(1)
        assert len(feed.step(2)[1]) == 2  # and what was met ahead is not kept


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
    feed = Feed(ListStream(3, make=stored_of), prepare, device)
    assert isinstance(feed._copier, CudaCopier)
    sums = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(20):
            _, items = feed.step(step)
            for item in feed.on_device(items):
                torch.cuda._sleep(2_000_000)
                sums.append(item.batch.wave.double().sum(dim=1))
            feed.ahead(step + 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = [scaled_of(step, number).wave.double().sum(dim=1) for step in range(20) for number in range(3)]
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(expected))
