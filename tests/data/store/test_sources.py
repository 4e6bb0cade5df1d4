"""Remote shards: fetched when needed, once, checked; never a command."""

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import AudioError, DataError
from speechssl.data.store import remote
from speechssl.data.store.identity import identity_of
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.remote import UnreachableError
from speechssl.data.store.sources import source_of
from tests.support.chirps import chirp_shards

SECONDS = [0.4 + 0.05 * i for i in range(12)]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; counts requests; does damage on demand."""

    def do_GET(self):
        self.server.requests[("GET", self.path)] += 1
        for part, faults in self.server.faults.items():
            if part in self.path and faults:
                return self.damage(faults.pop(0))
        return super().do_GET()

    def do_HEAD(self):
        self.server.requests[("HEAD", self.path)] += 1
        if self.server.no_head:
            return self.send_error(405)
        return super().do_HEAD()

    def damage(self, fault):
        if isinstance(fault, int):
            return self.send_error(fault)
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/x")
            return self.end_headers()
        if fault == "dropped":
            return self.connection.shutdown(socket.SHUT_RDWR)
        data = bytearray(Path(self.translate_path(self.path)).read_bytes())
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) * (2 if fault == "longer" else 1)))
        self.end_headers()
        if fault == "truncated":
            self.wfile.write(data[: len(data) // 2])
        elif fault == "flipped":
            data[len(data) // 2] ^= 1
            self.wfile.write(data)
        elif fault == "late":
            time.sleep(0.3)  # longer than the client waits
        elif fault == "longer":
            self.wfile.write(data + data)
        return None

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("remote"), SECONDS, shard_seconds=3.0)


@contextmanager
def serving(folder, port=0):
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as running:
        running.requests, running.faults, running.no_head = Counter(), {}, False
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.005)


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_the_same_corpus_through_http_and_each_file_fetched_once(server, folder, tmp_path):
    local = open_corpus(folder)
    far = open_corpus(address(server) + "/", cache=str(tmp_path))
    assert not any(method == "GET" and path.endswith(".tar") for method, path in server.requests)
    assert identity_of(far).digest == identity_of(local).digest
    np.testing.assert_array_equal(far.read(0), local.read(0))
    tars = [path for method, path in server.requests if method == "GET" and path.endswith(".tar")]
    assert len(tars) == 1, "only the shard that is needed"
    for i in range(len(local)):
        np.testing.assert_array_equal(far.read(i), local.read(i))
    assert far.utterances() == local.utterances()
    again = open_corpus(address(server), cache=str(tmp_path))
    again.read(5)
    counts = {path: n for (method, path), n in server.requests.items() if method == "GET" and path != "/summary.json"}
    assert set(counts.values()) == {1}
    assert not list(tmp_path.rglob("*.tmp"))


def test_splits_and_ids_work_from_afar(server, tmp_path):
    assert open_corpus(address(server), cache=str(tmp_path), splits=("dev",)).ids
    assert open_corpus(address(server), cache=str(tmp_path), ids=["tone-003"]).ids == ["tone-003"]


@pytest.mark.parametrize("fault", [503, 500, "truncated", "flipped", "dropped", "late"])
def test_passing_faults_are_tried_again(server, folder, tmp_path, fault, caplog, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.1 if fault == "late" else 30.0)
    server.faults = {"000001.tar": [fault, fault], "000000.idx": [fault], "summary.json": [503]}
    corpus = open_corpus(address(server), cache=str(tmp_path))
    i = int(np.flatnonzero(corpus.shard_of == 1)[0])
    np.testing.assert_array_equal(corpus.read(i), open_corpus(folder).read(i))
    assert server.requests["GET", "/shard-000001.tar"] == 3
    assert "trying again in" in caplog.text
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_server_that_never_gives_the_right_bytes_costs_rows_not_the_run(server, tmp_path):
    server.faults = {"000001.tar": ["flipped", "longer"] * 25}
    corpus = open_corpus(address(server), cache=str(tmp_path))
    i = int(np.flatnonzero(corpus.shard_of == 1)[0])
    with pytest.raises(AudioError, match=r"shard_unreadable .*expected .* after 8 attempts") as caught:
        corpus.read(i)
    assert caught.value.item == corpus.ids[i]
    assert len(corpus.read(int(np.flatnonzero(corpus.shard_of == 0)[0])))


def test_a_server_that_is_killed_stops_the_run_and_loses_nothing(folder, tmp_path):
    """A dead store says nothing about its rows: none of them becomes silence, and all are read when it is back."""
    with serving(folder) as running:
        port = running.server_port
        corpus = open_corpus(address(running), cache=str(tmp_path))
        first = corpus.read(0)
    other = int(np.flatnonzero(corpus.shard_of == 1)[0])
    with pytest.raises(UnreachableError, match=r"shard-000001.tar: .*after 8 attempts"):
        corpus.read(other)
    np.testing.assert_array_equal(corpus.read(0), first)
    with serving(folder, port):
        np.testing.assert_array_equal(corpus.read(other), open_corpus(folder).read(other))


def test_an_object_of_another_size_is_refused_when_the_corpus_is_opened(server, folder, tmp_path):
    tar = folder / "shard-000002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    try:
        with pytest.raises(DataError, match=rf"shard-000002.tar: has {len(whole) - 512} bytes, and {len(whole)} were"):
            open_corpus(address(server), cache=str(tmp_path))
    finally:
        tar.write_bytes(whole)


def test_a_warm_cache_asks_for_the_listing_alone(server, tmp_path):
    corpus = open_corpus(address(server), cache=str(tmp_path))
    read = [corpus.read(i) for i in range(len(corpus))]
    server.requests.clear()
    again = open_corpus(address(server), cache=str(tmp_path))
    assert all(np.array_equal(again.read(i), wave) for i, wave in enumerate(read))
    assert server.requests == {("GET", "/summary.json"): 1}


def test_the_cache_holds_what_it_may_and_drops_the_least_recently_opened(server, folder, tmp_path, monkeypatch):
    sizes = [tar.stat().st_size for tar in sorted(folder.glob("*.tar"))]
    assert len(sizes) >= 3
    corpus = open_corpus(address(server), cache=str(tmp_path), cache_gb=1.5 * max(sizes) / 1e9)
    rows = [int(np.flatnonzero(corpus.shard_of == shard)[0]) for shard in range(3)]
    for row in rows:
        corpus.read(row)
    assert len(list(tmp_path.rglob("*.tar"))) == 3, "what was opened within a minute stays"
    monkeypatch.setattr(remote, "IN_USE", 0.0)
    for place, tar in enumerate(sorted(tmp_path.rglob("*.tar"))):
        os.utime(tar, (0, [2, 1, 3][place]))
    corpus.source._make_room()
    assert [tar.name[:12] for tar in tmp_path.rglob("*.tar")] == ["shard-000002"]
    fresh = open_corpus(address(server), cache=str(tmp_path), cache_gb=1.5 * max(sizes) / 1e9)
    for row in rows:
        np.testing.assert_array_equal(fresh.read(row), open_corpus(folder).read(row))
        assert sum(tar.stat().st_size for tar in tmp_path.rglob("*.tar")) <= 1.5 * max(sizes)


def test_a_missing_shard_fails_at_start_with_its_name(server, folder, tmp_path):
    server.faults = {"000001.idx": [404] * 9}
    with pytest.raises(DataError, match=r"shard-000001.idx: cannot be read .*404.* after 1 attempt;"):
        open_corpus(address(server), cache=str(tmp_path))
    server.faults = {}
    hidden = folder / "shard-000002.tar"
    hidden.rename(folder / "hidden")
    try:
        with pytest.raises(DataError, match=r"shard-000002.tar: cannot be read .*404"):
            open_corpus(address(server), cache=str(tmp_path))
    finally:
        (folder / "hidden").rename(hidden)


def test_a_server_without_head_is_served_too(server, tmp_path):
    server.no_head = True
    assert len(open_corpus(address(server), cache=str(tmp_path)).read(0))


def test_a_redirect_to_another_kind_of_address_is_refused(server, tmp_path):
    server.faults = {"summary.json": ["redirect"] * 9}
    with pytest.raises(DataError, match=r"summary.json: cannot be read"):
        open_corpus(address(server), cache=str(tmp_path))


def test_without_a_network_the_cache_serves(folder, tmp_path, caplog):
    with serving(folder) as running:
        corpus = open_corpus(address(running), cache=str(tmp_path))
        expected = [corpus.read(i) for i in range(len(corpus))]
    fresh = [corpus.read(i) for i in range(len(corpus))]
    assert all(np.array_equal(a, b) for a, b in zip(expected, fresh, strict=True))
    with pytest.raises(DataError, match=r"cannot be read .*after 8 attempts; check the address"):
        open_corpus(address(running), cache=str(tmp_path / "other"))
    offline = open_corpus(address(running), cache=str(tmp_path))
    assert all(np.array_equal(offline.read(i), wave) for i, wave in enumerate(expected))
    assert source_of(address(running), str(tmp_path)).listing() == (folder / "summary.json").read_bytes()
    assert "going on with the cached listing" in caplog.text


def test_several_processes_fetch_a_shard_once(server, tmp_path):
    code = """
