"""Shards: the same bytes always, whole or not there, nothing lost in silence, and stock webdataset reads them."""

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import ShardConfig
from speechssl.core.errors import DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import encode_flac
from speechssl.data.ingest.manifest import read_manifest, write_manifest
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.verify import verify_shards
from speechssl.data.store.writer import shard_manifest
from tests.support.chirps import chirp, chirp_manifest
from tests.support.processes import alive, children

SECONDS = [0.5 + 0.05 * i for i in range(40)]
CFG = ShardConfig(shard_seconds=12.0, workers=1)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.suffix != ".lock")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return chirp_manifest(tmp_path_factory.mktemp("tones"), SECONDS)


@pytest.fixture(scope="module")
def shards(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    calls = []
    summary = shard_manifest(manifest, folder, CFG, lambda done, total: calls.append((done, total)))
    assert (summary.shards, summary.utterances, summary.rejected) == (5, 40, {})
    assert summary.hours == pytest.approx(sum(SECONDS) / 3600)
    assert calls[-1] == (40, 40)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    return folder


@pytest.mark.parametrize("workers", [0, 3])
def test_bytes_do_not_depend_on_workers(manifest, shards, tmp_path, workers):
    shard_manifest(manifest, tmp_path, replace(CFG, workers=workers))
    assert hashes(tmp_path) == hashes(shards)


def test_threads_within_a_shard_change_nothing(manifest, tmp_path):
    one = replace(CFG, shard_seconds=3600.0)
    shard_manifest(manifest, tmp_path / "one", one)
    shard_manifest(manifest, tmp_path / "four", replace(one, workers=4))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "four")


def test_bytes_do_not_depend_on_where_the_manifest_lies_or_on_its_order(manifest, shards, tmp_path):
    utterances = read_manifest(manifest)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in manifest.parent.glob("*.wav"):
        (moved / path.name).write_bytes(path.read_bytes())
    write_manifest(moved / "manifest.jsonl", utterances[::-1])
    shard_manifest(moved / "manifest.jsonl", tmp_path / "shards", CFG)
    assert hashes(tmp_path / "shards") == hashes(shards)


def test_seed_changes_the_order_and_shards_are_of_equal_size(manifest, shards, tmp_path):
    shard_manifest(manifest, tmp_path, replace(CFG, seed=7))
    first, second = open_corpus(shards), open_corpus(tmp_path)
    assert first.ids != second.ids
    assert sorted(first.ids) == sorted(second.ids)
    audio = np.bincount(first.shard_of, weights=first.samples)
    assert audio.max() < 1.4 * audio.min()


def test_members_are_plain_ustar_with_nothing_that_varies(manifest, shards):
    known = {utterance.id: utterance for utterance in read_manifest(manifest)}
    for path in sorted(shards.glob("*.tar")):
        assert path.read_bytes()[257:263] == b"ustar\0"
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert all(
                (m.mtime, m.uid, m.gid, m.mode, m.uname, m.isreg()) == (0, 0, 0, 0o644, "", True) for m in members
            )
            assert len(members) % 3 == 0
            for flac, info, text in zip(members[0::3], members[1::3], members[2::3], strict=True):
                name = flac.name.removesuffix(".flac")
                assert (info.name, text.name) == (f"{name}.json", f"{name}.txt")
                fields = json.load(tar.extractfile(info))
                assert (fields["id"], fields["text"], fields["speaker"]) == (
                    name,
                    known[name].text,
                    known[name].speaker,
                )
                assert tar.extractfile(text).read().decode() == known[name].text


def test_audio_is_the_recording_as_16_bit_flac(manifest, shards):
    corpus = open_corpus(shards)
    for i in range(0, len(corpus), 7):
        number = int(corpus.ids[i].split("-")[1])
        expected, _ = soundfile.read(manifest.parent / f"{number}.wav", dtype="float32")
        np.testing.assert_array_equal(corpus.read(i), expected)
        assert soundfile.info(io.BytesIO(corpus.read_bytes(i))).subtype == "PCM_16"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_stock_webdataset_reads_the_shards(shards):
    import webdataset

    corpus = open_corpus(shards)
    expected = {name: corpus.read(i) for i, name in enumerate(corpus.ids)}
    paths = [str(path) for path in sorted(shards.glob("*.tar"))]
    seen = []
    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        seen.append(sample["__key__"])
        wave, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        assert rate == 16_000
        np.testing.assert_array_equal(wave, expected[seen[-1]])
        assert json.loads(sample["json"])["id"] == seen[-1]
        assert sample["txt"].decode().startswith("tone number")
    assert seen == corpus.ids


def test_stereo_at_another_rate_becomes_mono_at_16_khz(tmp_path):
    path = chirp_manifest(tmp_path / "in", [1.0])
    stereo = np.stack([chirp(1, 1.0, 44_100), np.zeros(44_100, np.float32)], axis=1)
    soundfile.write(tmp_path / "in" / "0.wav", stereo, 44_100)
    write_manifest(path, [replace(read_manifest(path)[0], sample_rate=44_100, channels=2)])
    waves = {}
    for channels in ("mean", "first"):
        shard_manifest(path, tmp_path / channels, replace(CFG, channels=channels))
        waves[channels] = open_corpus(tmp_path / channels).read(0)
    assert len(waves["first"]) == 16_000
    np.testing.assert_allclose(waves["mean"], waves["first"] / 2, atol=1 / 32768)
    np.testing.assert_allclose(waves["first"][2000:-2000], chirp(1, 1.0)[2000:-2000], atol=0.15)


