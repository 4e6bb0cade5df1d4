"""Shards as an array of utterances: any utterance by its number, checked against the index as it is read.

In: a folder of shards (or an address) and which utterances to take. Out: lengths, ids, samples. Reading goes by
offset, never through tar headers, and works from any number of threads and processes, forked or spawned.
"""

import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import AudioError, DataError
from speechssl.data.ingest.manifest import Utterance, read_manifest, safe_id
from speechssl.data.store.catalogue import Catalogue, LazyRows, StoredRows, read_index
from speechssl.data.store.index import IndexRow, Listing, ShardIndex, ShardRecord
from speechssl.data.store.lengths import FILE_NAME, LengthTable
from speechssl.data.store.open_files import OpenFiles
from speechssl.data.store.payload import EXTENSIONS, crc32, decode_payload, encoding_of
from speechssl.data.store.remote import UnreachableError
from speechssl.data.store.sources import Source, source_of
from speechssl.data.store.tar import quick_header

__all__ = ["Corpus", "manifest_of", "open_corpus", "open_lazily", "select"]

LARGE = 1_000_000
"""Utterances above which a corpus is opened without reading its indexes."""

READ_ATTEMPTS = 3
SCRATCH = 1 << 22
"""Bytes that each reading thread keeps for payloads; a longer one gets memory of its own."""


def open_corpus(
    location: str | Path,
    *,
    cache: str = "",
    cache_gb: float = 0.0,
    splits: Sequence[str] = (),
    ids: Iterable[str] | None = None,
) -> "Corpus":
    """Open shards, looking at every index and for every tar; of a large corpus at neither.

    A corpus of more than ``LARGE`` utterances is opened by its ``lengths.bin``, and its indexes are read as they are
    needed: what is missing or damaged is then an error when it is met. A list of ids needs every index.

    Parameters
    ----------
    location
        Folder made by ``shard_manifest``, or an address of one (http(s) or an object store); or webdataset tars that
        others made: a folder of them, one, or a pattern with braces. Those are looked through once, and an index is
        kept.
    cache, cache_gb
        Where remote shards are kept (empty for ``~/.cache/speechssl``), and how many bytes of them (10^9; 0: all).
    splits
        Take utterances of these splits; one without a split counts as ``train``. Empty for all.
    ids
        Take exactly these utterances, of any split; ids as in the source (``a/b.wav``) or as in the manifest.

    Raises
    ------
    DataError
        A shard or index is missing or damaged, sharding did not finish, or no utterance is left.
    """
    source = _source(location, cache, cache_gb)
    listing = Listing.from_bytes(source.listing(), where=f"{source.name}/summary.json")
    if listing.utterances > LARGE and listing.splits and ids is None:
        return open_lazily(source, listing, splits)

    def load(number: int) -> ShardIndex:
        record = listing.shards[number]
        source.require(f"{record.name}.tar", size=record.tar_bytes, crc32=record.tar_crc32)
        return read_index(source, listing, number)

    with ThreadPoolExecutor(8) as pool:
        rows = [row for index in pool.map(load, range(len(listing.shards))) for row in index.rows]
    taken = select(rows, splits, ids, source.name)
    return Corpus(source, listing, StoredRows(taken, len(listing.shards)))


def _source(location: str | Path, cache: str, cache_gb: float) -> Source:
    """Return our own shards, or webdataset tars that others made, indexed."""
    text = str(location)
    folder = Path(text)
    ours = any((folder / name).exists() for name in ("summary.json", "shards.lock")) or any(folder.glob("*.idx"))
    if text and "://" not in text and not ours:
        from speechssl.data.store.foreign_index import open_tars

        if (tars := open_tars(text, cache)) is not None:
            return tars
    return source_of(location, cache, most_gb=cache_gb)


def open_lazily(source: Source, listing: Listing, splits: Sequence[str]) -> "Corpus":
    """Open shards by their ``lengths.bin`` alone: the same utterances under the same numbers.

    Raises DataError when the file is missing or damaged, or no utterance is left.
    """
    path = source.local(FILE_NAME, size=5 * listing.utterances, crc32=listing.lengths_crc32)
    rows = LazyRows(source, listing, LengthTable.of(path, listing), splits)
    if not rows.first_rows[-1]:
        raise _nothing(splits, listing.splits, source.name)
    return Corpus(source, listing, rows)


