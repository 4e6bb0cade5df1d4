"""Archives: whole or not there, whatever their damage; no name, link or device leaves the folder."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from speechssl.core.errors import DataError
from speechssl.data.ingest.public.unpack import unpack

FILES = {"Corpus/dev/a.flac": b"a" * 3000, "Corpus/dev/b.txt": b"words", "Corpus/README": b"read me"}


def member(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def pack(path, files=FILES, *, extra=(), mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member(tar, name, data)
        for name, data, fields in extra:
            member(tar, name, data, **fields)
    return path


def there(folder):
    """Every file below a folder, hidden ones too, without the archives."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, mode):
    assert unpack(pack(tmp_path / "c.tar", mode=mode), tmp_path, creates="Corpus/dev") == []
    assert there(tmp_path) == FILES


def test_zip_into_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        for name, data in FILES.items():
            file.writestr(name.removeprefix("Corpus/"), data)
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    assert unpack(tmp_path / "c.zip", tmp_path, creates="Corpus", into="Corpus") == ["link"]
    assert there(tmp_path) == FILES


def test_a_second_archive_joins_the_first(tmp_path):
    unpack(pack(tmp_path / "one.tar.gz"), tmp_path, creates="Corpus/dev")
    (tmp_path / "Corpus/README").write_bytes(b"mine, changed")
    more = {"Corpus/test/c.flac": b"c", "Corpus/README": b"read me"}
    unpack(pack(tmp_path / "two.tar.gz", more), tmp_path, creates="Corpus/test")
    assert there(tmp_path) == FILES | more


