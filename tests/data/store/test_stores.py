"""Object stores: shards read from and written to an S3 server that the tests start, and fsspec's memory file system."""

import json
import logging
import os

import fsspec
import numpy as np
import pytest

from speechssl.cli.main import main
from speechssl.core.errors import DataError
from speechssl.core.files import exclusive
from speechssl.data.store import remote, writer
from speechssl.data.store.identity import identity_of
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.remote import fetch, files_below, put, remove
from tests.support.chirps import chirp_manifest, chirp_shards

SECONDS = [0.4 + 0.05 * i for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chirp_shards(tmp_path_factory.mktemp("stores"), SECONDS, shard_seconds=3.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.005)


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture(scope="module")
def s3():
    """Address of a bucket of moto's S3 server, which runs in this process on a free port."""
    s3fs = pytest.importorskip("s3fs", reason="the extra stores (s3fs) is not installed")
    reason = "moto's S3 server is not installed: `make setup` installs it"
    pytest.importorskip("flask", reason=reason)
    pytest.importorskip("flask_cors", reason=reason)
    server_module = pytest.importorskip("moto.server", reason=reason)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    settings = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("speech")
        yield "s3://speech"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def store(request):
    request.getfixturevalue(request.param)
    return f"{'s3://speech' if request.param == 's3' else 'memory://speech'}/{request.node.name.replace('[', '-')[:-1]}"


def copy(folder, address):
    for path in folder.iterdir():
        put(path, f"{address}/{path.name}")


def test_the_same_corpus_from_a_store(store, folder, tmp_path):
    copy(folder, store)
    local, far = open_corpus(folder), open_corpus(store, cache=str(tmp_path))
    assert identity_of(far).digest == identity_of(local).digest
    for i in range(len(local)):
        np.testing.assert_array_equal(far.read(i), local.read(i))
    assert far.utterances() == local.utterances()


def test_files_are_written_listed_and_removed(store, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 1000)
    put(path, f"{store}/x/a")
    put(path, f"{store}/b")
    assert files_below(store) == {"x/a": 256_000, "b": 256_000}
    assert fetch(f"{store}/x/a") == path.read_bytes()
    remove(f"{store}/b")
    assert files_below(store) == {"x/a": 256_000}
    assert files_below(f"{store}/none") == {}
    with pytest.raises(DataError, match=r"/none: cannot be read .* after 1 attempt;"):
        fetch(f"{store}/none")


def test_a_damaged_object_costs_its_rows_and_is_named(s3, folder, tmp_path):
    address = f"{s3}/damaged"
    copy(folder, address)
    data = bytearray((folder / "shard-000001.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad").write_bytes(data)
    put(tmp_path / "bad", f"{address}/shard-000001.tar")
    corpus = open_corpus(address, cache=str(tmp_path / "cache"))
    with pytest.raises(Exception, match=r"shard_unreadable .*shard-000001.tar.*expected .* after 8 attempts"):
        corpus.read(int(np.flatnonzero(corpus.shard_of == 1)[0]))
    (tmp_path / "bad").write_bytes(data[:-1])
    put(tmp_path / "bad", f"{address}/shard-000001.tar")
    with pytest.raises(DataError, match=rf"shard-000001.tar: has {len(data) - 1} bytes, and {len(data)} were written"):
        open_corpus(address, cache=str(tmp_path / "other"))


def test_a_process_forked_after_the_store_was_used_reads_it_too(s3, folder, tmp_path):
    copy(folder, f"{s3}/forked")
    corpus = open_corpus(f"{s3}/forked", cache=str(tmp_path))
    if (child := os.fork()) == 0:
        os._exit(0 if len(corpus.read(0)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_passing_errors_of_a_store_are_tried_again(memory, folder, tmp_path, monkeypatch, caplog):
    copy(folder, "memory://speech")
    corpus = open_corpus("memory://speech", cache=str(tmp_path))
    reading, failures = type(memory).open, [TimeoutError("no answer"), RuntimeError("500")]

    def unsteady(*args, **kwargs):
        if failures:
            raise failures.pop()
        return reading(*args, **kwargs)

    monkeypatch.setattr(type(memory), "open", unsteady)
    np.testing.assert_array_equal(corpus.read(0), open_corpus(folder).read(0))
    assert failures == []
    assert caplog.text.count("trying again in") == 2


def test_an_upload_that_arrives_in_part_is_sent_again(memory, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"whole")
    sending, cuts = type(memory).put_file, [1]

    def cut(self, source, target):
        sending(self, source, target)
        if cuts and cuts.pop():
            self.pipe_file(target, b"wh")

    monkeypatch.setattr(type(memory), "put_file", cut)
    put(tmp_path / "a", "memory://x/a")
    assert memory.cat_file("/x/a") == b"whole"


def test_a_store_whose_library_is_not_installed_says_what_to_install(monkeypatch, tmp_path):
    def absent(kind):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(
        DataError, match=r"Install s3fs to access S3; install it by `pip install 'speechssl\[stores\]'`"
    ):
        open_corpus("s3://bucket/shards", cache=str(tmp_path))


@pytest.mark.parametrize("address", ["s3://a::file:///etc", "memory://a::github://o:r@/x"])
def test_chained_addresses_open_nothing_else(address, memory, tmp_path):
    with pytest.raises(DataError, match=r"cannot be read|install"):
        open_corpus(address, cache=str(tmp_path))


def test_shards_written_to_a_store_are_those_of_a_folder(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    manifest = chirp_manifest(tmp_path / "corpus", SECONDS)
    settings = ["--shard-seconds", "3", "--workers", "1"]
    assert main(["shard", str(manifest), str(tmp_path / "shards"), *settings]) == 0
    assert main(["shard", str(manifest), store, *settings]) == 0
    names = {path.name: path for path in (tmp_path / "shards").iterdir() if path.suffix != ".lock"}
    assert files_below(store).keys() == names.keys()
    assert all(fetch(f"{store}/{name}") == path.read_bytes() for name, path in names.items())
    assert not list((tmp_path / "home").rglob("*.tar")), "a shard that was uploaded does not stay here"
    # Another machine goes on where this one stopped, and writes nothing again that is whole.
    for name in ("shard-000001.idx", "manifest.jsonl", "summary.json"):
        remove(f"{store}/{name}")
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    sent = []
    monkeypatch.setattr(
        "speechssl.data.store.destination.put", lambda path, url: sent.append(path.name) or put(path, url)
    )
    assert main(["shard", str(manifest), store, *settings]) == 0
    assert {name for name in sent if name.startswith("shard-")} == {"shard-000001.tar", "shard-000001.idx"}
    assert all(fetch(f"{store}/{name}") == path.read_bytes() for name, path in names.items())
    assert json.loads(fetch(f"{store}/summary.json"))["utterances"] == len(SECONDS)
    capsys.readouterr()


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_parts_make_what_one_call_makes(where, tmp_path, capsys, monkeypatch, memory):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    manifest = chirp_manifest(tmp_path / "corpus", SECONDS)
    whole, parts = tmp_path / "whole", str(tmp_path / "parts") if where == "folder" else "memory://parts"
    command = ["shard", str(manifest), parts, "--shard-seconds", "2", "--workers", "1"]
    assert main(["shard", str(manifest), str(whole), *command[3:]]) == 0
    expected = {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix != ".lock"}
    tars = {name for name in expected if name.endswith(".tar")}
    assert len(tars) >= 4
    made = []
    encode = writer._make_shard
    monkeypatch.setattr(writer, "_make_shard", lambda job: made.append(job.name) or encode(job))
    for part in ("3/3", "1/3", "2/3"):
        assert main([*command, "--part", part]) == 0
        with pytest.raises(DataError, match=r"no finished shards|summary.json: cannot be read"):
            open_corpus(parts, cache=str(tmp_path / "cache"))
    assert {f"{name}.tar" for name in made} == tars and len(made) == len(tars), "each shard is made by one part"
    assert main(command) == 0
    assert len(made) == len(tars), "the last call reads indexes alone"
    found = (
        {name: fetch(f"{parts}/{name}") for name in files_below(parts)}
        if where == "memory"
        else {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir() if path.suffix != ".lock"}
    )
    assert found == expected
    assert "after all of them" in capsys.readouterr().out


def test_the_listing_waits_for_no_part_and_a_part_is_one_writer(tmp_path, capsys):
    manifest = chirp_manifest(tmp_path / "corpus", SECONDS)
    command = ["shard", str(manifest), str(tmp_path / "shards"), "--shard-seconds", "2", "--workers", "1"]
    (tmp_path / "shards").mkdir()
    with exclusive(tmp_path / "shards" / "part-1-of-2.lock"):
        assert main(command) == 1
        assert main([*command, "--part", "1/2"]) == 1
        assert capsys.readouterr().err.count("is in use by process") == 2
        assert main([*command, "--part", "2/2"]) == 0
    assert main(command) == 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "-1/2", ""])
def test_a_part_that_is_none_is_refused(part, tmp_path, capsys):
    assert main(["shard", "m.jsonl", str(tmp_path), "--part", part]) == 1
    assert "give I/N, the I-th of N parts" in capsys.readouterr().err


def test_http_cannot_be_written_to(tmp_path, capsys):
    manifest = chirp_manifest(tmp_path / "corpus", SECONDS[:2])
    assert main(["shard", str(manifest), "https://example.org/x", "--workers", "1"]) == 1
    assert "files are written to s3://, gs://, az://, hf:// or a folder" in capsys.readouterr().err
