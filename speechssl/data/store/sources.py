"""Where shards are read from: a local folder, or an http(s) address through a cache on the local disk.

In: a file name with its size and checksum from the listing. Out: a local path whose content was checked when it was
fetched. Only folders, ``file://``, ``http://`` and ``https://`` are understood; nothing ever runs a command.
"""

import errno
import hashlib
import http.client
import io
import logging
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_file, exclusive, write_atomic

__all__ = ["LocalFolder", "RemoteFolder", "Source", "source_of"]

ATTEMPTS = 5
FIRST_PAUSE = 0.2
TIMEOUT = 30.0
CHUNK = 1 << 20
PERMANENT = {400, 401, 403, 404, 405, 410, 416}
T = TypeVar("T")
log = logging.getLogger("speechssl")


class Source(Protocol):
    """A folder of shards."""

    @property
    def name(self) -> str:
        """The folder or address, for messages."""
        ...

    def listing(self) -> bytes:
        """Return the current ``summary.json``."""
        ...

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        """Return a path at which the file can be opened now."""
        ...

    def require(self, name: str) -> None:
        """Raise DataError when the file is not there."""
        ...


def source_of(location: str | Path, cache: str = "") -> Source:
    """Return the source for a folder or address; ``cache`` is empty for ``~/.cache/speechssl``.

    Raises DataError when the location is empty, of an unknown kind (``pipe:`` among them), or holds no finished shards.
    """
    text = str(location)
    scheme = urlsplit(text).scheme if isinstance(location, str) and ":" in text else ""
    if scheme in {"http", "https"}:
        digest = hashlib.blake2b(text.rstrip("/").encode(), digest_size=8).hexdigest()
        folder = Path(cache).expanduser() if cache else Path.home() / ".cache" / "speechssl"
        return RemoteFolder(text.rstrip("/"), folder / digest)
    if scheme == "file":
        text = unquote(urlsplit(text).path)
    elif scheme and not Path(text).exists():
        raise DataError(f"{text}: shards are read from a folder, file://, http:// or https://, not from {scheme}:")
    if not text:
        raise DataError("no shards are named; set data.shards to a folder of shards (`speechssl shard` makes one)")
    return LocalFolder(Path(text))


@dataclass(frozen=True)
class LocalFolder:
    """Shards on a disk of this machine."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder, for messages."""
        return str(self.folder)

    def listing(self) -> bytes:
        """Return ``summary.json`` of a finished folder."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; `speechssl shard` makes shards from a manifest")
        if not (self.folder / "manifest.jsonl").exists() or not (self.folder / "summary.json").exists():
            raise DataError(
                f"{self.folder}: no finished shards here (manifest.jsonl or summary.json is missing); "
                "run `speechssl shard` again, it resumes where it stopped"
            )
        return (self.folder / "summary.json").read_bytes()

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        """Return the path; the caller checks size and checksum."""
        del size, crc32
        return self.folder / name

    def require(self, name: str) -> None:
        """Raise DataError when the file is not there."""
        if not (self.folder / name).is_file():
            raise DataError(
                f"{self.folder / name}: this shard is missing; copy it again or run `speechssl shard` again"
            )


@dataclass(frozen=True)
class RemoteFolder:
    """Shards behind http(s); files are fetched when first asked for and kept, named by their checksum.

    Several processes may share one cache: each file is fetched by one of them while the others wait.
    """

    address: str
    cache: Path

    @property
    def name(self) -> str:
        """The address, for messages."""
        return self.address

    def listing(self) -> bytes:
        """Fetch ``summary.json``; without a network the copy of the last time serves."""
        copy = self.cache / "summary.json"
        try:
            data = _retry(f"{self.address}/summary.json", lambda response: response.read())
        except DataError as error:
            if not copy.exists() or isinstance(error.__cause__, urllib.error.HTTPError):
                raise
            log.warning("%s; going on with the cached listing", error)
            return copy.read_bytes()
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomic(copy, data)
        return data

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        """Return the cached file, fetched and checked first when it is not there."""
        stem, dot, extension = name.partition(".")
        path = self.cache / f"{stem}.{crc32:08x}{dot}{extension}"
        if _has_size(path, size):
            return path
        self.cache.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f"{path.name}.lock"), wait=True):
            if not _has_size(path, size):
                _retry(f"{self.address}/{name}", lambda response: _store(response, path, size, crc32))
        return path

    def require(self, name: str) -> None:
        """Raise DataError when the server says that it does not have the file."""
        _retry(f"{self.address}/{name}", lambda _: None, method="HEAD")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _store(response: BinaryIO, path: Path, size: int, crc32: int) -> None:
    total = checksum = 0
    with atomic_file(path) as file:
        while chunk := response.read(min(CHUNK, size - total + 1)):
            file.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
            total += len(chunk)
            if total > size:
                break
        if (total, checksum) != (size, crc32):
            raise ValueError(f"got {total} bytes with checksum {checksum:08x}, expected {size} with {crc32:08x}")


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


def _retry(url: str, use: Callable[[BinaryIO], T], *, method: str = "GET") -> T:
    """Return ``use(response)``, trying again after pauses that double; DataError when it never works."""
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _opener().open(urllib.request.Request(url, method=method), timeout=TIMEOUT) as response:  # noqa: S310
                return use(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            status = error.code if isinstance(error, urllib.error.HTTPError) else None
            if status in {405, 501} and method == "HEAD":
                return use(io.BytesIO())  # this server does not answer HEAD: the first GET reports errors
            full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
            if attempt == ATTEMPTS or status in PERMANENT or full:
                raise DataError(
                    f"{url}: cannot be read ({error}) after {attempt} attempt{'s' * (attempt > 1)}; check the address, "
                    "the network and the room in the cache"
                ) from error
            log.warning("%s: %s; trying again in %.1f s", url, error, pause)
        time.sleep(pause)
        pause *= 2
    raise AssertionError("unreachable")
