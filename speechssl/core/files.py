"""THE writer: a file or folder is either whole under its name or not there, and one folder has one writer.

In: bytes, text, JSON values, or a block that fills a stream or a folder. Out: files that were flushed, synced and
renamed, in a folder that was synced; a lock that refuses a second writer. A killed process leaves only names that end
in ``.tmp``; ``remove_leftovers`` removes them.
"""

import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from speechssl.core.errors import DataError

__all__ = [
    "atomic_file", "atomic_folder", "atomic_path", "exclusive", "find_json", "merge_folder", "read_json",
    "remove_leftovers", "sync_tree", "temporary_path", "write_atomic", "write_json", "write_unsynced",
]  # fmt: skip

logger = logging.getLogger("speechssl.files")

_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_TEMPORARY = re.compile(r".*\.([0-9a-f]{8})-([0-9]+)-[0-9]+\.tmp", re.DOTALL)
_MANY_FILES = 1_000
"""Number of files above which one ``os.sync`` is cheaper than syncing each."""
_FOREIGN_SECONDS = 86_400.0
"""Age at which a temporary name of another machine counts as a leftover: its process cannot be checked."""
_numbers = itertools.count()
_open: set[str] = set()
"""Temporary names that this process is writing."""
_held: set[int] = set()
"""Descriptors of our locks. A forked worker must not keep them: it outlives a killed parent by some seconds."""


def _release_in_child() -> None:
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream; on success sync it and give it the name ``path``, on any failure remove it.

    Missing folders are made. A reader sees the old file or the new one, never a part.

    Raises OSError when the file cannot be written (disk full, no permission); its ``filename`` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a name for a library that opens its file itself; on success sync the file and call it ``path``.

    Raises OSError as `atomic_file`, and when there is no file under the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success sync all of it and give it the name ``path``.

    A folder of that name is replaced as a whole. Between the two renames the old one is at ``NAME.previous``; a failure
    puts it back.

    Raises OSError when something cannot be written; the old folder is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    previous = path.with_name(path.name + ".previous")
    with temporary_path(path) as temporary:
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        try:
            temporary.rename(path)
        except OSError:
            if previous.is_dir() and not path.exists():
                previous.rename(path)
            raise
        _sync_folder(path.parent)
        shutil.rmtree(previous, ignore_errors=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to ``path``; a lone surrogate (possible in JSON) becomes ``?``."""
    with atomic_file(path) as file:
        file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)


def write_unsynced(path: Path, data: bytes) -> None:
    """Write one of very many files, whole or not there; the caller makes all of them durable with `sync_tree`."""
    with temporary_path(path) as temporary:
        temporary.write_bytes(data)
        temporary.replace(path)


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write plain values as JSON; ``options`` are those of ``json.dumps`` (here ``indent`` is 1)."""
    write_atomic(path, json.dumps(value, **{"ensure_ascii": False, "indent": 1, **options}) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Return the value in a JSON file.

    Raises DataError, with ``remedy`` at its end, when the file is missing, empty, torn or not UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from error
    except ValueError as error:
        raise DataError(f"{path}: not whole ({error}); {remedy}") from error


def find_json(path: Path) -> Any | None:
    """Return the value in a JSON file, or None where it is missing or incomplete: the caller then makes it again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        logger.warning("%s is torn (%s); it counts as missing", path, error)
        return None


def sync_tree(folder: Path) -> None:
    """Make a folder and all that is in it durable."""
    found = [(Path(root), names) for root, _, names in os.walk(folder)]
    if sum(len(names) for _, names in found) > _MANY_FILES:
        os.sync()
        return
    for root, names in found:
        for name in names:
            _sync(root / name)
        _sync_folder(root)


def merge_folder(source: Path, target: Path, *, last: Path | None = None) -> None:
    """Move what is in ``source`` to ``target``, each file and each new folder in one step; folders are merged.

    ``last`` is a folder below ``source`` that is left where it is: the caller moves it when all else is in place.
    """
    if not target.exists():
        if last is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            return
        target.mkdir(parents=True)
    for child in sorted(source.iterdir()):
        if child == last:
            continue
        if child.is_dir():
            within = last is not None and last.is_relative_to(child)
            merge_folder(child, target / child.name, last=last if within else None)
        else:
            child.replace(target / child.name)


def remove_leftovers(folder: Path, *, deep: bool = True) -> list[Path]:
    """Remove temporary files of killed writers in and below ``folder``; return them. Those of living writers stay."""
    removed: list[Path] = []
    for root, folders, names in os.walk(folder):
        found = {name for name in [*folders, *names] if _is_leftover(Path(root) / name)}
        folders[:] = [name for name in folders if name not in found]
        removed += [Path(root) / name for name in sorted(found)]
        if not deep:
            break
    for path in removed:
        _remove(path)
    return removed


@contextmanager
def exclusive(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, with ``wait`` as soon as it is free. The lock ends with this process.

    Where the file system has no locks a warning says so.

    Raises DataError when another process holds the lock and ``wait`` is false; the message names it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _held.add(descriptor)
    try:
        _acquire(descriptor, path, wait=wait)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        if descriptor in _held:  # else we are a forked child, which has closed it
            _held.discard(descriptor)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        raise DataError(
            f"{path.parent} is in use by {holder}; wait for it, stop it, or choose another folder"
        ) from None
    except OSError as error:  # some network file systems cannot lock
        logger.warning("%s: no lock on this file system (%s); make sure that nothing else writes here", path, error)


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that no other writer has; a file left under it at the end is removed."""
    stem = path.name.encode()[:200].decode(errors="ignore")  # a name holds 255 bytes
    temporary = path.with_name(f"{stem}.{_HOST}-{os.getpid()}-{next(_numbers)}.tmp")
    _remove(temporary)  # of an earlier process with this number
    _open.add(temporary.name)
    try:
        yield temporary
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        _remove(temporary)
        _open.discard(temporary.name)


def _is_leftover(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or path.name in _open:
        return False
    if found[1] != _HOST:
        try:
            return time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
        except FileNotFoundError:
            return False  # it was renamed meanwhile
    if (process := int(found[2])) == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's living process
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Sync the names in a folder, where its file system supports that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
