"""Whether every byte of a folder of shards is what it was when it was written.

In: the folder. Out: which utterances are damaged, which members do not belong, which files are missing or have a wrong
size. Everything but the audio payload follows from the manifest, so it is compared byte for byte; the payload has its
checksum. Nothing is ever extracted.
"""

import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.manifest import Utterance, read_manifest
from speechssl.data.store.index import IndexRow, Listing, ShardRecord, parse_index
from speechssl.data.store.lengths import FILE_NAME, LengthTable
from speechssl.data.store.payload import EXTENSIONS, encoding_of
from speechssl.data.store.sources import LocalFolder
from speechssl.data.store.tar import BLOCK, header, padding, sidecars

__all__ = ["VerifySummary", "verify_shards"]

CHUNK = 1 << 22
STAGE = "verify"


@dataclass(frozen=True)
class VerifySummary:
    """What ``verify_shards`` found."""

    ok: bool
    checked: int
    """Utterances looked at."""
    problems: list[Entry] = field(default_factory=list)
    """``item`` is an utterance id for damage to one utterance, else the name of a file, or ``FILE/MEMBER``."""


def verify_shards(folder: Path) -> VerifySummary:
    """Read every shard of a folder and compare it with its index and with the manifest.

    Reasons of problems: for utterances ``truncated_shard``, ``damaged_header``, ``damaged_payload``,
    ``damaged_sidecar``, ``interleaved_members``, ``not_in_manifest``; for members ``unsafe_name``, ``link``,
    ``device``, ``foreign_member``; for files ``missing_shard``, ``damaged_index``, ``damaged_manifest``,
    ``damaged_lengths``, ``wrong_size``, ``damaged_end``.

    Raises DataError when the folder holds no finished shards at all.
    """
    listing = Listing.from_bytes(LocalFolder(folder).listing(), where=str(folder / "summary.json"))
    problems: list[Entry] = []
    known: dict[str, Utterance] = {}
    if zlib.crc32((folder / "manifest.jsonl").read_bytes()) != listing.manifest_crc32:
        problems.append(Entry(STAGE, "manifest.jsonl", "damaged_manifest", "it changed since the shards were written"))
    try:
        known = {utterance.id: utterance for utterance in read_manifest(folder / "manifest.jsonl")}
    except DataError as error:
        problems.append(Entry(STAGE, "manifest.jsonl", "damaged_manifest", str(error)))
    extension = EXTENSIONS.get(encoding_of(listing.settings, str(folder)))
    if extension is None:
        raise DataError(f"{folder}: an index of tars that others made; their audio is checked each time it is read")
    table, checked = None, 0
    if listing.splits:  # shards of earlier versions have no such file
        try:
            table = LengthTable.of(folder / FILE_NAME, listing)
        except DataError as error:
            problems.append(Entry(STAGE, FILE_NAME, "damaged_lengths", str(error)))
    for number, record in enumerate(listing.shards):
        problems += _verify_shard(folder, number, record, known, extension)
        if table is not None:
            problems += _verify_lengths(folder, number, record, table, checked)
        checked += record.utterances
    return VerifySummary(not problems, checked, problems)


def _verify_shard(
    folder: Path, number: int, record: ShardRecord, known: dict[str, Utterance], extension: str
) -> Iterator[Entry]:
    tar, idx = folder / f"{record.name}.tar", folder / f"{record.name}.idx"
    try:
        data = idx.read_bytes()
        rows = parse_index(data, where=idx.name, shard=number).rows
    except (OSError, DataError) as error:
        yield Entry(STAGE, idx.name, "damaged_index" if idx.exists() else "missing_shard", str(error))
        return
    if zlib.crc32(data) != record.idx_crc32:
        yield Entry(STAGE, idx.name, "damaged_index", "it belongs to other shards")
    if not tar.exists():
        yield Entry(STAGE, tar.name, "missing_shard", f"{len(rows)} utterances")
        return
    with tar.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != record.tar_bytes:
            yield Entry(STAGE, tar.name, "wrong_size", f"{size} bytes, {record.tar_bytes} were written")
        end = 0
        for row in rows:
            head = header(f"{row.id}.{extension}", row.size)
            start = row.offset - len(head)
            if start > end:
                yield from _gap(file, tar.name, end, start)
            problem, end = _verify_row(file, row, head, known.get(row.id), size)
            if problem is not None:
                yield problem
        if size >= end:
            yield from _end(file, tar.name, end, size)