def manifest_of(source: Source, listing: Listing) -> list[Utterance]:
    """Return the entries of a folder's manifest; DataError when it is not the one that the listing knows."""
    size, crc32 = listing.manifest_bytes, listing.manifest_crc32
    path = source.local("manifest.jsonl", size=size, crc32=crc32)
    if zlib.crc32(path.read_bytes()) != crc32:
        raise DataError(f"{path}: changed since the shards were written; run `speechssl shard` again")
    return read_manifest(path)


def select(rows: list[IndexRow], splits: Sequence[str], ids: Iterable[str] | None, where: str) -> list[IndexRow]:
    """Return the rows of some splits or ids, as ``open_corpus`` takes them; DataError when there is none."""
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
        raise _nothing(splits, {row.split or "train" for row in rows}, where)
    return taken


def _nothing(splits: Iterable[str], there: Iterable[str], where: str) -> DataError:
    found = ", ".join(sorted(there)) or "none"
    return DataError(f"{where}: no utterance of split {', '.join(splits) or 'any'}; splits in these shards: {found}")


class Corpus:
    """Utterances in shard order, addressed by row number.

    Attributes
    ----------
    n_shards : int, shards in the folder, those without any chosen utterance included
    texts : dict[str, str], transcripts by id that take the place of the manifest's; set before ``utterances`` is called
    first_rows : int64 array [n_shards + 1], number of each shard's first row, then of all rows
    """

    def __init__(self, source: Source, listing: Listing, rows: Catalogue) -> None:
        self.source = source
        self.listing = listing
        self.n_shards = len(listing.shards)
        self.first_rows = rows.first_rows
        self.texts: dict[str, str] = {}
        self._rows = rows
        self._utterances: dict[str, Utterance] | None = None
        self._encoding = encoding_of(listing.settings, source.name)
        self._files, self._scratch = OpenFiles(), threading.local()

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    @cached_property
    def ids(self) -> list[str]:
        """Ids of all utterances (of a large corpus: read from every index when first asked for)."""
        return self._rows.columns()[0]

    @cached_property
    def samples(self) -> np.ndarray:
        """Length of every utterance in samples at 16 kHz, int64."""
        return self._rows.lengths(0, self.n_shards)

    @cached_property
    def shard_of(self) -> np.ndarray:
        """Position of every utterance's shard, int32."""
        return np.repeat(np.arange(self.n_shards, dtype=np.int32), np.diff(self.first_rows))

    @property
    def lazy(self) -> bool:
        """Whether indexes are read as they are needed."""
        return isinstance(self._rows, LazyRows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind open files, texts and whole columns: a worker process makes its own when it needs them."""
        left = {"ids", "samples", "shard_of", "contents", "_files", "_scratch"}
        return {name: value for name, value in self.__dict__.items() if name not in left} | {"_utterances": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_files": OpenFiles(), "_scratch": threading.local()})

    def row(self, i: int) -> IndexRow:
        """Return the index row of utterance ``i``; DataError when it lies in an index that cannot be read."""
        return self._rows.row(i)

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Return the samples (int64) of each utterance in the shards ``first`` to ``last``."""
        return self._rows.lengths(first, last)

    def read_bytes(self, i: int) -> bytes:
        """Return the stored bytes of utterance ``i`` (FLAC or WAV), after checking its tar header and its checksum.

        Raises AudioError ``shard_unreadable``, ``truncated_shard``, ``damaged_header`` or ``damaged_payload``.
        """
        return bytes(self._payload(self.row(i)))

    def read(self, i: int, start: int = 0, frames: int | None = None, *, out: np.ndarray | None = None) -> np.ndarray:
        """Return samples ``start`` to ``start + frames`` (to the end, when None) of utterance ``i``.

        Parameters
        ----------
        out
            Contiguous array of that length to write to, int16 (the samples as they are stored) or float32 (with full
            scale 1); a new one of float32 when None.

        Returns
        -------
        array [T] at 16 kHz: ``out``, or float32

        Raises
        ------
        AudioError
            As ``read_bytes``, or ``undecodable``, or ``length_mismatch`` with the index.
        UnreachableError
            The store of the shards does not answer.
        """
        row = self.row(i)
        wanted = row.samples - start if frames is None else frames
        if start < 0 or wanted < 0 or start + wanted > row.samples:
            raise ValueError(f"{row.id}: samples {start} to {start + wanted} of {row.samples}")
        wave = np.empty(wanted, dtype=np.float32) if out is None else out
        stored = wave if wave.dtype == np.int16 else np.empty(wanted, dtype=np.int16)
        decode_payload(self._payload(row), self._encoding, item=row.id, samples=row.samples, start=start, out=stored)
        if stored is not wave:
            np.multiply(stored, np.float32(1 / 32768), out=wave, dtype=np.float32)
        return wave

    def utterances(self) -> dict[str, Utterance]:
        """Return the manifest's entries of these utterances by id (read when first asked for)."""
        if self._utterances is None:
            mine = set(self.ids)
            found = (item for item in self._manifest() if item.id in mine)
            self._utterances = {item.id: replace(item, text=self.texts.get(item.id, item.text)) for item in found}
        return self._utterances

    def _manifest(self) -> Iterator[Utterance]:
        """Read the manifest's entries."""
        return iter(manifest_of(self.source, self.listing))

    def parts(self) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield ids, samples (int64) and checksums of the stored bytes (uint32), some rows at a time, in order."""
        return self._rows.parts()

    @cached_property
    def contents(self) -> np.ndarray:
        """[N] uint64: length and checksum of every utterance; equal where the stored audio is."""
        parts = [(samples.astype(np.uint64) << np.uint64(32)) ^ crc32 for _, samples, crc32 in self.parts()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)

    def _payload(self, row: IndexRow) -> memoryview:
        """Return a row's stored bytes, checked; they are this thread's until it reads the next ones."""
        shard = self.listing.shards[row.shard]
        # Tars that others made have headers of any kind: there the checksum of the payload alone must match.
        extension = EXTENSIONS.get(self._encoding)
        head = b"" if extension is None else quick_header(f"{row.id}.{extension}", row.size)
        where = f"{shard.name}.tar at byte {row.offset}"
        data = self._room(len(head) + row.size)
        if self._read_into(data, row, shard, row.offset - len(head)) < len(data):
            raise AudioError(row.id, "truncated_shard", f"{where}: the shard ends too early")
        if data[: len(head)] != head:
            raise AudioError(row.id, "damaged_header", where)
        payload = data[len(head) :]
        if crc32(payload) != row.crc32:
            raise AudioError(row.id, "damaged_payload", where)
        return payload

    def _room(self, size: int) -> memoryview:
        if size > SCRATCH:
            return memoryview(bytearray(size))
        if not hasattr(self._scratch, "room"):
            self._scratch.room = memoryview(bytearray(SCRATCH))
        return self._scratch.room[:size]

    def _read_into(self, buffer: memoryview, row: IndexRow, shard: ShardRecord, offset: int) -> int:
        def path() -> Path:
            return self.source.local(f"{shard.name}.tar", size=shard.tar_bytes, crc32=shard.tar_crc32)

        for attempt in range(READ_ATTEMPTS):
            try:
                return self._files.read_into(buffer, row.shard, path, offset)
            except UnreachableError:
                raise  # a store that is away says nothing of its rows: the run ends, and goes on when it is back
            except (OSError, DataError) as error:
                # A network file system may fail once (ESTALE, EIO): open the file anew before giving the row up.
                self._files.forget()
                if attempt == READ_ATTEMPTS - 1 or isinstance(error, FileNotFoundError | DataError):
                    raise AudioError(row.id, "shard_unreadable", f"{shard.name}.tar: {error}") from error
                time.sleep(0.1 * (attempt + 1))
        raise AssertionError("unreachable")
