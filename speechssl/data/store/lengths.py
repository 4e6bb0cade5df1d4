"""``lengths.bin``: how long every utterance of a folder of shards is, and of which split; five bytes an utterance.

In: index rows, when shards are written; the file, when a plan is made. Out: lengths and splits of any range of
utterances. With it the plan of a hundred million utterances is made without looking at a hundred thousand indexes. All
lengths come first (uint32, samples at 16 kHz, little-endian), then a byte for each utterance, its place in the
listing's ``splits``.
"""

import os
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl.core.errors import DataError
from speechssl.data.store.index import IndexRow, Listing

__all__ = ["FILE_NAME", "LengthTable", "pack_lengths"]

FILE_NAME = "lengths.bin"
LONGEST = (1 << 32) - 1
MOST_SPLITS = 256


def pack_lengths(rows: Sequence[IndexRow]) -> tuple[bytes, tuple[str, ...]]:
    """Return the file's bytes and the names of the splits; no bytes where they do not fit the format.

    An utterance without a split counts as ``train``, as everywhere.
    """
    splits = tuple(sorted({row.split or "train" for row in rows}))
    if len(splits) > MOST_SPLITS or max((row.samples for row in rows), default=0) > LONGEST:
        return b"", ()
    place = {name: i for i, name in enumerate(splits)}
    lengths = np.array([row.samples for row in rows], dtype="<u4")
    codes = np.array([place[row.split or "train"] for row in rows], dtype=np.uint8)
    return lengths.tobytes() + codes.tobytes(), splits


@dataclass(frozen=True)
class LengthTable:
    """The file beside a listing; reading never holds more than was asked for."""

    path: Path
    utterances: int
    splits: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, listing: Listing) -> "LengthTable":
        """Return the table of a listing; DataError when the file is missing, or is not the one that was written."""
        again = "copy it again, or run `speechssl shard` again"
        try:
            checksum = _crc32(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); {again}") from error
        if checksum != listing.lengths_crc32 or path.stat().st_size != 5 * listing.utterances:
            raise DataError(f"{path}: damaged, or of other shards; {again}")
        return cls(path, listing.utterances, listing.splits)

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Return samples of utterances ``first`` to ``last``, uint32."""
        return np.frombuffer(self._bytes(4 * first, 4 * (last - first)), dtype="<u4")

    def chosen(self, first: int, last: int, splits: Collection[str]) -> np.ndarray:
        """Return which of these utterances are of the splits (all, when none is named), bool."""
        codes = np.frombuffer(self._bytes(4 * self.utterances + first, last - first), dtype=np.uint8)
        taken = np.zeros(MOST_SPLITS, dtype=bool)
        taken[: len(self.splits)] = [not splits or name in splits for name in self.splits]
        if codes.size and int(codes.max()) >= len(self.splits):
            raise DataError(f"{self.path}: names a split that summary.json does not; copy both again")
        return taken[codes]

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
                while len(data) < size and (more := os.pread(file.fileno(), size - len(data), offset + len(data))):
                    data += more
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror or error})") from error
        if len(data) < size:
            raise DataError(f"{self.path}: became shorter while it was in use; copy it again, then resume")
        return data


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 22):
            checksum = zlib.crc32(piece, checksum)
    return checksum
