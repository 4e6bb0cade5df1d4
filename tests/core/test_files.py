"""THE writer: whole or not there, durable, cleaned up after, one writer a folder."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from speechssl.core import files
from speechssl.core.errors import DataError
from speechssl.core.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    exclusive,
    merge_folder,
    read_json,
    remove_leftovers,
    write_atomic,
    write_json,
    write_unsynced,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_lock_names_its_holder_and_ends_with_its_process(tmp_path):
    lock = tmp_path / "x.lock"
    code = """
import sys, time
from pathlib import Path
from speechssl.core.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"in use by process {holder.pid} on "), exclusive(lock):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(lock), pytest.raises(DataError), exclusive(lock):
        pass
    with exclusive(lock, wait=True):
        pass


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_child(code, *arguments, files_up_to=None):
    """Run code in a process of its own; with a limit, a longer file fails as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (files_up_to, files_up_to))

    text = "import os, sys\nfrom pathlib import Path\nfrom speechssl.core.files import *\n" + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True, check=False,
        preexec_fn=None if files_up_to is None else limit,
    )  # fmt: skip


KILLED = """
folder = Path(sys.argv[1])
with atomic_file(folder / "a.txt") as file:
    file.write(b"half of the new")
    file.flush()
    with atomic_folder(folder / "b") as place:
        (place / "one").write_bytes(b"half")
        os.kill(os.getpid(), 9)
