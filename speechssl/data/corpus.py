"""Shards as an array of utterances: any utterance by its number, checked against the index as it is read.

In: a folder of shards (or an http(s) address) and which utterances to take. Out: lengths, ids, samples. Reading goes by
offset, never through tar headers, and works from any number of threads and processes, forked or spawned.
"""

import hashlib
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.data import archive
from speechssl.data.index import IndexRow, Listing, ShardIndex, ShardRecord, parse_index
from speechssl.data.manifest import Utterance, read_manifest, safe_id
from speechssl.data.payload import EXTENSIONS, decode_payload, encoding_of
from speechssl.data.remote import Source, source_of
from speechssl.errors import AudioError, DataError

__all__ = ["Corpus", "open_corpus"]

OPEN_FILES = 64
"""Shards that one process keeps open."""
READ_ATTEMPTS = 3


def open_corpus(
    location: str | Path, *, cache: str = "", splits: Sequence[str] = (), ids: Iterable[str] | None = None
) -> "Corpus":
    """Open shards, looking at every index and for every tar.

    Parameters
    ----------
    location
        Folder made by ``shard_manifest``, or an http(s) address of one.
    cache
        Where remote shards are kept; empty for ``~/.cache/speechssl``.
    splits
        Take utterances of these splits; one without a split counts as ``train``. Empty for all.
    ids
        Take exactly these utterances, of any split; ids as in the source (``a/b.wav``) or as in the manifest.

    Raises
    ------
    DataError
        A shard or index is missing or damaged, sharding did not finish, or no utterance is left.
    """
    source = source_of(location, cache)
    listing = Listing.from_bytes(source.listing(), where=f"{source.name}/summary.json")

    def load(number_and_record: tuple[int, ShardRecord]) -> ShardIndex:
        number, record = number_and_record
        source.require(f"{record.name}.tar")
        source.require(f"{record.name}.idx")
        path = source.local(f"{record.name}.idx", size=record.idx_bytes, crc32=record.idx_crc32)
        index = parse_index(path.read_bytes(), where=str(path), shard=number)
        if (len(index.rows), index.tar_crc32) != (record.utterances, record.tar_crc32):
            raise DataError(f"{path}: this index belongs to other shards; copy the whole folder again")
        return index

    with ThreadPoolExecutor(8) as pool:
        rows = [row for index in pool.map(load, enumerate(listing.shards)) for row in index.rows]
    taken = _select(rows, splits, ids, source.name)
    return Corpus(source, listing, taken)


def _select(rows: list[IndexRow], splits: Sequence[str], ids: Iterable[str] | None, where: str) -> list[IndexRow]:
    if ids is not None:
        wanted = {safe_id(item) for item in ids}
        taken = [row for row in rows if row.id in wanted]
        if not taken:
            raise DataError(
                f"{where}: none of the {len(wanted)} listed ids is in these shards; compare with manifest.jsonl"
            )
        return taken
    taken = [row for row in rows if not splits or (row.split or "train") in splits]
    if not taken:
        there = ", ".join(sorted({row.split or "train" for row in rows})) or "none"
        raise DataError(f"{where}: no utterance of split {', '.join(splits) or 'any'}; splits in these shards: {there}")
    return taken