def test_segments_of_one_file_are_cut_out(tmp_path):
    path = chirp_manifest(tmp_path / "in", [4.0])
    whole = read_manifest(path)[0]
    parts = [replace(whole, id=f"part-{i}", start=float(i), duration=1.0) for i in range(4)]
    write_manifest(path, parts)
    shard_manifest(path, tmp_path / "out", CFG)
    corpus = open_corpus(tmp_path / "out")
    source, _ = soundfile.read(tmp_path / "in" / "0.wav", dtype="float32")
    for i, name in enumerate(corpus.ids):
        start = 16_000 * int(name[-1])
        np.testing.assert_array_equal(corpus.read(i), source[start : start + 16_000])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_ids_of_any_allowed_length_survive(tmp_path):
    import webdataset

    path = chirp_manifest(tmp_path / "in", [0.5, 0.6, 0.7], prefix="x" * 95)
    names = ["a" * 95, "b" * 96, "c" * 120]
    write_manifest(path, [replace(item, id=name) for item, name in zip(read_manifest(path), names, strict=True)])
    shard_manifest(path, tmp_path / "out", CFG)
    corpus = open_corpus(tmp_path / "out")
    assert sorted(corpus.ids) == names
    assert [len(corpus.read(corpus.ids.index(name))) for name in names] == [8000, 9600, 11200]
    assert verify_shards(tmp_path / "out").ok
    tars = [str(next((tmp_path / "out").glob("*.tar")))]
    assert sorted(sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False)) == names


def test_manifest_of_the_shards_lists_what_is_in_them_in_shard_order(shards):
    utterances = read_manifest(shards / "manifest.jsonl")
    assert [utterance.id for utterance in utterances] == open_corpus(shards).ids
    assert list(open_corpus(shards).utterances().values()) == utterances


def damaged(manifest: Path, folder: Path, bad: set[int]) -> Path:
    folder.mkdir()
    for i in range(len(SECONDS)):
        source = manifest.parent / f"{i}.wav"
        (folder / source.name).write_bytes(b"<html>not found</html>" * 9 if i in bad else source.read_bytes())
    (folder / "manifest.jsonl").write_bytes(manifest.read_bytes())
    return folder / "manifest.jsonl"


def test_bad_recordings_go_to_the_ledger_and_stay_there_when_resumed(manifest, tmp_path):
    path = damaged(manifest, tmp_path / "in", {3, 17})
    (tmp_path / "in" / "17.wav").unlink()
    for _ in range(2):  # the second call keeps every shard, and must not forget what was rejected
        summary = shard_manifest(path, tmp_path / "out", CFG)
        entries = read_ledger(tmp_path / "out" / "ledger.jsonl")
        assert {entry.item for entry in entries} == {"tone-003", "tone-017"}
        assert {entry.stage for entry in entries} == {"shard"}
        assert summary.utterances == 38
        assert sum(summary.rejected.values()) == 2
    assert not {"tone-003", "tone-017"} & set(open_corpus(tmp_path / "out").ids)
    assert verify_shards(tmp_path / "out").ok


def test_a_recording_that_is_shorter_than_its_manifest_says_is_rejected(manifest, tmp_path):
    path = damaged(manifest, tmp_path / "in", set())
    soundfile.write(tmp_path / "in" / "20.wav", chirp(20, 0.4), 16_000)
    summary = shard_manifest(path, tmp_path / "out", CFG)
    assert summary.utterances == 39
    assert read_ledger(tmp_path / "out" / "ledger.jsonl")[0].item == "tone-020"


def test_half_garbage_stops_and_leaves_the_ledger_and_no_manifest(manifest, tmp_path):
    path = damaged(manifest, tmp_path / "in", set(range(0, 40, 2)))
    with pytest.raises(DataError, match=r"utterances could not be read \(\w+: 1\d\).*ledger\.jsonl"):
        shard_manifest(path, tmp_path / "out", CFG)
    assert len(read_ledger(tmp_path / "out" / "ledger.jsonl")) > 10
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    with pytest.raises(DataError, match="no finished shards here"):
        open_corpus(tmp_path / "out")


def test_repaired_recordings_are_tried_again(manifest, shards, tmp_path):
    path = damaged(manifest, tmp_path / "in", set(range(0, 40, 2)))
    with pytest.raises(DataError):
        shard_manifest(path, tmp_path / "out", CFG)
    for i in range(40):
        (tmp_path / "in" / f"{i}.wav").write_bytes((manifest.parent / f"{i}.wav").read_bytes())
    shard_manifest(path, tmp_path / "out", CFG)
    assert hashes(tmp_path / "out") == hashes(shards)


def test_an_empty_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(DataError, match="no utterances"):
        shard_manifest(tmp_path / "manifest.jsonl", tmp_path / "out", CFG)