"""


def test_H6_a_killed_writer_leaves_the_old_and_a_name_that_is_cleaned(tmp_path):
    write_atomic(tmp_path / "a.txt", "old")
    with atomic_folder(tmp_path / "b") as place:
        (place / "one").write_bytes(b"old")
    before = tree(tmp_path)
    assert in_child(KILLED, tmp_path).returncode == -signal.SIGKILL
    left = tree(tmp_path).keys() - before.keys()
    assert len(left) == 2 and all(".tmp" in name for name in left)
    removed = remove_leftovers(tmp_path)
    assert sorted(path.suffix for path in removed) == [".tmp", ".tmp"]
    assert tree(tmp_path) == before


def test_H6_what_a_living_writer_is_writing_is_not_cleaned(tmp_path):
    code = """
    with atomic_file(Path(sys.argv[1]) / "a.txt") as file:
        print("open", flush=True)
        sys.stdin.readline()
        file.write(b"whole")
    """
    text = "import sys\nfrom pathlib import Path\nfrom speechssl.core.files import *\n" + textwrap.dedent(code)
    child = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "open\n"
    with atomic_file(tmp_path / "own.txt") as own:
        assert remove_leftovers(tmp_path) == []
        own.write(b"own")
    child.communicate("go on\n")
    assert tree(tmp_path) == {"a.txt": b"whole", "own.txt": b"own"}


def test_H6_leftovers_of_another_machine_are_cleaned_when_old(tmp_path):
    new, old = tmp_path / "a.00000000-1-0.tmp", tmp_path / "b.00000000-1-0.tmp"
    new.touch()
    old.touch()
    os.utime(old, (0, 0))
    (tmp_path / "notes.tmp").touch()  # somebody's own
    assert remove_leftovers(tmp_path) == [old]
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "notes.tmp"]


def test_H6_a_full_disk_is_named_and_leaves_the_old(tmp_path):
    write_atomic(tmp_path / "a.txt", "old")
    with atomic_folder(tmp_path / "b") as place:
        (place / "one").write_bytes(b"old")
    before = tree(tmp_path)
    for act in (
        'write_atomic(folder / "a.txt", b"x" * 9000)',
        'with atomic_folder(folder / "b") as place:\n        (place / "one").write_bytes(b"x" * 9000)',
    ):
        code = f"folder = Path(sys.argv[1])\ntry:\n    {act}\nexcept OSError as e:\n    sys.exit(e.filename)"
        done = in_child(code, tmp_path, files_up_to=4096)
        assert done.returncode == 1
        assert done.stderr.strip() in {str(tmp_path / "a.txt"), str(tmp_path / "b")}, done.stderr
        assert tree(tmp_path) == before


def test_H6_file_and_folder_are_synced_before_the_name_is_given_and_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def synced(descriptor):
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append(("name", Path(to))), replace(self, to))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (calls.append(("name", Path(to))), rename(self, to))[1])
    write_atomic(tmp_path / "a.txt", "x")
    kinds = [(kind, path.name.split(".")[0]) for kind, path in calls]
    assert kinds == [("sync", "a"), ("name", "a"), ("sync", tmp_path.name.split(".")[0])]
    calls.clear()
    with atomic_folder(tmp_path / "b") as place:
        (place / "deep").mkdir()
        (place / "deep" / "one").write_bytes(b"1")
    before, after = calls[: calls.index(("name", tmp_path / "b"))], calls[calls.index(("name", tmp_path / "b")) + 1 :]
    assert {path.name for kind, path in before if kind == "sync"} >= {"deep", "one"}
    assert ("sync", tmp_path) in after


def test_H6_writers_of_one_name_never_share_a_temporary_name(tmp_path):
    seen = []

    def write(number):
        with atomic_file(tmp_path / "x") as file:
            seen.append(Path(file.name).name)
            barrier.wait(10)
            file.write(b"%d" % number * 1000)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 4
    assert all(str(os.getpid()) in name for name in seen)
    assert len(set((tmp_path / "x").read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_is_replaced_as_a_whole_or_put_back(tmp_path, monkeypatch):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "x") as place:
            (place / text).touch()
    assert list(tree(tmp_path)) == ["x/new"]
    rename = Path.rename

    def fails(self, target):
        if self.suffix == ".tmp":
            raise OSError("no rename today")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no rename today"), atomic_folder(tmp_path / "x") as place:
        (place / "newer").touch()
    assert list(tree(tmp_path)) == ["x/new"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_long_name_is_written_too(tmp_path):
    name = "é" * 120 + ".txt"
    write_atomic(tmp_path / "new" / name, "x")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_file_system_that_cannot_sync_folders_is_served(tmp_path, monkeypatch):
    def refuses(path):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files, "_sync", refuses)
    write_atomic(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_H6_torn_json_is_an_error_that_names_the_file_and_the_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: not whole .*; make it again"):
        read_json(tmp_path / "a.json", "make it again")


def test_json_goes_and_comes_back(tmp_path):
    write_json(tmp_path / "a.json", {"a": ["ü", "\ud800", 1.5]})
    assert read_json(tmp_path / "a.json", "") == {"a": ["ü", "?", 1.5]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text())["a"][2] == 1.5
    with pytest.raises(DataError, match="absent"):
        read_json(tmp_path / "absent.json", "")


def test_a_library_that_opens_its_file_itself_writes_it_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "trace.json"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # the library wrote nothing
    assert {item.name: item.read_text() for item in path.parent.iterdir()} == {"trace.json": "whole"}


def test_one_of_many_files_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    write_unsynced(path, b"old")
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_unsynced(path, b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["a.flac"]
    assert path.read_bytes() == b"old"


def test_folders_are_merged_and_one_is_left_for_the_end(tmp_path):
    for name in ("new/a/1", "new/a/b/2", "new/last/3", "old/a/1", "old/a/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    merge_folder(tmp_path / "new", tmp_path / "old", last=tmp_path / "new" / "last")
    merged = {"old/a/1": "new/a/1", "old/a/b/2": "new/a/b/2", "old/a/4": "old/a/4", "new/last/3": "new/last/3"}
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).as_posix(): path.read_text() for path in there} == merged
    merge_folder(tmp_path / "new" / "last", tmp_path / "old" / "last")
    assert (tmp_path / "old" / "last" / "3").read_text() == "new/last/3"


def test_a_forked_child_that_leaves_the_block_does_not_give_the_lock_back(tmp_path):
    lock = exclusive(tmp_path / "x.lock")
    with lock:
        if (child := os.fork()) == 0:
            try:
                lock.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(DataError, match="in use by"), exclusive(tmp_path / "x.lock"):
            pass
