"""The index of webdataset tars that others made: they are read where they lie, and looked through once.

In: tars. Out: a folder with what a folder of shards has beside its tars (index, listing, lengths, manifest, ledger),
and a Source that joins both. The index lies beside the tars; where that place is read-only, in the cache. It is made
again when a tar has another size or time. Audio of any rate, channels and format is converted each time it is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.core.errors import AudioError, DataError
from speechssl.core.files import exclusive, write_atomic
from speechssl.core.ledger import Entry, Ledger
from speechssl.core.processes import cores
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.audio.limits import AudioInfo
from speechssl.data.ingest.foreign.tars import Sample, find_tars, folder_of, read_tars
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store.index import IndexRow, Listing, ShardIndex, ShardRecord
from speechssl.data.store.lengths import FILE_NAME, pack_lengths
from speechssl.data.store.payload import decode_foreign
from speechssl.data.store.tar import utterance_json

__all__ = ["ForeignTars", "open_tars"]

_FEWEST, _MOST_BAD = 20, 0.5
"""Above this share of samples that cannot be used the tars are refused; below so many samples a share means nothing."""
log = logging.getLogger("speechssl")


@dataclass(frozen=True)
class ForeignTars:
    """A Source: tars of others, and the folder of their index."""

    name: str
    index: Path
    tars: tuple[Path, ...]

    def listing(self) -> bytes:
        """Return the listing of the index."""
        return (self.index / "summary.json").read_bytes()

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        """Return the tar of a shard's number, or a file of the index."""
        del size, crc32
        stem, _, suffix = name.rpartition(".")
        return self.tars[int(stem.rpartition("-")[2])] if suffix == "tar" else self.index / name

    def require(self, name: str, *, size: int, crc32: int) -> None:
        """Raise DataError when the file is not there."""
        path = self.local(name, size=size, crc32=crc32)
        if not path.is_file():
            raise DataError(f"{path}: this tar is missing; copy it again")


def open_tars(location: str | Path, cache: str = "") -> ForeignTars | None:
    """Return the tars of a location, indexed; None when it names none.

    Several processes may ask at once: one makes the index while the others wait.

    Raises
    ------
    DataError
        A tar is missing, none holds usable audio, or too many samples cannot be used; the ledger of the index has why.
    """
    tars = [tar.absolute() for tar in find_tars(location)]
    if not tars:
        return None
    index = _index_folder(tars, cache)
    source = ForeignTars(str(location), index, tuple(tars))
    with exclusive(index / "index.lock", wait=True):
        if _stored_state(index) != _state(tars):
            _make(source)
    return source


def _index_folder(tars: Sequence[Path], cache: str) -> Path:
    """Return a writable folder for the index of exactly these tars: beside them, or in the cache."""
    root = folder_of(tars)
    names = "\n".join(tar.relative_to(root).as_posix() for tar in tars)
    beside = root / f".speechssl-index-{hashlib.blake2b(names.encode(), digest_size=6).hexdigest()}"
    try:
        beside.mkdir(exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    except OSError as error:
        log.info("%s: the index goes to the cache (%s)", root, error)
    digest = hashlib.blake2b(f"{root}\n{names}".encode(), digest_size=8).hexdigest()
    folder = (Path(cache).expanduser() if cache else Path.home() / ".cache" / "speechssl") / f"index-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _state(tars: Sequence[Path]) -> list[list[Any]]:
    return [[tar.name, tar.stat().st_size, tar.stat().st_mtime_ns] for tar in tars]


def _stored_state(index: Path) -> list[list[Any]] | None:
    try:
        found: list[list[Any]] = json.loads((index / "summary.json").read_bytes())["settings"]["tars"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _make(source: ForeignTars) -> None:
    """Read every tar once and write the index; ``summary.json``, written last, is what makes it count."""
    log.warning("%s: looking through %d webdataset tars, once", source.name, len(source.tars))
    (source.index / "summary.json").unlink(missing_ok=True)
    ledger = Ledger(source.index / "ledger.jsonl", fresh=True)
    samples, entries = read_tars(source.tars)
    ledger.extend(entries)
    rows: list[IndexRow] = []
    lines: list[bytes] = []
    slow = 0
    for row, utterance, native in _rows(source, samples, ledger):
        rows.append(row)
        lines.append(utterance_json(utterance))
        slow += not native
    _stop_if_too_bad(source, len(rows), ledger)
    _write(source, rows, b"".join(lines), ledger)
    hours = sum(row.samples for row in rows) / SAMPLE_RATE / 3600
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.counts().items())
    log.warning(
        "%s: %s utterances, %.2f h in %d tars%s; the index is in %s%s", source.name, f"{len(rows):,}", hours,
        len(source.tars), f"; in the ledger: {reasons}" if reasons else "", source.index,
        f"; {slow:,} are no 16-bit mono FLAC or WAV at 16 kHz and are converted each time they are read: `speechssl "
        "manifest` and `speechssl shard` convert them once" if slow else "",
    )  # fmt: skip


def _stop_if_too_bad(source: ForeignTars, usable: int, ledger: Ledger) -> None:
    bad = sum(entry.action == "rejected" for entry in ledger.entries)
    if not usable or (usable + bad >= _FEWEST and bad > _MOST_BAD * (usable + bad)):
        reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.counts().items()) or "no members"
        raise DataError(
            f"{source.name}: {usable} of {usable + bad} samples are usable ({reasons}); {ledger.path} says why for each"
        )


