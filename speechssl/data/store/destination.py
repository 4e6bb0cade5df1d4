"""Where shards are written: a folder, or an object store by way of a folder.

In: files in the folder, as they become whole. Out: the same files under the address, where there is one; a shard is in
the folder only until it has arrived.
"""

from dataclasses import dataclass
from pathlib import Path

from speechssl.data.store.remote import fetch, files_below, put, remove

__all__ = ["Destination"]


@dataclass(frozen=True)
class Destination:
    """A folder, and the address that its files go to (empty: they stay)."""

    folder: Path
    store: str = ""

    @property
    def name(self) -> str:
        """The place where the files end up, for messages."""
        return self.store or str(self.folder)

    def files(self) -> dict[str, int]:
        """Return the sizes of the files that are there, by name."""
        if self.store:
            return files_below(self.store)
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return fetch(f"{self.store}/{name}") if self.store else (self.folder / name).read_bytes()

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        (self.folder / name).unlink(missing_ok=True)
        if self.store and name in files_below(self.store):
            remove(f"{self.store}/{name}")

    def send(self, *names: str, move: bool = False) -> None:
        """Upload files of the folder, in this order; with ``move`` they do not stay in it."""
        for name in names if self.store else ():
            path = self.folder / name
            if path.exists():  # a ledger without entries is not
                put(path, f"{self.store}/{name}")
                path.unlink() if move else None
