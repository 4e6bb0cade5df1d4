"""Files behind http(s) addresses and in object stores: fetched whole, checked, kept in a cache; written and checked.

In: an address such as ``s3://bucket/shards``. Out: paths in a cache on the local disk; or files under that address.
http(s) needs nothing more; ``s3``, ``gs``, ``az`` and ``hf`` are opened by fsspec and the extra ``stores``, which find
credentials and endpoints where their users keep them (environment, ``~/.aws``, ``~/.config/fsspec``). No other kind of
address is understood, and nothing ever runs a command.
"""

import errno
import hashlib
import logging
import os
import random
import shutil
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_file, exclusive, write_atomic

__all__ = [
    "STORES",
    "RemoteFolder",
    "UnreachableError",
    "cache_folder",
    "download",
    "fetch",
    "files_below",
    "put",
    "remove",
    "scheme",
]

STORES = ("s3", "gs", "az", "hf", "memory")
"""Kinds of address that fsspec opens. ``memory`` lives in this process: it is for tests."""
ATTEMPTS = 8
FIRST_PAUSE = 0.5
"""Seconds; each pause is twice the one before, so that a server may be away for a minute."""
OFFLINE_ATTEMPTS = 3
"""Attempts where a copy in the cache can serve instead."""
TIMEOUT = 30.0
CHUNK = 1 << 20
BLOCK = 1 << 24
"""Bytes of one range that is asked of a store."""
IN_USE = 60.0
"""Seconds after its last opening in which a file is not removed to make room."""
PERMANENT = {400, 401, 403, 404, 405, 410, 416}
T = TypeVar("T")
log = logging.getLogger("speechssl")


class UnreachableError(DataError):
    """A store did not answer for as long as it was asked: nothing is known of the file."""


def scheme(location: str | Path) -> str:
    """Return the kind of an address; empty for a path."""
    return urlsplit(location).scheme if isinstance(location, str) and ":" in location else ""


def cache_folder(cache: str, address: str) -> Path:
    """Return the folder of an address in a cache; ``cache`` is empty for ``~/.cache/speechssl``."""
    digest = hashlib.blake2b(address.rstrip("/").encode(), digest_size=8).hexdigest()
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "speechssl") / digest


@dataclass(frozen=True)
class RemoteFolder:
    """Shards behind an address; files are fetched when first asked for and kept, named by their checksum.

    Several processes may share one cache: each file is fetched by one of them while the others wait.
    """

    address: str
    cache: Path
    most: float = 0.0
    """Bytes of tars that all folders beside ``cache`` may hold; 0 for no limit."""

    @property
    def name(self) -> str:
        """The address, for messages."""
        return self.address

    def listing(self) -> bytes:
        """Fetch ``summary.json``; where the store does not answer, the copy of the last time serves."""
        copy = self.cache / "summary.json"
        try:
            attempts = OFFLINE_ATTEMPTS if copy.exists() else ATTEMPTS
            data = fetch(f"{self.address}/summary.json", attempts=attempts)
        except UnreachableError as error:
            if not copy.exists():
                raise
            log.warning("%s; going on with the cached listing", error)
            return copy.read_bytes()
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomic(copy, data)
        return data

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        """Return the cached file, fetched and checked first when it is not there."""
        path = self._place(name, crc32)
        if not _has_size(path, size):
            self.cache.mkdir(parents=True, exist_ok=True)
            with exclusive(path.with_name(f"{path.name}.lock"), wait=True):
                if not _has_size(path, size):
                    url = f"{self.address}/{name}"
                    _retry(url, lambda: _store(url, path, size, crc32))
            self._make_room()
        elif self.most:
            os.utime(path)
        return path

    def require(self, name: str, *, size: int, crc32: int) -> None:
        """Raise DataError when the store says that it does not have the file, or another one of that name."""
        if _has_size(self._place(name, crc32), size):
            return
        url = f"{self.address}/{name}"
        found = _retry(url, lambda: _size(url))
        if found is not None and found != size:
            raise DataError(f"{url}: has {found} bytes, and {size} were written; copy it again")

    def _place(self, name: str, crc32: int) -> Path:
        stem, dot, extension = name.partition(".")
        return self.cache / f"{stem}.{crc32:08x}{dot}{extension}"

    def _make_room(self) -> None:
        """Remove the tars that were opened least recently until the others fit the limit; those in use stay."""
        if not self.most:
            return
        root = self.cache.parent
        with exclusive(root / "cache.lock", wait=True):
            found = sorted((tar.stat().st_mtime, tar.stat().st_size, tar) for tar in root.glob("*/*.tar"))
            total = sum(size for _, size, _ in found)
            for used, size, tar in found:
                if total <= self.most or time.time() - used < IN_USE:
                    return
                tar.unlink()
                total -= size


