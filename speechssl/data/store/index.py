"""The index beside each shard, and the listing of all shards: where every payload lies, how long it is, its checksum.

``NAME-000000.idx`` is TSV: a line that describes the tar (and carries the checksum of all that follows it), a line of
column names, a line per utterance, and a line per utterance that could not be used. ``summary.json`` lists the shards
of a folder. Both are checked as they are read.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry

__all__ = ["IndexRow", "Listing", "ShardIndex", "ShardRecord", "parse_index"]

MAGIC = "#speechssl-index-1"
COLUMNS = ("id", "offset", "size", "samples", "crc32", "split")
REJECTED = "#rejected"
VALID_ID = re.compile(r"[A-Za-z0-9_-]{1,120}")
VALID_SHARD = re.compile(r"[A-Za-z0-9_-]{1,80}-[0-9]{6,}")
LARGEST = 1 << 40
"""No honest shard, payload or recording is larger; a number beyond it is damage."""


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One utterance of a shard."""

    id: str
    shard: int
    """Position of the shard in the folder's listing."""
    offset: int
    """First byte of the audio payload in the tar."""
    size: int
    """Bytes of the payload."""
    samples: int
    """Decoded length at 16 kHz."""
    crc32: int
    """Of the payload."""
    split: str | None


@dataclass(frozen=True)
class ShardIndex:
    """The contents of one ``.idx`` file."""

    rows: Sequence[IndexRow]
    rejected: Sequence[Entry]
    tar_bytes: int
    tar_crc32: int
    source: str
    """Hash of what the shard was made from: the utterances and the settings."""

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        lines = ["\t".join(COLUMNS)]
        lines += [
            f"{row.id}\t{row.offset}\t{row.size}\t{row.samples}\t{row.crc32:08x}\t{row.split or ''}"
            for row in self.rows
        ]
        lines += [f"{REJECTED}\t{json.dumps(asdict(entry), ensure_ascii=False)}" for entry in self.rejected]
        body = ("\n".join(lines) + "\n").encode()
        head = (
            f"tar_bytes={self.tar_bytes}\ttar_crc32={self.tar_crc32:08x}\tcount={len(self.rows)}\tsource={self.source}"
        )
        rest = f"{head}\n".encode() + body
        return f"{MAGIC}\t{zlib.crc32(rest):08x}\t".encode() + rest


def parse_index(data: bytes, *, where: str, shard: int = 0) -> ShardIndex:
    """Return the index in ``data``; ``where`` names it in messages, ``shard`` is its position in the listing.

    Raises DataError when the bytes are not the index that was written (checked by its own checksum).
    """
    try:
        magic, checksum, rest = data.split(b"\t", 2)
        if magic.decode() != MAGIC:
            raise ValueError("not an index of version 1")
        if f"{zlib.crc32(rest):08x}" != checksum.decode():
            raise ValueError("its checksum does not match")
        first, names, *lines = rest.decode().split("\n")[:-1]
        head = dict(pair.split("=", 1) for pair in first.split("\t"))
        if tuple(names.split("\t")) != COLUMNS:
            raise ValueError("unknown columns")
        rows, rejected = [], []
        for line in lines:
            if line.startswith(REJECTED):
                rejected.append(Entry(**json.loads(line.split("\t", 1)[1])))
            else:
                rows.append(_parse_row(line, shard))
        index = ShardIndex(rows, rejected, int(head["tar_bytes"]), int(head["tar_crc32"], 16), head["source"])
        if len(rows) != int(head["count"]):
            raise ValueError("rows are missing")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: the shard index is damaged ({error}); copy it again, or run `speechssl shard` again"
        ) from error
    return index


def _parse_row(line: str, shard: int) -> IndexRow:
    name, offset, size, samples, crc32, split = line.split("\t")
    row = IndexRow(name, shard, int(offset), int(size), int(samples), int(crc32, 16), split or None)
    if not VALID_ID.fullmatch(name) or not all(0 < value < LARGEST for value in (row.offset, row.size, row.samples)):
        raise ValueError(f"row of {name!r}")
    return row


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard in the listing."""

    name: str
    """Without extension: ``NAME-000000``."""
    utterances: int
    tar_bytes: int
    tar_crc32: int
    idx_bytes: int
    idx_crc32: int


@dataclass(frozen=True)
class Listing:
    """``summary.json`` of a folder of shards; written before ``manifest.jsonl``, from which it knows the checksum."""

    shards: tuple[ShardRecord, ...]
    utterances: int
    hours: float
    rejected: dict[str, int]
    manifest_bytes: int
    manifest_crc32: int
    settings: dict[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    """Names of the splits, as numbered in ``lengths.bin``."""
    lengths_crc32: int = 0
    """Of ``lengths.bin``; the folder has none when ``splits`` is empty."""
    version: int = 1

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Parse the file; DataError when it is not a listing."""
        try:
            # A record as soon as it is read: a hundred thousand dictionaries would take three times the memory.
            fields = json.loads(data, object_hook=lambda found: ShardRecord(**found) if "idx_crc32" in found else found)
            if fields["version"] != 1:
                raise ValueError(f"version {fields['version']}, this program reads version 1")
            fields |= {"shards": tuple(fields["shards"]), "splits": tuple(fields.get("splits", ()))}
            listing = cls(**fields)
            for record in listing.shards:
                if not isinstance(record, ShardRecord) or not VALID_SHARD.fullmatch(record.name):
                    raise ValueError(f"shard {getattr(record, 'name', record)!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: not the summary of a folder of shards ({error}); run `speechssl shard` again"
            ) from error
        return listing
