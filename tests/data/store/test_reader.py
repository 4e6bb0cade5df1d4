"""Corpus: which utterances, from any thread or process, each checked against the index."""

import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import AudioError, DataError
from speechssl.data.store import open_files, reader
from speechssl.data.store.identity import identity_of
from speechssl.data.store.reader import open_corpus
from tests.support.chirps import chirp, chirp_shards

SECONDS = [0.5 + 0.05 * i for i in range(30)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("corpus"), SECONDS, shard_seconds=8.0)


@pytest.fixture
def copy(shards, tmp_path):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def check_all(corpus):
    for i, name in enumerate(corpus.ids):
        number = int(name.split("-")[1])
        np.testing.assert_allclose(corpus.read(i), chirp(number, SECONDS[number]), atol=1 / 32768)


def test_rows_are_described_as_they_are_read(shards):
    corpus = open_corpus(shards)
    assert len(corpus) == len(corpus.ids) == 30
    assert corpus.n_shards == len(list(shards.glob("*.tar"))) == 5
    assert corpus.samples.tolist() == [len(corpus.read(i)) for i in range(30)]
    for i in range(30):
        row = corpus.row(i)
        assert (row.id, row.samples, row.shard) == (corpus.ids[i], corpus.samples[i], corpus.shard_of[i])
        data = (shards / f"shard-{row.shard:06d}.tar").read_bytes()
        assert data[row.offset : row.offset + row.size] == corpus.read_bytes(i)
    check_all(corpus)


def test_a_part_is_the_same_samples(shards):
    corpus = open_corpus(shards)
    whole = corpus.read(4)
    np.testing.assert_array_equal(corpus.read(4, 1234, 5000), whole[1234:6234])
    np.testing.assert_array_equal(corpus.read(4, 1234), whole[1234:])
    assert len(corpus.read(4, len(whole))) == 0
    with pytest.raises(ValueError, match="samples 1 to"):
        corpus.read(4, 1, len(whole))


def test_stored_samples_and_float32_are_the_same_numbers(shards):
    corpus = open_corpus(shards)
    stored, scaled = np.empty(5000, np.int16), np.full(5000, np.nan, np.float32)
    assert corpus.read(4, 1234, 5000, out=stored) is stored
    assert corpus.read(4, 1234, 5000, out=scaled) is scaled
    assert stored.any()
    assert np.array_equal(scaled, stored.astype(np.float64) / 32768)


def test_splits(shards):
    counts = {split: len(open_corpus(shards, splits=(split,))) for split in ("train", "dev", "test")}
    assert counts == {"train": 24, "dev": 3, "test": 3}
    assert len(open_corpus(shards, splits=("dev", "test"))) == 6
    with pytest.raises(DataError, match="no utterance of split dve; splits in these shards: dev, test, train"):
        open_corpus(shards, splits=("dve",))


def test_an_utterance_without_a_split_is_training_data(tmp_path):
    from speechssl.config import ShardConfig
    from speechssl.data.ingest.manifest import read_manifest, write_manifest
    from speechssl.data.store.writer import shard_manifest
    from tests.support.chirps import chirp_manifest

    path = chirp_manifest(tmp_path / "in", [0.5, 0.6])
    write_manifest(path, [replace(item, split=None) for item in read_manifest(path)])
    shard_manifest(path, tmp_path / "out", ShardConfig(workers=1))
    assert len(open_corpus(tmp_path / "out", splits=("train",))) == 2


def test_ids_choose_whatever_the_split_and_however_they_are_written(shards):
    corpus = open_corpus(shards, splits=("train",), ids=["tone-000", "tone/005", "tone-001", "absent"])
    assert sorted(corpus.ids) == ["tone-000", "tone-001"]
    assert sorted(open_corpus(shards, ids=iter(["tone-000"])).utterances()) == ["tone-000"]
    with pytest.raises(DataError, match="none of the 1 listed ids"):
        open_corpus(shards, ids=["absent"])


def test_fingerprint_follows_audio_and_choice(shards, tmp_path):
    again = chirp_shards(tmp_path / "again", SECONDS, shard_seconds=8.0)
    other = chirp_shards(tmp_path / "other", [*SECONDS[:-1], 0.6], shard_seconds=8.0)
    assert identity_of(open_corpus(shards)).digest == identity_of(open_corpus(again)).digest
    assert identity_of(open_corpus(shards)).digest != identity_of(open_corpus(other)).digest
    assert identity_of(open_corpus(shards)).digest != identity_of(open_corpus(shards, splits=("dev",))).digest


def test_many_threads_with_few_open_files(shards, monkeypatch):
    monkeypatch.setattr(open_files, "MOST", 1)
    corpus = open_corpus(shards)
    failures = []
    before = len(list(Path("/proc/self/fd").iterdir()))

    def work():
        try:
            for _ in range(3):
                check_all(corpus)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(corpus._files._open) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_reads_with_a_lock_held_by_another_thread(shards):
    corpus = open_corpus(shards)
    corpus.read(0)
    with corpus._files._lock:  # what a fork can catch any thread at
        child = os.fork()
        if child == 0:
            try:
                check_all(corpus)
                os._exit(0)
            finally:
                os._exit(1)
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.02)
    assert done[1] == 0
    check_all(corpus)


