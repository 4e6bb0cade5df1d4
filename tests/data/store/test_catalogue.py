"""A corpus opened by its lengths is the corpus opened by its indexes: the same rows, plans and batches; and small."""

import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from speechssl.config import DataConfig
from speechssl.core.errors import DataError
from speechssl.data.batches import selection
from speechssl.data.batches.plan import Plan
from speechssl.data.store import catalogue, reader
from speechssl.data.store.identity import identity_of
from speechssl.data.store.reader import Corpus, open_corpus, open_lazily
from tests.support.chirps import chirp_shards

SECONDS = [0.4 + 0.05 * (i * 7 % 40) for i in range(60)]
CFG = DataConfig(min_seconds=0.6, max_seconds=1.5, batch_seconds=4.0, buckets=4, window_shards=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("catalogue"), SECONDS, shard_seconds=8.0)


@pytest.fixture
def copy(shards, tmp_path):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def both(folder: Path, *splits: str) -> tuple[Corpus, Corpus]:
    eager = open_corpus(folder, splits=splits)
    lazy = open_lazily(eager.source, eager.listing, splits)
    assert lazy.lazy
    assert not eager.lazy
    return eager, lazy


@pytest.mark.parametrize("splits", [(), ("train",), ("dev", "test")])
def test_the_same_rows(shards, monkeypatch, splits):
    monkeypatch.setattr(catalogue, "SPAN", 7)
    monkeypatch.setattr(catalogue.spans, "__kwdefaults__", {"step": 1, "rows": 7})
    eager, lazy = both(shards, *splits)
    assert len(eager) == len(lazy)
    assert eager.first_rows.tolist() == lazy.first_rows.tolist()
    assert [lazy.row(i) for i in range(len(lazy))] == [eager.row(i) for i in range(len(eager))]
    assert lazy.ids == eager.ids
    assert lazy.samples.tolist() == eager.samples.tolist()
    assert lazy.shard_of.tolist() == eager.shard_of.tolist()
    assert identity_of(lazy).digest == identity_of(eager).digest
    assert lazy.utterances().keys() == eager.utterances().keys()
    assert np.array_equal(lazy.read(3), eager.read(3))


@pytest.mark.parametrize("window", [1, 2, 100])
def test_the_same_plans_batch_for_batch(shards, window):
    eager, lazy = both(shards, "train")
    cfg = replace(CFG, window_shards=window)
    for make in (
        lambda corpus: Plan.pretrain(corpus, cfg, 3, align=320),
        lambda corpus: Plan.finetune(corpus, cfg, 3),
        lambda corpus: Plan.sequential(corpus, cfg),
    ):
        one, other = make(eager), pickle.loads(pickle.dumps(make(lazy)))
        assert one.batches_per_epoch == other.batches_per_epoch
        assert [one.micro(k) for k in range(3 * one.n_batches)] == [other.micro(k) for k in range(3 * one.n_batches)]
        assert one.dropped == other.dropped
        assert one.dropped_counts == other.dropped_counts
        assert (one.n_rows, one.n_samples) == (other.n_rows, other.n_samples)
        assert one.n_samples == int(eager.samples[one.rows].sum())
        assert one.rows.tolist() == other.rows.tolist()
    assert one.dropped


def test_a_large_corpus_is_opened_by_its_lengths_unless_ids_are_listed(shards, monkeypatch):
    monkeypatch.setattr(reader, "LARGE", 10)
    assert open_corpus(shards, splits=("train",)).lazy
    assert not open_corpus(shards, ids=["tone-001"]).lazy
    with pytest.raises(DataError, match="no utterance of split dve; splits in these shards: dev, test, train"):
        open_corpus(shards, splits=("dve",))


def test_shards_of_earlier_versions_are_opened_by_their_indexes(copy, monkeypatch):
    import json

    monkeypatch.setattr(reader, "LARGE", 10)
    old = json.loads((copy / "summary.json").read_text())
    del old["splits"], old["lengths_crc32"]
    (copy / "summary.json").write_text(json.dumps(old))
    (copy / "lengths.bin").unlink()
    assert not open_corpus(copy).lazy