def test_a_second_writer_is_refused(manifest, tmp_path):
    with (tmp_path / "shards.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("process 1 on elsewhere")
        held.flush()
        with pytest.raises(DataError, match="in use by process 1 on elsewhere"):
            shard_manifest(manifest, tmp_path, CFG)
    shard_manifest(manifest, tmp_path, CFG)


def test_stale_shards_are_replaced_and_foreign_ones_refused(manifest, shards, tmp_path):
    shard_manifest(manifest, tmp_path, replace(CFG, shard_seconds=5.0))
    assert len(list(tmp_path.glob("*.tar"))) > 5
    shard_manifest(manifest, tmp_path, CFG)
    assert hashes(tmp_path) == hashes(shards)
    (tmp_path / "other-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="not a shard named 'shard'"):
        shard_manifest(manifest, tmp_path, CFG)


SLOWLY = """
import sys, time
from pathlib import Path
from speechssl.config import ShardConfig
from speechssl.data.store import writer as shards

encode = shards.encode_payload
def slowly(wave, encoding):
    time.sleep(0.03)
    return encode(wave, encoding)
shards.encode_payload = slowly
if __name__ == "__main__":
    cfg = ShardConfig(shard_seconds=12.0, workers=int(sys.argv[3]))
    shards.shard_manifest(Path(sys.argv[1]), Path(sys.argv[2]), cfg)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_in_the_middle_then_again_gives_the_same_bytes(manifest, shards, tmp_path_factory, workers):
    scripts, tmp_path = tmp_path_factory.mktemp("scripts"), tmp_path_factory.mktemp("out")
    (scripts / "slowly.py").write_text(SLOWLY)
    run = [sys.executable, str(scripts / "slowly.py"), str(manifest), str(tmp_path), str(workers)]
    process = subprocess.Popen(run, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    try:
        deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
        while not (any(tmp_path.glob("*1.idx")) and any(tmp_path.glob("*.tar.*.tmp"))):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        started = children(process.pid)
        assert len(started) >= workers * (workers > 1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    while any(alive(pid) for pid in started):
        assert time.monotonic() < deadline, "worker processes outlive a killed run"
        time.sleep(0.02)
    assert not (tmp_path / "manifest.jsonl").exists()
    done = [path for path in tmp_path.glob("*.tar") if path.with_suffix(".idx").exists()]  # the index is last
    kept = {path.name: path.stat().st_ino for path in done}
    assert 1 <= len(kept) < 5
    shard_manifest(manifest, tmp_path, CFG)
    assert hashes(tmp_path) == hashes(shards)
    assert kept.items() <= {path.name: path.stat().st_ino for path in tmp_path.glob("*.tar")}.items()


FULL = """
import resource, signal, sys
from pathlib import Path
from speechssl.config import ShardConfig
from speechssl.data.store.writer import shard_manifest
from speechssl.core.errors import DataError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    shard_manifest(Path(sys.argv[1]), Path(sys.argv[2]), ShardConfig(shard_seconds=12.0, workers=1))
except DataError as error:
    print(error)
"""


def test_a_full_disk_names_the_shard_and_leaves_nothing_half_written(manifest, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(manifest), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "shard-000000.tar: cannot write the shard (File too large)" in done.stdout
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob("*.tar"))


DYING = """
import os, signal, sys
from pathlib import Path
from speechssl.config import ShardConfig
from speechssl.data.store import writer as shards
from speechssl.core.errors import DataError

if __name__ != "__main__":  # in a worker, which imports this file again
    shards.encode_payload = lambda wave, encoding: os.kill(os.getpid(), signal.SIGKILL)
else:
    try:
        shards.shard_manifest(Path(sys.argv[1]), Path(sys.argv[2]), ShardConfig(shard_seconds=12.0, workers=2))
    except DataError as error:
        print(error)
"""


def test_a_killed_worker_is_an_error_that_says_what_to_do(manifest, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    out = tmp_path / "out"
    run = [sys.executable, str(tmp_path / "dying.py"), str(manifest), str(out)]
    done = subprocess.run(
        run, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    assert "a worker process died while writing shards" in done.stdout
    assert not (out / "manifest.jsonl").exists()


@pytest.mark.shared_data
def test_real_speech_makes_the_round_trip(shared_data, tmp_path):
    from speechssl.data.ingest.manifest import Utterance

    folder = shared_data / "libri_many"
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:12]]
    write_manifest(
        tmp_path / "manifest.jsonl",
        [Utterance(f"u{i}", str(folder / row["audio"]), row["duration"], 16_000, 1) for i, row in enumerate(lines)],
    )
    summary = shard_manifest(tmp_path / "manifest.jsonl", tmp_path / "out", replace(CFG, shard_seconds=60.0))
    assert summary.utterances == 12
    corpus = open_corpus(tmp_path / "out")
    assert verify_shards(tmp_path / "out").ok
    for i in range(len(corpus)):
        wave = corpus.read(i)
        assert 0.001 < np.sqrt(np.mean(wave**2)) < 0.5
        assert encode_flac(wave) == corpus.read_bytes(i)
