"""Where shards are read from: a local folder, or an address through a cache on the local disk.

In: a file name with its size and checksum from the listing. Out: a local path whose content was checked when it was
fetched. Folders, ``file://``, ``http(s)://`` and the object stores of ``remote.STORES`` are understood, nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from speechssl.core.errors import DataError
from speechssl.data.store.remote import STORES, RemoteFolder, cache_folder, scheme

__all__ = ["LocalFolder", "Source", "source_of"]


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

    def require(self, name: str, *, size: int, crc32: int) -> None:
        """Raise DataError when the file is not there."""
        ...


def source_of(location: str | Path, cache: str = "", *, most_gb: float = 0.0) -> Source:
    """Return the source for a folder or address.

    ``cache`` is empty for ``~/.cache/speechssl``; ``most_gb`` bounds the tars in it (10^9 bytes; 0: no limit).

    Raises DataError when the location is empty, of an unknown kind (``pipe:`` among them), or holds no finished shards.
    """
    text, kind = str(location), scheme(location)
    if kind in {"http", "https", *STORES}:
        return RemoteFolder(text.rstrip("/"), cache_folder(cache, text), most_gb * 1e9)
    if kind == "file":
        text = unquote(urlsplit(text).path)
    elif kind and not Path(text).exists():
        known = ", ".join(f"{each}://" for each in ("file", "http", "https", *STORES[:-1]))
        raise DataError(f"{text}: shards are read from a folder, {known}, not from {kind}:")
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

    def require(self, name: str, *, size: int, crc32: int) -> None:
        """Raise DataError when the file is not there."""
        del size, crc32
        if not (self.folder / name).is_file():
            raise DataError(
                f"{self.folder / name}: this shard is missing; copy it again or run `speechssl shard` again"
            )