def _rows(source: ForeignTars, samples: Sequence[Sample], ledger: Ledger) -> Iterator[tuple[IndexRow, Utterance, bool]]:
    """Decode every sample; yield its row, its line of the manifest, and whether shards would hold the same bytes."""
    numbers = {tar: number for number, tar in enumerate(source.tars)}
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(samples), 64):  # bounds the audio held in memory
            part = samples[first : first + 64]
            for sample, found in zip(part, pool.map(_measure, part), strict=True):
                if isinstance(found, AudioError):
                    item = f"{sample.audio.tar.name}/{sample.audio.name}"
                    ledger.add(Entry("manifest", item, found.reason, found.detail))
                    continue
                info, count, checksum, native = found
                said, audio = sample.said, sample.audio
                utterance = Utterance(
                    id=sample.id, path=f"{audio.tar.name}/{audio.name}", duration=count / SAMPLE_RATE,
                    sample_rate=info.sample_rate, channels=info.channels, text=said.text, speaker=said.speaker,
                    language=said.language, split=said.split, meta=said.meta,
                )  # fmt: skip
                number = numbers[audio.tar]
                yield (
                    IndexRow(sample.id, number, audio.offset, audio.size, count, checksum, said.split),
                    utterance,
                    native,
                )


def _measure(sample: Sample) -> tuple[AudioInfo, int, int, bool] | AudioError:
    """Return (header, samples at 16 kHz, checksum of the bytes, whether the fast decoder reads them)."""
    try:
        payload = sample.audio.read()
        if len(payload) < sample.audio.size:
            raise AudioError(sample.id, "truncated_shard", "the tar ends inside this member")
        info, wave, native = decode_foreign(payload, item=sample.id)
        return info, len(wave), zlib.crc32(payload), native
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(sample.id, "unreadable", str(error))


def _write(source: ForeignTars, rows: list[IndexRow], lines: bytes, ledger: Ledger) -> None:
    records = []
    for number, (name, size, _) in enumerate(_state(source.tars)):
        mine = [row for row in rows if row.shard == number]
        data = ShardIndex(mine, [], size, 0, name).to_bytes()
        write_atomic(source.index / f"tar-{number:06d}.idx", data)
        records.append(ShardRecord(f"tar-{number:06d}", len(mine), size, 0, len(data), zlib.crc32(data)))
    lengths, splits = pack_lengths(rows)
    settings = {"encoding": "foreign", "sample_rate": SAMPLE_RATE, "tars": _state(source.tars)}
    listing = Listing(
        shards=tuple(records),
        utterances=len(rows),
        hours=sum(row.samples for row in rows) / SAMPLE_RATE / 3600,
        rejected=ledger.counts(),
        manifest_bytes=len(lines),
        manifest_crc32=zlib.crc32(lines),
        settings=settings,
        splits=splits,
        lengths_crc32=zlib.crc32(lengths),
    )
    write_atomic(source.index / FILE_NAME, lengths)
    write_atomic(source.index / "manifest.jsonl", lines)
    write_atomic(source.index / "summary.json", listing.to_bytes())