import sys
from speechssl.data.store.reader import open_corpus
corpus = open_corpus(sys.argv[1], cache=sys.argv[2])
print(sum(float(corpus.read(i).sum()) for i in range(len(corpus))))
"""
    run = [sys.executable, "-c", code, address(server), str(tmp_path)]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=500)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    counts = {path: n for (method, path), n in server.requests.items() if method == "GET" and path != "/summary.json"}
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("kind", ["pipe:touch {}", "pipe:touch {} #", "ftp://127.0.0.1/{}", "github://o:r@/{}"])
def test_other_kinds_of_address_are_refused_and_run_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="shards are read from a folder, file://, http://, https://, s3://"):
        open_corpus(kind.format("evil"))
    assert list(tmp_path.iterdir()) == []


def test_folders_and_file_addresses(folder, tmp_path, monkeypatch):
    assert open_corpus(f"file://{folder}").ids == open_corpus(str(folder)).ids
    odd = tmp_path / "a:b"
    odd.symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert open_corpus("a:b").ids
    with pytest.raises(DataError, match="no shards are named"):
        open_corpus("")
    with pytest.raises(DataError, match="no such folder"):
        open_corpus(tmp_path / "absent")


def test_the_default_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_of("https://example.org/x/").cache.parent == tmp_path / ".cache" / "speechssl"
    assert source_of("https://example.org/x").cache == source_of("https://example.org/x/").cache
    assert source_of("https://example.org/x").cache != source_of("http://example.org/x").cache


def test_a_full_cache_is_not_tried_again(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    corpus = open_corpus(address(server), cache=str(tmp_path))
    monkeypatch.setattr(remote, "atomic_file", full)
    with pytest.raises(AudioError, match=r"No space left on device.*after 1 attempt;"):
        corpus.read(0)