def test_a_sent_corpus_opens_its_own_files(shards):
    corpus = open_corpus(shards)
    corpus.read(0)
    corpus.utterances()
    sent = pickle.loads(pickle.dumps(corpus))
    assert not sent._files._open
    check_all(sent)
    assert sent.utterances() == corpus.utterances()


@pytest.mark.parametrize("suffix", ["tar", "idx"])
def test_a_missing_shard_fails_at_once_with_its_name(copy, suffix):
    (copy / f"shard-000002.{suffix}").unlink()
    with pytest.raises(DataError, match=rf"shard-000002.{suffix}: this shard is missing"):
        open_corpus(copy)


def test_an_index_of_other_shards_is_refused(copy, tmp_path):
    other = chirp_shards(tmp_path / "other", SECONDS[::-1], shard_seconds=8.0)
    (copy / "shard-000001.idx").write_bytes((other / "shard-000001.idx").read_bytes())
    with pytest.raises(DataError, match=r"shard-000001.idx: this index belongs to other shards"):
        open_corpus(copy)


def test_a_manifest_that_changed_is_refused(copy):
    path = copy / "manifest.jsonl"
    path.write_text(path.read_text().replace("tone number 3", "tone number 4"))
    with pytest.raises(DataError, match=r"manifest.jsonl: changed since"):
        open_corpus(copy).utterances()


def test_a_shard_that_vanishes_or_cannot_be_read_is_a_row_error(copy, monkeypatch):
    corpus = open_corpus(copy)
    row = corpus.row(0)
    (copy / f"shard-{row.shard:06d}.tar").unlink()
    with pytest.raises(AudioError) as caught:
        corpus.read(0)
    assert (caught.value.item, caught.value.reason) == (row.id, "shard_unreadable")

    calls = []

    def failing(*_):
        calls.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(open_files.os, "preadv", failing)
    with pytest.raises(AudioError, match="Input/output error"):
        corpus.read(29)
    assert len(calls) == reader.READ_ATTEMPTS


def test_a_passing_fault_of_the_disk_is_forgiven(shards, monkeypatch):
    corpus, preadv, failures = open_corpus(shards), os.preadv, [OSError(116, "Stale file handle")]

    def stale(*arguments):
        if failures:
            raise failures.pop()
        return preadv(*arguments)

    monkeypatch.setattr(open_files.os, "preadv", stale)
    assert len(corpus.read(0)) == corpus.samples[0]


def test_stored_bytes_stay_what_they_were_when_others_are_read(shards, monkeypatch):
    corpus = open_corpus(shards)
    first = corpus.read_bytes(0)
    before = bytes(first)
    wave = corpus.read(0)
    corpus.read(1)
    assert (first, corpus.read_bytes(0)) == (before, before)
    monkeypatch.setattr(reader, "SCRATCH", 1000)  # a payload longer than what a thread keeps
    assert np.array_equal(open_corpus(shards).read(0), wave)


def test_payloads_that_are_not_what_the_index_says(shards, monkeypatch):
    corpus = open_corpus(shards)
    good = corpus.read_bytes(0)
    monkeypatch.setattr(corpus, "_payload", lambda row: b"fLaC" + bytes(40))
    with pytest.raises(AudioError, match="undecodable"):
        corpus.read(0)
    monkeypatch.setattr(corpus, "_payload", lambda row: good)
    row = corpus.row(0)
    with monkeypatch.context() as lying:
        lying.setattr(corpus, "row", lambda i: replace(row, samples=row.samples + 1))
        with pytest.raises(AudioError, match="length_mismatch"):
            corpus.read(0)
    monkeypatch.setattr(corpus, "_payload", lambda row: good[: len(good) * 2 // 3])
    with pytest.raises(AudioError, match=r"length_mismatch|undecodable"):
        corpus.read(0)


def test_a_flac_header_that_lies_costs_no_memory(shards):
    """2^36 - 1 samples claimed: rejected by comparison, before anything is allocated."""
    code = f"""
import resource
from speechssl.data.store.reader import open_corpus
from speechssl.core.errors import AudioError
corpus = open_corpus({str(shards)!r})
payload = bytearray(corpus.read_bytes(0))
payload[21] |= 15
payload[22:26] = b"\\xff" * 4
corpus._payload = lambda row: bytes(payload)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    corpus.read(0)
except AudioError as error:
    print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["length_mismatch", "True"]


def test_reading_needs_no_torch(shards):
    code = f"""
import sys
from speechssl.data.store.reader import open_corpus
open_corpus({str(shards)!r}).read(0)
print('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
