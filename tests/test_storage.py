"""Storage: whole or not there; one writer."""

import subprocess
import sys

import pytest

from speechssl.data.storage import atomic_file, exclusive, write_atomic
from speechssl.errors import DataError


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
from speechssl.data.storage import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"process {holder.pid} on .* is writing here"), exclusive(lock):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(lock), pytest.raises(DataError), exclusive(lock):
        pass
    with exclusive(lock, wait=True):
        pass