def _verify_lengths(folder: Path, number: int, record: ShardRecord, table: LengthTable, first: int) -> Iterator[Entry]:
    """Compare the utterances of a shard, of which ``first`` is the first one's number, with what ``table`` says."""
    try:
        rows = parse_index((folder / f"{record.name}.idx").read_bytes(), where=record.name, shard=number).rows
    except (OSError, DataError):
        return  # listed already
    last = min(first + len(rows), table.utterances)
    splits = [row.split or "train" for row in rows]
    try:
        same = table.lengths(first, last).tolist() == [row.samples for row in rows]
        for name in {*splits}:
            same = same and table.chosen(first, last, {name}).tolist() == [split == name for split in splits]
    except DataError as error:
        yield Entry(STAGE, FILE_NAME, "damaged_lengths", str(error))
        return
    if not same:
        yield Entry(STAGE, FILE_NAME, "damaged_lengths", f"other lengths or splits than {record.name}.idx")


def _verify_row(
    file: BinaryIO, row: IndexRow, head: bytes, utterance: Utterance | None, size: int
) -> tuple[Entry | None, int]:
    """Return what is wrong with one utterance, whose tar header is to be ``head``, and where its members should end."""
    tail = padding(row.size) + (sidecars(utterance) if utterance is not None else b"")
    start = row.offset - len(head)
    end = start + len(head) + row.size + len(tail)

    def problem(reason: str, detail: str) -> tuple[Entry, int]:
        return Entry(STAGE, row.id, reason, f"{detail}, byte {row.offset} of {Path(file.name).name}"), end

    if size < end:
        return problem("truncated_shard", "the shard ends too early")
    file.seek(start)
    if file.read(len(head)) != head:
        return problem("damaged_header", "the tar header of the audio")
    if zlib.crc32(file.read(row.size)) != row.crc32:
        return problem("damaged_payload", "the audio")
    if utterance is None:
        return problem("not_in_manifest", "manifest.jsonl does not list it")
    found = file.read(len(tail))
    if found != tail:
        name = _member_name(found[len(padding(row.size)) :])
        if name is not None and name.split(".", 1)[0] != row.id:
            return problem("interleaved_members", f"followed by {name!r} instead of its own .json")
        return problem("damaged_sidecar", "its .json or .txt")
    return None, end


def _member_name(block: bytes) -> str | None:
    try:
        return tarfile.TarInfo.frombuf(block[:BLOCK], "utf-8", "replace").name
    except tarfile.HeaderError:
        return None


def _foreign(file: BinaryIO, shard: str, start: int, stop: int) -> tuple[list[Entry], int]:
    """Name the members in a stretch of the tar that no utterance of the index owns; return where they end."""
    found = []
    while start < stop:
        file.seek(start)
        block = file.read(BLOCK)
        if not any(block):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError:
            found.append(Entry(STAGE, shard, "foreign_member", f"{stop - start} unknown bytes at byte {start}"))
            return found, stop
        if info.issym() or info.islnk():
            reason = "link"
        elif info.isdev():
            reason = "device"
        elif info.name.startswith("/") or ".." in info.name.split("/"):
            reason = "unsafe_name"
        else:
            reason = "foreign_member"
        found.append(Entry(STAGE, f"{shard}/{info.name}", reason, f"byte {start}; no utterance of the index owns it"))
        start += BLOCK + (info.size + -info.size % BLOCK if info.isreg() else 0)
    return found, start


def _gap(file: BinaryIO, shard: str, start: int, stop: int) -> list[Entry]:
    """Name what lies between two utterances, where nothing should be."""
    found, end = _foreign(file, shard, start, stop)
    if end < stop:
        found.append(Entry(STAGE, shard, "foreign_member", f"{stop - end} zeros at byte {end}"))
    return found


def _end(file: BinaryIO, shard: str, start: int, size: int) -> list[Entry]:
    """Check that nothing but zeros, two blocks of them at least, follows the last utterance."""
    found, end = _foreign(file, shard, start, size)
    if found and end == size:
        return found
    file.seek(end)
    clean = size - end >= 2 * BLOCK
    while chunk := file.read(CHUNK):
        clean = clean and not any(chunk)
    if not clean:
        found.append(Entry(STAGE, shard, "damaged_end", f"the archive is not closed as it was written, byte {end}"))
    return found