@pytest.mark.parametrize("name", ["../evil", "Corpus/../../evil", "/tmp/evil-of-speechssl", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_leave_the_folder_are_refused_and_nothing_is_there(tmp_path, name, kind):
    inner = tmp_path / "inner"
    inner.mkdir()
    if kind == "tar":
        archive = pack(inner / "c.tar.gz", extra=[(name, b"evil", {})])
    else:
        archive = inner / "c.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for each, data in FILES.items():
                file.writestr(each, data)
            file.writestr(name, b"evil")
    with pytest.raises(DataError, match="leaves the folder; nothing of this archive is unpacked"):
        unpack(archive, inner, creates="Corpus/dev")
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", archive.name]
    assert not os.path.exists("/tmp/evil-of-speechssl")  # noqa: PTH110


def test_links_become_files_and_never_lead_out(tmp_path):
    symbolic, hard = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
    extra = [
        ("Corpus/legacy/a.flac", b"", {**symbolic, "linkname": "../dev/a.flac"}),
        ("Corpus/legacy/b.txt", b"", {**hard, "linkname": "Corpus/dev/b.txt"}),
        ("Corpus/passwd", b"", {**symbolic, "linkname": "/etc/passwd"}),
        ("Corpus/up", b"", {**symbolic, "linkname": "../../../../etc"}),
        ("Corpus/up/shadow", b"through a link", {}),
        ("Corpus/hard", b"", {**hard, "linkname": "../outside"}),
        ("Corpus/gone", b"", {**symbolic, "linkname": "nowhere"}),
        ("Corpus/fifo", b"", {"type": tarfile.FIFOTYPE}),
        ("Corpus/device", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
    ]
    (tmp_path / "outside").write_bytes(b"secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    skipped = unpack(pack(folder / "c.tar.gz", extra=extra), folder, creates="Corpus/dev")
    assert sorted(skipped) == [f"Corpus/{name}" for name in ("device", "fifo", "gone", "hard", "passwd", "up")]
    found = there(folder)
    assert found.pop("Corpus/legacy/a.flac") == FILES["Corpus/dev/a.flac"]
    assert found.pop("Corpus/legacy/b.txt") == b"words"
    assert found.pop("Corpus/up/shadow") == b"through a link"
    assert found == FILES
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("kind", ["gz", "plain", "bz2", "zip"])
def test_every_truncation_is_an_error_and_leaves_nothing(tmp_path, kind):
    if kind == "zip":
        whole = tmp_path / "whole.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in FILES.items():
                file.writestr(name, data)
    else:
        whole = pack(tmp_path / "whole", mode={"gz": "w:gz", "plain": "w", "bz2": "w:bz2"}[kind])
    data = whole.read_bytes()
    ends = len(data) if kind != "plain" else 512 * 12  # after that only the zeros at the end are missing
    folder = tmp_path / "folder"
    folder.mkdir()
    cuts = {*range(0, ends, 512 if kind == "plain" else max(1, ends // 24)), ends - 1}
    for size in sorted(cuts):
        archive = folder / "c"
        archive.write_bytes(data[:size])
        with pytest.raises(DataError, match="incomplete or damaged"):
            unpack(archive, folder, creates="Corpus/dev")
        assert [path.name for path in folder.iterdir()] == ["c"], size


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    archive = pack(tmp_path / "c.tar", mode="w")
    data = bytearray(archive.read_bytes())
    at = data.index(b"Corpus/dev/b.txt")
    data[at] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match="it does not end as a tar file does"):
        unpack(archive, tmp_path, creates="Corpus/dev")
    assert not (tmp_path / "Corpus").exists()


def test_a_flipped_byte_in_a_compressed_tar_is_found(tmp_path):
    for mode in ("w:gz", "w:bz2", "w:xz"):
        archive = pack(tmp_path / "c.tar", mode=mode)
        whole = archive.read_bytes()
        for place in range(20, len(whole) - 1, len(whole) // 9):
            archive.write_bytes(bytes([*whole[:place], whole[place] ^ 16, *whole[place + 1 :]]))
            with pytest.raises(DataError, match="incomplete or damaged"):
                unpack(archive, tmp_path, creates="Corpus/dev")
            assert [path.name for path in tmp_path.iterdir()] == ["c.tar"]


def test_a_full_disk_leaves_nothing(tmp_path):
    """A child that may write files of at most 2,000 bytes."""
    archive = pack(tmp_path / "c.tar.gz")
    code = (
        "import resource, signal, sys; from pathlib import Path; "
        "from speechssl.data.ingest.public.unpack import unpack; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "unpack(Path(sys.argv[1]), Path(sys.argv[1]).parent, creates='Corpus/dev')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(archive)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c.tar.gz"]


def test_a_flipped_byte_in_a_zip_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        for name, data in FILES.items():
            file.writestr(name, data)
    data = bytearray((tmp_path / "c.zip").read_bytes())
    data[data.index(b"aaaa") + 7] ^= 4
    (tmp_path / "c.zip").write_bytes(data)
    with pytest.raises(DataError, match="incomplete or damaged"):
        unpack(tmp_path / "c.zip", tmp_path, creates="Corpus/dev")
    assert not (tmp_path / "Corpus").exists()


def test_another_archive_under_the_name(tmp_path):
    archive = pack(tmp_path / "c.tar.gz", {"Other/x": b"x"})
    with pytest.raises(DataError, match="no folder Corpus/dev in it"):
        unpack(archive, tmp_path, creates="Corpus/dev")
    assert [path.name for path in tmp_path.iterdir()] == ["c.tar.gz"]


def test_leftovers_of_a_killed_process_are_no_part_of_it(tmp_path):
    archive = pack(tmp_path / "c.tar.gz")
    code = """if True:
        import os, sys
        from pathlib import Path
        from speechssl.data.ingest.public import unpack
        def killed(archive, target):
            (target / "Corpus" / "dev").mkdir(parents=True)
            (target / "Corpus" / "dev" / "half.flac").write_bytes(b"half")
            os.kill(os.getpid(), 9)
        unpack._untar = killed
        unpack.unpack(Path(sys.argv[1]), Path(sys.argv[1]).parent, creates="Corpus/dev")
    """
    assert subprocess.run([sys.executable, "-c", code, str(archive)], check=False).returncode == -9
    assert list(tmp_path.rglob("half.flac"))
    unpack(archive, tmp_path, creates="Corpus/dev")
    assert there(tmp_path) == FILES
    assert not list(tmp_path.glob(".unpacking*"))


def test_the_folder_that_proves_it_comes_last(tmp_path, monkeypatch):
    """Killed while files are moved: without ``creates`` the next run unpacks again."""
    from pathlib import Path

    moved = []
    for name in ("rename", "replace"):
        before = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda self, to, before=before: (moved.append(self.name), before(self, to))[1])
    unpack(pack(tmp_path / "c.tar.gz", {**FILES, "Corpus/zz/last": b"z"}), tmp_path, creates="Corpus/dev")
    assert moved[-1] == "dev"
    assert sorted(moved) == ["README", "dev", "zz"]