class Corpus:
    """Utterances in shard order, addressed by row number.

    Attributes
    ----------
    ids : list[str]
    samples : int64 array, length of each utterance at 16 kHz
    shard_of : int32 array, position of each utterance's shard
    n_shards : int, shards in the folder, those without any chosen utterance included
    """

    def __init__(self, source: Source, listing: Listing, rows: Sequence[IndexRow]) -> None:
        self.source = source
        self.listing = listing
        self.ids = [row.id for row in rows]
        self.samples = np.array([row.samples for row in rows], dtype=np.int64)
        self.shard_of = np.array([row.shard for row in rows], dtype=np.int32)
        self.n_shards = len(listing.shards)
        self._offset = np.array([row.offset for row in rows], dtype=np.int64)
        self._size = np.array([row.size for row in rows], dtype=np.int64)
        self._crc32 = np.array([row.crc32 for row in rows], dtype=np.uint32)
        self._split = [row.split for row in rows]
        self._utterances: dict[str, Utterance] | None = None
        self._encoding = encoding_of(listing.settings, source.name)
        self._files = _OpenFiles()

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind open files and texts: a worker process opens its own."""
        return self.__dict__ | {"_files": None, "_utterances": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_files": _OpenFiles()})

    def row(self, i: int) -> IndexRow:
        """Return the index row of utterance ``i``."""
        numbers = (self.shard_of, self._offset, self._size, self.samples, self._crc32)
        shard, offset, size, samples, crc32 = (int(array[i]) for array in numbers)
        return IndexRow(self.ids[i], shard, offset, size, samples, crc32, self._split[i])

    def read_bytes(self, i: int) -> bytes:
        """Return the stored bytes of utterance ``i`` (FLAC or WAV), after checking its tar header and its checksum.

        Raises
        ------
        AudioError
            ``shard_unreadable``, ``truncated_shard``, ``damaged_header`` or ``damaged_payload``.
        """
        row = self.row(i)
        shard = self.listing.shards[row.shard]
        head = archive.header(f"{row.id}.{EXTENSIONS[self._encoding]}", row.size)
        where = f"{shard.name}.tar at byte {row.offset}"
        data = self._pread(row, shard, row.offset - len(head), len(head) + row.size)
        if len(data) < len(head) + row.size:
            raise AudioError(row.id, "truncated_shard", f"{where}: the shard ends too early")
        if data[: len(head)] != head:
            raise AudioError(row.id, "damaged_header", where)
        payload = data[len(head) :]
        if zlib.crc32(payload) != row.crc32:
            raise AudioError(row.id, "damaged_payload", where)
        return payload

    def read(self, i: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Return samples ``start`` to ``start + frames`` (to the end, when None) of utterance ``i``.

        Returns
        -------
        float32 array [T] at 16 kHz

        Raises
        ------
        AudioError
            As ``read_bytes``, or ``undecodable``, or ``length_mismatch`` with the index.
        """
        samples = int(self.samples[i])
        wanted = samples - start if frames is None else frames
        if start < 0 or wanted < 0 or start + wanted > samples:
            raise ValueError(f"{self.ids[i]}: samples {start} to {start + wanted} of {samples}")
        payload = self.read_bytes(i)
        return decode_payload(payload, self._encoding, item=self.ids[i], samples=samples, start=start, count=wanted)

    def utterances(self) -> dict[str, Utterance]:
        """Return the manifest's entries of these utterances by id (read when first asked for)."""
        if self._utterances is None:
            size, crc32 = self.listing.manifest_bytes, self.listing.manifest_crc32
            path = self.source.local("manifest.jsonl", size=size, crc32=crc32)
            if zlib.crc32(path.read_bytes()) != crc32:
                raise DataError(f"{path}: changed since the shards were written; run `speechssl shard` again")
            mine = set(self.ids)
            self._utterances = {item.id: item for item in read_manifest(path) if item.id in mine}
        return self._utterances

    def fingerprint(self) -> str:
        """Return a hash of ids, lengths and checksums: equal exactly when the audio is."""
        digest = hashlib.blake2b("\n".join(self.ids).encode(), digest_size=16)
        digest.update(self.samples.astype("<i8").tobytes() + self._crc32.astype("<u4").tobytes())
        return digest.hexdigest()

    def _pread(self, row: IndexRow, shard: ShardRecord, offset: int, size: int) -> bytes:
        for attempt in range(READ_ATTEMPTS):
            try:
                path = self.source.local(f"{shard.name}.tar", size=shard.tar_bytes, crc32=shard.tar_crc32)
                return self._files.pread(path, offset, size)
            except (OSError, DataError) as error:
                # A network file system may fail once (ESTALE, EIO): open the file anew before giving the row up.
                self._files.forget()
                if attempt == READ_ATTEMPTS - 1 or isinstance(error, FileNotFoundError | DataError):
                    raise AudioError(row.id, "shard_unreadable", f"{shard.name}.tar: {error}") from error
                time.sleep(0.1 * (attempt + 1))
        raise AssertionError("unreachable")


class _Descriptor:
    """An open file that closes itself once nobody uses it: evicted does not mean unused by another thread."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _OpenFiles:
    """The most recently used files, at most 64 for each process."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # a forked child must not inherit a lock that some thread held
        self._open: OrderedDict[Path, _Descriptor] = OrderedDict()

    def forget(self) -> None:
        """Close everything."""
        self._renew()

    def pread(self, path: Path, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes at ``offset``; fewer only where the file ends."""
        if self._process != os.getpid():
            self._renew()
        with self._lock:
            descriptor = self._open.get(path)
            if descriptor is None:
                descriptor = self._open[path] = _Descriptor(path)
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
        data = os.pread(descriptor.number, size, offset)
        while len(data) < size and (more := os.pread(descriptor.number, size - len(data), offset + len(data))):
            data += more
        return data
