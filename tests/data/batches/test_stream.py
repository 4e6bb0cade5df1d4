"""The stream: batches are a function of their number; bad rows are silent, bad loaders are not."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.config import AugmentConfig, DataConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.tolerance import TooManyBadError
from speechssl.data.batches.augment import augmenter
from speechssl.data.batches.batch import Batch
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream, evaluation_batches
from speechssl.data.store.reader import Corpus, open_corpus, open_lazily
from tests.support.chirps import chirp, chirp_shards
from tests.support.processes import alive, parent

SECONDS = [0.4 + 0.05 * (i * 7 % 40) for i in range(40)]
CFG = DataConfig(
    min_seconds=0.1, max_seconds=1.5, batch_seconds=4.0, buckets=4, workers=0, splits=(), window_shards=1, timeout=300.0
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("stream"), SECONDS, shard_seconds=20.0)


@pytest.fixture(scope="module")
def corpus(shards):
    return open_corpus(shards)


def same(a: Batch, b: Batch) -> bool:
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("wave", "lengths", "starts", "weights"))
    return tensors and (a.ids, a.epoch, a.texts, a.rejected) == (b.ids, b.epoch, b.texts, b.rejected)


def stream_of(corpus: Corpus, cfg: DataConfig = CFG, **options) -> Stream:
    options = {"batches_per_step": 2} | options
    return Stream(corpus, Plan.pretrain(corpus, cfg, 1, align=320), cfg, **options)


def test_rows_are_the_crops_that_the_plan_names(corpus):
    plan = Plan.pretrain(corpus, CFG, 1, align=320)
    stream = stream_of(corpus)
    for step in range(plan.batches_per_epoch):
        for place, batch in enumerate(stream.step(step)):
            planned = plan.micro(2 * step + place)
            assert batch.ids == tuple(corpus.ids[row] for row in planned.rows)
            assert batch.epoch == planned.epoch
            assert not batch.padded
            assert batch.wave.shape == (len(batch.ids), planned.samples)
            assert batch.wave.dtype == torch.int16
            waves = batch.to("cpu").wave
            assert waves.dtype == torch.float32
            for name, start, wave in zip(batch.ids, batch.starts.tolist(), waves, strict=True):
                number = int(name.split("-")[1])
                expected = chirp(number, SECONDS[number])[start : start + planned.samples]
                np.testing.assert_allclose(wave.numpy(), expected, atol=1 / 32768)


def test_workers_resuming_and_ranks_change_nothing(corpus):
    """Two loader processes, a jump forward and back, and two ranks give what one process gives in a row."""
    with stream_of(corpus) as plain:
        expected = [list(plain.step(step)) for step in range(14)]
    parallel = replace(CFG, workers=2, loader="processes")
    with stream_of(corpus, parallel, start=3) as stream:
        steps = [3, 4, 5, 4]
        for step in steps:
            assert all(same(a, b) for a, b in zip(stream.step(step), expected[step], strict=True))
    for rank, workers in ((0, 0), (1, 1)):
        with stream_of(corpus, replace(parallel, workers=workers), rank=rank, world=2) as stream:
            for step in range(14):
                (batch,) = stream.step(step)
                assert same(batch, expected[step][rank])


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(corpus, workers):
    """Any number of loader threads, a jump forward and back, and two ranks give what one process gives in a row."""
    with stream_of(corpus) as plain:
        expected = [list(plain.step(step)) for step in range(14)]
    threaded = replace(CFG, workers=workers, loader="threads")
    with stream_of(corpus, threaded, start=3) as stream:
        for step in [3, 4, 5, 4, *range(14)]:
            assert all(same(a, b) for a, b in zip(stream.step(step), expected[step], strict=True))
    for rank in (0, 1):
        with stream_of(corpus, threaded, rank=rank, world=2) as stream:
            assert all(same(next(iter(stream.step(step))), expected[step][rank]) for step in range(14))


def test_memory_is_used_again_but_never_under_a_batch_that_is_kept(corpus):
    with stream_of(corpus) as plain:
        expected = [batch for step in range(28) for batch in plain.step(step)]
    with stream_of(corpus, replace(CFG, workers=2)) as stream:
        memory = stream._loader._slots.memory

        def reused(batch: Batch) -> bool:
            return memory.ctypes.data <= batch.wave.data_ptr() < memory.ctypes.data + memory.nbytes

        kept = [batch for step in range(14) for batch in stream.step(step)]
        assert {reused(batch) for batch in kept} == {True, False}  # more are kept than there is such memory for
        assert all(same(a, b) for a, b in zip(kept, expected[:28], strict=True))
        rows = [batch.wave[-1] for batch in kept[:3]]  # a view is enough to keep the memory of a batch
        kept.clear()
        again = []
        for step in range(14, 28):
            for batch, wanted in zip(stream.step(step), expected[2 * step : 2 * step + 2], strict=True):
                assert same(batch, wanted)
                again.append(reused(batch))
                del batch
        assert any(again)
        for row, wanted in zip(rows, expected[:3], strict=True):
            assert torch.equal(row, wanted.wave[-1])


def test_threads_of_a_large_corpus_give_the_batches_of_a_small_one(corpus):
    """The same folder, opened by its lengths: indexes are read by the threads that need them."""
    lazy = open_lazily(corpus.source, corpus.listing, ())
    with stream_of(corpus) as plain, stream_of(lazy, replace(CFG, workers=2, loader="threads")) as stream:
        for step in range(14):
            assert all(same(a, b) for a, b in zip(stream.step(step), plain.step(step), strict=True))
    with stream_of(lazy, replace(CFG, workers=1, loader="processes")) as stream:
        assert same(next(iter(stream.step(0))), next(stream_of(corpus).step(0)))


def test_an_index_that_is_gone_is_an_error_of_the_batch_that_needs_it(shards, tmp_path):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = open_corpus(tmp_path)
    corpus = open_lazily(whole.source, whole.listing, ())
    (tmp_path / "shard-000001.idx").unlink()
    for workers, kind in ((0, "threads"), (2, "threads"), (1, "processes")):
        with (
            stream_of(corpus, replace(CFG, workers=workers, loader=kind)) as stream,
            pytest.raises(DataError, match=r"shard-000001.idx: this shard is missing"),
        ):
            for step in range(10):
                list(stream.step(step))


def test_global_random_state_is_untouched(corpus):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    with stream_of(corpus, replace(CFG, workers=1, loader="processes")) as stream, stream_of(corpus) as plain:
        list(stream.step(0))
        list(plain.step(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before[1:]


def code_points(text: str) -> list[int]:
    return [ord(c) for c in text]


def test_finetuning_batches_have_targets_and_texts_and_follow_the_augmented_length(corpus):
    cfg = replace(CFG, max_seconds=30.0)
    plan = Plan.finetune(corpus, cfg, 1)
    augment = augmenter(AugmentConfig(speeds=(0.9, 1.1)), 1)
    options = {"encode": code_points, "augment": augment, "batches_per_step": 1}
    stream = Stream(corpus, plan, cfg, **options)
    seen = set()
    for step in range(plan.batches_per_epoch):
        (batch,) = stream.step(step)
        assert batch.wave.dtype == torch.float32
        assert batch.wave.shape[1] == int(batch.lengths.max())
        for i, name in enumerate(batch.ids):
            number = int(name.split("-")[1])
            length = int(batch.lengths[i])
            assert min(abs(length - SECONDS[number] * 16_000 / speed) for speed in (0.9, 1.1)) <= 1
            assert not batch.wave[i, length:].any()
            assert batch.texts[i] == f"tone number {number}"
            ids = batch.targets[i, : int(batch.target_lengths[i])].tolist()
            assert "".join(map(chr, ids)) == batch.texts[i]
            assert not batch.targets[i, len(ids) :].any()
        seen |= set(batch.ids)
    assert len(seen) == 40
    with_workers = Stream(corpus, plan, replace(cfg, workers=1), **options)
    with with_workers:
        assert same(next(iter(with_workers.step(0))), next(iter(stream.step(0))))


def test_finetuning_without_augmentation_has_stored_samples_and_zeros_after_them(corpus):
    plan = Plan.finetune(corpus, replace(CFG, max_seconds=30.0), 1)
    stream = Stream(corpus, plan, CFG, batches_per_step=1)
    batches = [next(iter(stream.step(step))) for step in range(plan.batches_per_epoch)]
    assert any(batch.padded for batch in batches)
    for batch in batches:
        assert batch.wave.dtype == torch.int16
        assert batch.targets is None
        assert batch.texts == ()
        for name, wave, length in zip(batch.ids, batch.wave, batch.lengths.tolist(), strict=True):
            expected = corpus.read(corpus.ids.index(name))
            assert np.array_equal(wave[:length].numpy(), expected * 32768)
            assert not wave[length:].any()


def test_empty_transcripts_give_empty_targets(corpus):
    plan = Plan.finetune(corpus, CFG, 1)
    (batch,) = Stream(corpus, plan, CFG, batches_per_step=1, encode=lambda text: []).step(0)
    assert batch.targets.shape == (len(batch.ids), 1)
    assert batch.target_lengths.tolist() == [0] * len(batch.ids)


@pytest.mark.parametrize(("workers", "kind"), [(0, "processes"), (1, "processes"), (2, "threads")])
def test_evaluation_gives_everybody_once_with_texts(corpus, workers, kind):
    cfg = replace(CFG, max_seconds=30.0, loader=kind)
    batches = list(evaluation_batches(corpus, cfg, workers=workers))
    ids = [name for batch in batches for name in batch.ids]
    assert sorted(ids) == sorted(corpus.ids)
    lengths = [length for batch in batches for length in batch.lengths.tolist()]
    assert lengths == sorted(lengths, reverse=True)
    assert all(batch.texts == tuple(f"tone number {int(name[-3:])}" for name in batch.ids) for batch in batches)
    shares = [list(evaluation_batches(corpus, cfg, workers=workers, rank=rank, world=3)) for rank in range(3)]
    assert sorted(name for share in shares for batch in share for name in batch.ids) == sorted(corpus.ids)
    assert list(evaluation_batches(open_with(corpus, "tone-000"), cfg, workers=workers, rank=1, world=2)) == []


def open_with(corpus: Corpus, name: str) -> Corpus:
    return open_corpus(corpus.source.name, ids=[name])


def test_ranks_that_do_not_divide_a_step_are_refused(corpus):
    with pytest.raises(ConfigError, match="not a multiple of the 2 ranks"):
        stream_of(corpus, batches_per_step=3, world=2)


@pytest.fixture
def broken(shards, tmp_path):
    """Shards of which the first half of the payloads of one tar is gone."""
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    corpus = open_corpus(tmp_path)
    rows = [corpus.row(i) for i in range(len(corpus)) if corpus.shard_of[i] == 1]
    for row in rows[: len(rows) // 2]:
        data[row.offset + 100] ^= 1
    path.write_bytes(data)
    return tmp_path, {row.id for row in rows[: len(rows) // 2]}


@pytest.mark.parametrize(("workers", "kind"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_bad_rows_are_silence_without_weight_and_are_listed(broken, workers, kind):
    folder, bad = broken
    corpus = open_corpus(folder)
    cfg = replace(CFG, workers=workers, loader=kind, max_bad_fraction=0.5)
    listed = []
    with stream_of(corpus, cfg) as stream:
        plan = Plan.pretrain(corpus, cfg, 1, align=320)
        for step in range(plan.batches_per_epoch // 2):
            for batch in stream.step(step):
                assert {entry.item for entry in batch.rejected} == bad & set(batch.ids)
                listed += batch.rejected
                for name, weight, wave in zip(batch.ids, batch.weights.tolist(), batch.wave, strict=True):
                    assert (weight, bool(wave.any())) == ((0.0, False) if name in bad else (1.0, True))
    assert {(entry.reason, entry.stage, entry.action) for entry in listed} == {
        ("damaged_payload", "pretrain", "dropped")
    }


def test_too_many_bad_rows_stop_the_run_with_counts_by_reason(broken):
    corpus = open_corpus(broken[0])
    stream = stream_of(corpus)
    seen = []
    message = r"11 of the last \d+ utterances could not be read \(damaged_payload: 11\)"
    with pytest.raises(TooManyBadError, match=message) as stopped:
        for step in range(100):
            for batch in stream.step(step):
                seen += batch.rejected
    assert len(seen) < 11 <= len([*seen, *stopped.value.entries])  # those of the last batch come with the error
    wholly_bad = open_corpus(broken[0], ids=sorted(broken[1]))
    seen = []
    with pytest.raises(DataError, match="could not be read"):
        for batch in evaluation_batches(wholly_bad, replace(CFG, max_bad_fraction=0.001), workers=0):
            seen += batch.rejected
    assert len(seen) >= 2
    with pytest.raises(DataError, match="could not be read"):
        list(evaluation_batches(wholly_bad, replace(CFG, max_bad_fraction=0.9), workers=0))


@dataclass
class Trap:
    """A corpus that does something at one row, in whatever process reads it."""

    corpus: Corpus
    what: str
    at: int

    def __getattr__(self, name):
        if name == "corpus":
            raise AttributeError(name)
        return getattr(self.corpus, name)

    def read(self, i, start=0, frames=None, *, out=None):
        if i == self.at:
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "hang":
                time.sleep(600)
            if self.what == "data":
                raise DataError("/x: the message of the worker")
            raise TypeError("a fault of the program")
        return self.corpus.read(i, start, frames, out=out)


def trapped(corpus, what, **changes):
    cfg = replace(CFG, workers=2, **changes)
    plan = Plan.pretrain(corpus, cfg, 1, align=320)
    return Stream(Trap(corpus, what, plan.micro(3).rows[0]), plan, cfg, batches_per_step=1)


def test_a_loader_process_that_dies_is_an_error(corpus):
    message = r"a loader process died, building batch [1-3] \(tone-\d+.* of shard-00000\d.tar.*lack of memory"
    with trapped(corpus, "die", loader="processes") as stream:
        list(stream.step(0))
        with pytest.raises(DataError, match=message):
            for step in range(1, 4):  # what a dead process had ready dies with it: earlier batches may be lost too
                list(stream.step(step))
        assert stream._loader._workers is None


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_loader_that_hangs_is_an_error_and_does_not_hold_the_program(corpus, kind):
    """The time that is allowed gets short only when all batches before the one that hangs are there."""
    began = time.monotonic()
    message = r"no batch came from the loader for 0.5 s .*batch 3 \(tone-\d+.* of shard-00000\d.tar"
    with trapped(corpus, "hang", loader=kind) as stream:
        for step in range(3):
            list(stream.step(step))
        stream._loader._supply = replace(stream._loader._supply, timeout=0.5)
        with pytest.raises(DataError, match=message):
            list(stream.step(3))
        assert stream._loader._workers is None
    assert time.monotonic() - began < 500  # it hangs for ten minutes
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("loader-"))


def test_closing_leaves_no_thread_behind(corpus):
    with stream_of(corpus, replace(CFG, workers=2, loader="threads")) as stream:
        list(stream.step(0))
        threads = list(stream._loader._workers._threads)
        assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_stream_goes_on_after_an_error(corpus, kind):
    with trapped(corpus, "data", loader=kind) as stream:
        with pytest.raises(DataError, match=r"^/x: the message of the worker$"):
            list(stream.step(3))
        assert list(stream.step(0))


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_fault_of_the_program_is_not_taken_for_bad_data(corpus, kind):
    with trapped(corpus, "bug", loader=kind) as stream, pytest.raises(TypeError, match="a fault of the program"):
        for step in range(4):
            list(stream.step(step))


def both(stream) -> set[int]:
    """Return the ids of two loader processes, once both have begun."""
    deadline = time.monotonic() + 300
    while len(ids := stream._loader._workers.ids) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return ids


def test_loader_processes_leave_signals_to_the_main_process(corpus):
    with stream_of(corpus, replace(CFG, workers=2, loader="processes")) as stream:
        list(stream.step(0))
        workers = both(stream)
        for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            for worker in workers:
                os.kill(worker, name)
        for step in range(1, 12):
            assert len(list(stream.step(step))) == 2
        assert all(alive(worker) for worker in workers)
    assert not any(alive(worker) for worker in workers)


KILLED = """
import sys, time
from dataclasses import replace
from tests.data.batches.test_stream import CFG, both, open_corpus, stream_of

if __name__ == "__main__":
    stream = stream_of(open_corpus(sys.argv[1]), replace(CFG, workers=2, loader="processes"))
    list(stream.step(0))
    print(*both(stream), flush=True)
    time.sleep(60)
"""


def test_no_process_outlives_a_killed_run(shards, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    run = [sys.executable, str(tmp_path / "killed.py"), str(shards)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    main = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    server = parent(workers[0])
    assert len(workers) == 2
    assert all(alive(pid) for pid in [*workers, server])
    main.kill()
    main.communicate()
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while any(alive(pid) for pid in [*workers, server]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_cannot_be_sent_to_a_loader_process_says_so(corpus):
    plan = Plan.pretrain(corpus, CFG, 1, align=320)
    with pytest.raises(DataError, match=r"the loader cannot start: .*data.workers = 0"):
        Stream(
            corpus, plan, replace(CFG, workers=1, loader="processes"), batches_per_step=1,
            augment=lambda wave, epoch, name: wave,
        )  # fmt: skip
