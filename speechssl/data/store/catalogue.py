"""Where every utterance of a corpus lies: index rows by number, all in memory or read on demand.

In: the shards of a listing and which of their utterances to take. Out: rows, ids and lengths by number. ``StoredRows``
has read every index; ``LazyRows`` knows lengths and splits from ``lengths.bin`` and reads an index when a row of it is
wanted, so that a corpus of any size opens in seconds. Both number the same utterances in the same order.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any, Protocol

import numpy as np

from speechssl.core.errors import DataError
from speechssl.data.store.index import IndexRow, Listing, ShardIndex, parse_index
from speechssl.data.store.lengths import LengthTable
from speechssl.data.store.sources import Source

__all__ = ["Catalogue", "LazyRows", "StoredRows", "read_index", "spans"]

ATTEMPTS = 3
READERS = 8
"""Threads that read indexes."""
CACHED_ROWS = 100_000
"""Index rows that a lazy catalogue keeps (about 400 bytes each)."""
SPAN = 1 << 17
"""Utterances looked at together when all of a corpus is gone through: what is computed of them stays in the cache of
the processor."""


class Catalogue(Protocol):
    """Chosen utterances in shard order, by number."""

    first_rows: np.ndarray
    """int64 [shards + 1]: number of the first row of each shard, then the number of all rows."""

    def row(self, i: int) -> IndexRow:
        """Return row ``i``."""
        ...

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Return the samples of each row of the shards ``first`` to ``last``, int64."""
        ...

    def columns(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return ids, samples (int64) and checksums (uint32) of all rows."""
        ...

    def parts(self) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield ids, samples and checksums, of a bounded number of rows at a time where not all are in memory."""
        ...


class StoredRows:
    """Rows of indexes that were all read."""

    def __init__(self, rows: Sequence[IndexRow], n_shards: int) -> None:
        self._ids = [row.id for row in rows]
        self._samples = np.array([row.samples for row in rows], dtype=np.int64)
        self._shard = np.array([row.shard for row in rows], dtype=np.int32)
        self._offset = np.array([row.offset for row in rows], dtype=np.int64)
        self._size = np.array([row.size for row in rows], dtype=np.int64)
        self._crc32 = np.array([row.crc32 for row in rows], dtype=np.uint32)
        self._split = [row.split for row in rows]
        self.first_rows = _ends(np.bincount(self._shard, minlength=n_shards))

    def row(self, i: int) -> IndexRow:
        """Return row ``i``."""
        numbers = (self._shard, self._offset, self._size, self._samples, self._crc32)
        shard, offset, size, samples, crc32 = (int(array[i]) for array in numbers)
        return IndexRow(self._ids[i], shard, offset, size, samples, crc32, self._split[i])

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Return the samples of each row of the shards ``first`` to ``last``."""
        return self._samples[self.first_rows[first] : self.first_rows[last]]

    def columns(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return ids, samples and checksums of all rows."""
        return self._ids, self._samples, self._crc32

    def parts(self) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield ids, samples and checksums of all rows."""
        yield self.columns()


class LazyRows:
    """Rows of the chosen splits; any thread may ask.

    Raises
    ------
    DataError
        ``lengths.bin`` is missing or damaged; later, when a row of it is wanted, the same of an index.
    """

    def __init__(self, source: Source, listing: Listing, table: LengthTable, splits: Sequence[str]) -> None:
        self._source, self._listing, self._table, self._splits = source, listing, table, frozenset(splits)
        self._stored = _ends(np.array([record.utterances for record in listing.shards], dtype=np.int64))
        if int(self._stored[-1]) != table.utterances:
            raise DataError(f"{table.path}: not of these shards; run `speechssl shard` again")
        taken = np.zeros(len(listing.shards), dtype=np.int64)
        for first, last in spans(self._stored):
            chosen = table.chosen(int(self._stored[first]), int(self._stored[last]), self._splits)
            total = np.concatenate([[0], np.cumsum(chosen)])
            edges = self._stored[first : last + 1] - self._stored[first]
            taken[first:last] = np.diff(total[edges])
        self.first_rows = _ends(taken)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"_lock", "_cache"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def row(self, i: int) -> IndexRow:
        """Return row ``i``, reading the index of its shard when that is not at hand.

        Raises DataError when that index is missing, damaged or of other shards.
        """
        shard = int(np.searchsorted(self.first_rows, i, side="right")) - 1
        return self._rows(shard)[i - int(self.first_rows[shard])]

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Return the samples of each row of the shards ``first`` to ``last``."""
        start, end = int(self._stored[first]), int(self._stored[last])
        return self._table.lengths(start, end)[self._table.chosen(start, end, self._splits)].astype(np.int64)

    def columns(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return ids, samples and checksums of all rows, from every index: for corpora that fit in memory."""
        ids, samples, crc32 = zip(*self.parts(), strict=True)
        return list(chain.from_iterable(ids)), np.concatenate(samples), np.concatenate(crc32)

    def parts(self) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield ids, samples and checksums, some shards at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(self._listing.shards), 8 * READERS):
                last = min(first + 8 * READERS, len(self._listing.shards))
                for rows in pool.map(self._read, range(first, last)):
                    samples = np.array([row.samples for row in rows], dtype=np.int64)
                    yield [row.id for row in rows], samples, np.array([row.crc32 for row in rows], dtype=np.uint32)

    def _rows(self, shard: int) -> list[IndexRow]:
        with self._lock:
            if (rows := self._cache.get(shard)) is not None:
                self._cache.move_to_end(shard)
                return rows
        rows = self._read(shard)
        with self._lock:
            self._cache[shard] = rows
            while sum(map(len, self._cache.values())) > CACHED_ROWS and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return rows

    def _read(self, shard: int) -> list[IndexRow]:
        rows = list(_patiently(lambda: read_index(self._source, self._listing, shard)).rows)
        start, end = int(self._stored[shard]), int(self._stored[shard + 1])
        chosen = self._table.chosen(start, end, self._splits).tolist()
        if [row.samples for row in rows] != self._table.lengths(start, end).tolist():
            raise DataError(f"{self._table.path}: not of the same shards as the indexes; run `speechssl shard` again")
        return [row for row, taken in zip(rows, chosen, strict=True) if taken]

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, list[IndexRow]] = OrderedDict()


def read_index(source: Source, listing: Listing, shard: int) -> ShardIndex:
    """Return the index of a shard; DataError when it is missing, damaged, or belongs to other shards."""
    record = listing.shards[shard]
    name, size, crc32 = f"{record.name}.idx", record.idx_bytes, record.idx_crc32
    source.require(name, size=size, crc32=crc32)
    path = source.local(name, size=size, crc32=crc32)
    index = parse_index(path.read_bytes(), where=str(path), shard=shard)
    if (len(index.rows), index.tar_crc32) != (record.utterances, record.tar_crc32):
        raise DataError(f"{path}: this index belongs to other shards; copy the whole folder again")
    return index


def spans(first_rows: np.ndarray, *, step: int = 1, rows: int = SPAN) -> list[tuple[int, int]]:
    """Return ranges of shards of about ``rows`` rows, cut at multiples of ``step`` shards."""
    n_shards = len(first_rows) - 1
    starts = np.arange(0, n_shards, step)
    cuts = starts[np.flatnonzero(np.diff(first_rows[starts] // rows, prepend=-1))]
    return list(pairwise([*cuts.tolist(), n_shards]))


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _patiently(read: Callable[[], ShardIndex]) -> ShardIndex:
    """Read again after a pause: a network file system may fail once (ESTALE, EIO)."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read()
        except OSError as error:
            if attempt == ATTEMPTS or isinstance(error, FileNotFoundError):
                raise DataError(
                    f"{error.filename}: the index cannot be read ({error.strerror or error}); resume once it answers"
                ) from error
        time.sleep(0.1 * attempt)
    raise AssertionError("unreachable")