def test_many_left_out_are_counted_not_named(shards, monkeypatch):
    _, lazy = both(shards)
    plan = Plan.pretrain(lazy, CFG, 3, align=320)
    named = plan.dropped
    assert len(named) == plan.dropped_counts["too_short"] > 2
    monkeypatch.setattr(selection, "LISTED_SHARDS", 1)
    (entry,) = Plan.pretrain(lazy, CFG, 3, align=320).dropped
    assert (entry.item, entry.reason) == (lazy.source.name, "too_short")
    assert entry.detail == f"{len(named)} utterances, the limit is 0.6 s"


def test_damage_is_an_error_when_it_is_met(copy):
    _, lazy = both(copy)
    last = len(lazy) - 1
    name = lazy.listing.shards[-1].name
    whole = (copy / f"{name}.idx").read_bytes()
    (copy / f"{name}.idx").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=rf"{name}.idx: the shard index is damaged"):
        lazy.row(last)
    (copy / f"{name}.idx").unlink()
    with pytest.raises(DataError, match=rf"{name}.idx: this shard is missing"):
        lazy.row(last)
    assert lazy.row(0).shard == 0
    (copy / f"{name}.idx").write_bytes(whole)
    assert lazy.row(last).shard == lazy.n_shards - 1


def test_lengths_of_other_shards_are_found_out(copy, monkeypatch):
    _, lazy = both(copy)
    monkeypatch.setattr(type(lazy._rows._table), "lengths", lambda table, first, last: np.ones(last - first, "<u4"))
    with pytest.raises(DataError, match=r"lengths.bin: not of the same shards as the indexes"):
        lazy.row(0)
    shorter = replace(lazy.listing, shards=lazy.listing.shards[:-1])
    with pytest.raises(DataError, match=r"lengths.bin: not of these shards"):
        open_lazily(lazy.source, shorter, ())


def test_a_passing_fault_is_forgiven_and_a_lasting_one_is_said(shards, monkeypatch):
    _, lazy = both(shards)
    monkeypatch.setattr(catalogue.time, "sleep", lambda seconds: None)
    failures = [OSError(116, "Stale file handle", "x.idx")]
    read = catalogue.parse_index

    def parse(*arguments, **named):
        if failures:
            raise failures.pop()
        return read(*arguments, **named)

    monkeypatch.setattr(catalogue, "parse_index", parse)
    assert lazy.row(0)
    failures += [OSError(5, "Input/output error", "y.idx")] * 3
    with pytest.raises(DataError, match=r"y.idx: the index cannot be read \(Input/output error\)"):
        lazy.row(len(lazy) - 1)


def test_few_rows_are_kept_and_threads_agree(shards, monkeypatch):
    monkeypatch.setattr(catalogue, "CACHED_ROWS", 1)
    eager, lazy = both(shards)
    failures = []

    def work(step: int) -> None:
        try:
            assert all(lazy.row(i) == eager.row(i) for i in range(0, len(eager), step))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(lazy._rows._cache) == 1


def test_spans_cover_every_shard_once_and_cut_at_steps():
    first_rows = np.concatenate([[0], np.cumsum([5, 0, 70, 3, 3, 0, 0, 200, 1])])
    for step in (1, 2, 4, 100):
        found = catalogue.spans(first_rows, step=step, rows=10)
        assert (found[0][0], found[-1][1]) == (0, 9)
        assert all(a[1] == b[0] for a, b in pairwise(found))
        assert all(first % step == 0 for first, _ in found)
    assert len(catalogue.spans(first_rows, rows=10)) > 2


def test_two_million_utterances_start_quickly_in_little_memory(tmp_path):
    """2,000 simulated shards: one window of indexes is read, at the start as in epoch 3."""
    code = """
import json, sys
from pathlib import Path
from benchmarks.plan import simulate, start
folder = Path(sys.argv[1])
simulate(folder, 2000, 1000)
print(json.dumps([start(str(folder), 1000, place, torch=False) for place in (0.0, 3.4)]))
"""
    root = Path(__file__).parents[3]
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True, check=True)
    import json

    for found in json.loads(done.stdout):
        assert 16 <= found["indexes_read"] <= 32
        parts = found["cpu_seconds_of_parts"]
        assert parts["open"] + parts["plan"] + parts["batch"] < 2
        assert found["megabytes"]["peak"] - found["megabytes"]["after_imports"] < 100
