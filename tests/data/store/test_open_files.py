"""Open files: the right bytes, few descriptors, and only those that are needed are looked for."""

import os
from pathlib import Path

import pytest

from speechssl.data.store import open_files
from speechssl.data.store.open_files import OpenFiles


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        (tmp_path / str(i)).write_bytes(bytes([i]) * 100 + b"end")
    return tmp_path


def read(files: OpenFiles, path: Path, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: files.read_into(memoryview(buffer), path.name, lambda: path, offset)])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_bytes_at_an_offset_and_no_more_than_there_are(folder, monkeypatch):
    files = OpenFiles()
    assert read(files, folder / "3", 98, 4) == b"\3\3en"
    assert read(files, folder / "3", 98, 50) == b"\3\3end"
    assert read(files, folder / "3", 200, 5) == b""
    preadv = os.preadv
    monkeypatch.setattr(open_files.os, "preadv", lambda number, to, at: preadv(number, [to[0][:3]], at))
    assert read(files, folder / "3", 98, 5) == b"\3\3end"  # also when the system gives it in pieces


def test_a_file_is_looked_for_once_and_forgotten_files_again(folder):
    files, asked = OpenFiles(), []

    def path():
        asked.append(1)
        return folder / "1"

    for _ in range(3):
        files.read_into(memoryview(bytearray(2)), 1, path, 0)
    assert len(asked) == 1
    files.forget()
    files.read_into(memoryview(bytearray(2)), 1, path, 0)
    assert len(asked) == 2


def test_few_stay_open_those_used_last(folder, monkeypatch):
    monkeypatch.setattr(open_files, "MOST", 2)
    files, before = OpenFiles(), descriptors()
    for name in ("0", "1", "0", "2", "0", "3"):
        assert read(files, folder / name, 0, 1) == bytes([int(name)])
    assert list(files._open) == ["0", "3"]
    assert descriptors() == before + 2
    files.forget()
    assert descriptors() == before