def fetch(url: str, *, attempts: int = 0) -> bytes:
    """Return the bytes behind an address.

    Raises UnreachableError when the store never answers (after ``attempts``; 0: the usual number), another DataError
    when it says that there is no such file or no permission, or its library is not installed.
    """

    def read() -> bytes:
        with _reading(url) as file:
            return file.read()

    return _retry(url, read, attempts=attempts)


def download(url: str, path: Path, *, size: int) -> None:
    """Write a file of a store to the disk, whole or not at all; errors as in ``fetch``."""

    def read() -> None:
        with _reading(url) as response, atomic_file(path) as file:
            shutil.copyfileobj(response, file, CHUNK)
            if file.tell() != size:
                raise ConnectionError(f"the transfer ended after {file.tell()} of {size} bytes")

    _retry(url, read)


def put(source: Path, url: str) -> None:
    """Write a file to a store and look at its size there; errors as in ``fetch``, OSError when ``source`` is gone.

    What was under the address stays until all of the new file has arrived.
    """
    size = source.stat().st_size

    def send() -> None:
        files, path = _files(url)
        files.put_file(str(source), path)
        files.invalidate_cache()
        if (found := files.info(path)["size"]) < size:  # a log may have grown meanwhile
            raise ValueError(f"{found} bytes arrived of {size}")

    _retry(url, send)


def files_below(address: str) -> dict[str, int]:
    """Return the files of a folder in a store, by their path from it, with their sizes; none where it is not there."""

    def find() -> dict[str, int]:
        files, root = _files(address)
        files.invalidate_cache()
        found = files.find(root, detail=True)
        return {path[len(root.rstrip("/")) + 1 :]: int(info["size"]) for path, info in found.items()}

    return _retry(address, find)


def remove(url: str) -> None:
    """Remove a file from a store; errors as in ``fetch``."""

    def go() -> None:
        files, path = _files(url)
        files.rm_file(path)

    _retry(url, go)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _store(url: str, path: Path, size: int, crc32: int) -> None:
    total = checksum = 0
    with _reading(url) as response, atomic_file(path) as file:
        while chunk := response.read(min(CHUNK, size - total + 1)):
            file.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
            total += len(chunk)
            if total > size:
                break
        if total < size:  # of an object that is too short the size was seen when the corpus was opened
            raise ConnectionError(f"the transfer ended after {total} of {size} bytes")
        if (total, checksum) != (size, crc32):
            raise ValueError(f"got {total} bytes with checksum {checksum:08x}, expected {size} with {crc32:08x}")


def _files(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    kind = scheme(url)
    if kind not in STORES:
        raise DataError(f"{url}: files are written to {', '.join(f'{each}://' for each in STORES[:-1])} or a folder")
    files = fsspec.filesystem(kind)
    return files, files._strip_protocol(url)


@contextmanager
def _reading(url: str) -> Iterator[BinaryIO]:
    if scheme(url) in {"http", "https"}:
        with _opener().open(url, timeout=TIMEOUT) as response:
            yield response
        return
    files, path = _files(url)
    files.invalidate_cache()
    with files.open(path, "rb", block_size=BLOCK, cache_type="readahead") as file:
        yield file


def _size(url: str) -> int | None:
    """Return the size of a file, None where the server does not say; an error when it is not there."""
    if scheme(url) not in {"http", "https"}:
        files, path = _files(url)
        return int(files.info(path)["size"])
    try:
        with _opener().open(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT) as response:  # noqa: S310
            length = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        if error.code in {405, 501}:
            return None  # this server does not answer HEAD: the first GET reports errors
        raise
    return int(length) if length.isdecimal() else None


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that knows http and https only, also when it is redirected."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _is_final(error: Exception) -> bool:
    """Whether the same request would fail in the same way again."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in PERMANENT
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    missing = isinstance(error, ImportError | FileNotFoundError | PermissionError | IsADirectoryError)
    return missing or "Credentials" in type(error).__name__  # botocore's errors have no common class


def _retry(url: str, use: Callable[[], T], *, attempts: int = 0) -> T:
    """Return ``use()``, trying again after pauses that double; DataError when it never works."""
    pause, most = FIRST_PAUSE, attempts or ATTEMPTS
    for attempt in range(1, most + 1):
        try:
            return use()
        except DataError:
            raise
        except Exception as error:  # libraries of stores have errors of many types
            if isinstance(error, ImportError):
                raise DataError(f"{url}: {error}; install it by `pip install 'speechssl[stores]'`") from error
            if attempt == most or _is_final(error):
                damaged = _is_final(error) or isinstance(error, ValueError)
                kind = DataError if damaged else UnreachableError
                raise kind(
                    f"{url}: cannot be read or written ({error or type(error).__name__}) after {attempt} "
                    f"attempt{'s' * (attempt > 1)}; check the address, the network and the room in the cache"
                ) from error
            wait = pause * random.uniform(0.75, 1.25)  # many processes do not all come back at once
            log.warning("%s: %s; trying again in %.1f s", url, error or type(error).__name__, wait)
        time.sleep(wait)
        pause *= 2
    raise AssertionError("unreachable")
