"""Durable files: a file is either whole under its name or not there, and one folder has one writer.

In: bytes or a stream of them. Out: files that were flushed, synced and renamed; a lock that a second writer is refused.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from speechssl.errors import DataError

__all__ = ["atomic_file", "exclusive", "write_atomic"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``path.PID.tmp`` for writing; on success sync it and give it its name, on any failure remove it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def exclusive(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``; with ``wait`` until it is free, else DataError that names the holder."""
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise DataError(f"{path.parent}: {holder} is writing here; wait for it, or choose another folder") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
