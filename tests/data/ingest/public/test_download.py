"""Downloads from a server of our own, with torchaudio's tables of checksums: what is wrong leaves nothing behind."""

import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.config import CorpusConfig, ManifestConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import exclusive
from speechssl.data.ingest.public import build, download
from speechssl.data.ingest.public.download import checksum, fetch
from speechssl.data.ingest.public.recipes import RECIPES, Archive, Part, find_recipe
from tests.support.trees import plant


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``short`` ends every answer too early; ``asked`` counts what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.short = False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.server.short else data)

    def log_message(self, *arguments):
        del arguments


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def dev_clean(tmp_path):
    """The bytes of a small dev-clean.tar.gz of real FLAC files."""
    tree = plant(tmp_path / "tree", {
        "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": 0.5,
        "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n",
        "LibriSpeech/README.TXT": "about",
    })  # fmt: skip
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tree / "LibriSpeech", "LibriSpeech")
        pipe = tarfile.TarInfo("LibriSpeech/pipe")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    return packed.getvalue()


@pytest.fixture
def published(server, dev_clean, monkeypatch):
    """LibriSpeech as this server publishes it: torchaudio's own table holds the checksum of its archive."""
    from torchaudio.datasets import librispeech

    url = f"{server.url}/dev-clean.tar.gz"
    monkeypatch.setitem(librispeech._CHECKSUMS, url, hashlib.sha256(dev_clean).hexdigest())
    server.files["/dev-clean.tar.gz"] = dev_clean
    archive = Archive(url, "librispeech", "LibriSpeech/dev-clean", gigabytes=0.001)
    recipe = replace(find_recipe("librispeech"), parts=(Part("dev-clean", archive=archive), Part("test-clean")))
    monkeypatch.setattr(build, "find_recipe", lambda name: recipe)
    return recipe


def corpus(folder, *subset, **changes):
    cfg = CorpusConfig(subset=subset, download=True, manifest=ManifestConfig(workers=1), **changes)
    return build.make_corpus("librispeech", folder, cfg)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_torchaudio_has_a_checksum_of_every_archive():
    archives = {archive for recipe in RECIPES for archive in recipe.archives}
    assert len(archives) >= 20
    for archive in archives:
        assert len(checksum(archive)) == 64, archive.url


def test_an_address_that_torchaudio_does_not_know():
    with pytest.raises(DataError, match=r"torchaudio.datasets.yesno has no checksum for http://x/y.tar.gz"):
        checksum(Archive("http://x/y.tar.gz", "yesno", "y"))


def test_one_command_downloads_checks_unpacks_and_writes_the_manifest(published, server, tmp_path, capsys):
    folder = tmp_path / "new" / "data"
    summary = corpus(folder, "dev-clean")
    assert "left out 'LibriSpeech/pipe'" in capsys.readouterr().err
    assert (summary.utterances, summary.labelled_hours > 0) == (1, True)
    assert not [name for name in names(folder) if name.endswith(".partial") or "/.unpacking" in name]
    assert server.asked == ["/dev-clean.tar.gz"]
    corpus(folder, "dev-clean")
    assert server.asked == ["/dev-clean.tar.gz"]  # what is unpacked is not fetched again


def test_an_archive_that_is_there_is_checked_and_used(published, server, dev_clean, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-clean.tar.gz").write_bytes(dev_clean)
    corpus(tmp_path / "data", "dev-clean")
    assert server.asked == []


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_that_is_there_is_refused_and_nothing_is_unpacked(published, dev_clean, tmp_path, damage):
    data = dev_clean[:-7] if damage == "cut" else bytes([*dev_clean[:500], dev_clean[500] ^ 1, *dev_clean[501:]])
    (tmp_path / "dev-clean.tar.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"dev-clean.tar.gz: not the published archive, or incomplete .* delete it"):
        corpus(tmp_path, "dev-clean")
    assert names(tmp_path) == [
        ".download.lock",
        "dev-clean.tar.gz",
        *[n for n in names(tmp_path) if n.startswith("tree")],
    ]


def test_other_bytes_from_the_server_are_refused_and_not_kept(published, server, dev_clean, tmp_path):
    server.files["/dev-clean.tar.gz"] = dev_clean + b"more"
    with pytest.raises(
        DataError, match=r"(?s)incomplete or damaged during the download \(invalid hash value.*curl -C - -o "
    ):
        corpus(tmp_path / "data", "dev-clean")
    assert names(tmp_path / "data") == [".download.lock"]


def test_an_answer_that_ends_too_early_is_refused_and_not_kept(published, server, tmp_path):
    server.short = True
    with pytest.raises(DataError, match=r"dev-clean.tar.gz: (incomplete|cannot be downloaded)"):
        corpus(tmp_path / "data", "dev-clean")
    assert names(tmp_path / "data") == [".download.lock"]
    server.short = False
    corpus(tmp_path / "data", "dev-clean")


def test_no_such_file_and_no_server(published, server, tmp_path):
    server.files.clear()
    with pytest.raises(DataError, match=r"cannot be downloaded \(HTTP Error 404"):
        corpus(tmp_path / "data", "dev-clean")
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"cannot be downloaded .*run the same command again, or put the file there"):
        corpus(tmp_path / "data", "dev-clean")


def test_a_silent_server_is_given_up(published, server, tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        archive = replace(published.archives[0], url=f"http://127.0.0.1:{silent.getsockname()[1]}/dev-clean.tar.gz")
        monkeypatch.setattr(download, "checksum", lambda _: "0" * 64)
        with pytest.raises(DataError, match="timed out"):
            fetch((Part("dev-clean", archive=archive),), tmp_path / "data")
    assert socket.getdefaulttimeout() is None


def test_leftovers_of_a_killed_download_go(published, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dev-clean.tar.gz.0123abc.partial").write_bytes(b"half")
    corpus(tmp_path / "data", "dev-clean")
    assert not list((tmp_path / "data").glob("*.partial"))


def test_two_downloads_into_one_folder(published, tmp_path):
    with exclusive(tmp_path / ".download.lock"), pytest.raises(DataError, match="is in use by"):
        corpus(tmp_path, "dev-clean")


def test_a_disk_that_is_too_small_is_found_before_the_download(published, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: download.shutil._ntuple_diskusage(9e9, 9e9, 1e6))
    with pytest.raises(DataError, match=r"dev-clean.tar.gz need about 0 GB, 0 GB are free"):
        corpus(tmp_path / "data", "dev-clean")
    assert server.asked == []


def test_sixty_gigabytes_are_not_downloaded_unasked(tmp_path):
    with pytest.raises(ConfigError, match=r"say what to download: --subset with one or more of dev-clean, .*or all"):
        corpus(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_downloaded_says_where_it_is(tmp_path):
    cfg = CorpusConfig(download=True)
    with pytest.raises(ConfigError, match=r"common-voice cannot be downloaded .*https://commonvoice"):
        build.make_corpus("common-voice", tmp_path, cfg)


def test_torchaudio_unpacks_to_the_same_places(published, server, tmp_path, monkeypatch):
    """``creates`` is where torchaudio's own class looks: a folder made by either serves the other."""
    from torchaudio.datasets import LIBRISPEECH

    corpus(tmp_path / "data", "dev-clean")
    assert len(LIBRISPEECH(tmp_path / "data", "dev-clean")) == 1
    places = {recipe.name: recipe.archives[0].creates for recipe in RECIPES if recipe.archives}
    assert places["vctk"] == "VCTK-Corpus-0.92"
    assert Path(places["speech-commands"]).name == "speech_commands_v0.02"
