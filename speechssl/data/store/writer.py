"""Manifest in, webdataset shards out: 16 kHz mono FLAC in plain tars, with an index beside each.

The same manifest and settings give the same bytes, whatever the number of workers and however often the work was killed
and taken up again. A shard counts when its index is there; the folder counts when ``manifest.jsonl`` is there.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.config import ShardConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.core.files import atomic_file, exclusive, write_atomic
from speechssl.core.ledger import Entry, Ledger
from speechssl.core.processes import cores, end_with_main
from speechssl.core.randomness import key
from speechssl.core.tolerance import Tolerance
from speechssl.data.audio.decode import SAMPLE_RATE, decode, fit_scale
from speechssl.data.ingest.manifest import Utterance, read_manifest
from speechssl.data.store.destination import Destination
from speechssl.data.store.index import VALID_SHARD, IndexRow, Listing, ShardIndex, ShardRecord, parse_index
from speechssl.data.store.lengths import FILE_NAME, pack_lengths
from speechssl.data.store.payload import EXTENSIONS, Encoding, encode_payload
from speechssl.data.store.remote import UnreachableError
from speechssl.data.store.tar import end_of_archive, header, padding, sidecars, utterance_json

__all__ = ["ShardSummary", "shard_manifest"]


@dataclass(frozen=True)
class ShardSummary:
    """What ``shard_manifest`` made."""

    shards: int
    utterances: int
    hours: float
    rejected: dict[str, int]

    def __str__(self) -> str:
        """Return one line for people."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items())
        made = f"{self.utterances:,} utterances, {self.hours:.2f} h in {self.shards} shards"
        return made + (f"; in the ledger: {reasons}" if reasons else "")


@dataclass(frozen=True)
class _Job:
    """Everything that one shard is made from."""

    output: Destination
    name: str
    shard: int
    utterances: tuple[Utterance, ...]
    root: Path
    channels: Literal["mean", "first"]
    encoding: Encoding
    threads: int
    source: str


def shard_manifest(
    manifest: Path,
    output: Path,
    cfg: ShardConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    store: str = "",
    part: tuple[int, int] | None = None,
) -> ShardSummary:
    """Write the shards of a manifest into ``output``, taking up where an earlier call stopped.

    Utterances are spread over shards in the order of ``key(seed, id)``. What cannot be decoded goes to
    ``output/ledger.jsonl``.

    Parameters
    ----------
    manifest
        ``manifest.jsonl``; relative paths in it start at its folder.
    output
        Receives ``NAME-000000.tar`` and ``.idx``, ``ledger.jsonl``, ``summary.json`` and, last, ``manifest.jsonl``: the
        utterances that are in the shards, in shard order.
    progress
        Called with (utterances done, utterances in all).
    store
        Address of an object store that receives the files; each shard is in ``output`` only until it has arrived.
    part
        (i, n), i from 1 to n: make only every n-th shard, from the i-th on, and no listing. Parts may run at the same
        time, on any machines. When all are done, a call without ``part`` finds their shards and writes the listing:
        the folder is that of a single call.

    Raises
    ------
    DataError
        The manifest is unusable, too many utterances cannot be decoded, the folder has another writer or other
        shards, or the disk is full.
    """
    utterances = read_manifest(manifest)  # ids are checked there: valid, and each only once
    if not utterances:
        raise DataError(f"{manifest}: no utterances in it; the ledger of the manifest stage has the reasons")
    output.mkdir(parents=True, exist_ok=True)
    divided, target = _assign(utterances, cfg), Destination(output, store)
    numbers = range(len(divided)) if part is None else range(part[0] - 1, len(divided), part[1])
    workers = cfg.workers or cores()
    processes, threads = min(workers, len(numbers)), max(1, workers // max(1, len(numbers)))
    with ExitStack() as locks:
        _lock(output, part, locks)
        stored = target.files()
        _clear(target, stored, cfg.name, len(divided), alone=part is None)
        jobs = [
            _Job(
                target,
                f"{cfg.name}-{i:06d}",
                i,
                divided[i],
                manifest.parent,
                cfg.channels,
                cfg.encoding,
                threads,
                _source(divided[i], cfg),
            )
            for i in numbers
        ]
        return _make(jobs, target, cfg, processes, progress, stored=stored, listed=part is None)


def _lock(output: Path, part: tuple[int, int] | None, locks: ExitStack) -> None:
    """Hold the folder, or one part of it; DataError when another process does, or has a part while all is wanted."""
    if part is None:
        for name in ("shards.lock", *sorted(path.name for path in output.glob("part-*.lock"))):
            locks.enter_context(exclusive(output / name))
        return
    with exclusive(output / "shards.lock", wait=True):
        locks.enter_context(exclusive(output / f"part-{part[0]}-of-{part[1]}.lock"))


def _assign(utterances: list[Utterance], cfg: ShardConfig) -> list[tuple[Utterance, ...]]:
    """Return the utterances of each shard: keyed order, cut into parts of nearly equal duration."""
    ordered = sorted(utterances, key=lambda item: (key("shard", cfg.seed, item.id), item.id))
    ends = np.cumsum([round(item.duration * SAMPLE_RATE) for item in ordered])
    n_shards = min(len(ordered), max(1, round(int(ends[-1]) / (cfg.shard_seconds * SAMPLE_RATE))))
    cuts = np.searchsorted(ends, [int(ends[-1]) * i // n_shards for i in range(1, n_shards)])
    bounds = [0, *(int(cut) for cut in cuts), len(ordered)]
    return [tuple(ordered[i:j]) for i, j in pairwise(bounds) if j > i]


def _source(part: tuple[Utterance, ...], cfg: ShardConfig) -> str:
    digest = hashlib.blake2b(json.dumps([cfg.encoding, cfg.channels, SAMPLE_RATE]).encode(), digest_size=16)
    for utterance in part:
        digest.update(utterance_json(utterance))
    return digest.hexdigest()


def _clear(output: Destination, stored: Mapping[str, int], name: str, n_shards: int, *, alone: bool) -> None:
    """Refuse other shards; ``alone``: remove leftovers of killed writers and of an earlier, longer set of shards."""
    for found in sorted(stored):
        stem, _, suffix = found.partition(".")
        if suffix not in {"tar", "idx"}:
            continue
        if not VALID_SHARD.fullmatch(stem) or stem.rsplit("-", 1)[0] != name:
            raise DataError(
                f"{output.name}/{found}: not a shard named {name!r}; give every set of shards a folder of its own"
            )
        if alone and int(stem.rsplit("-", 1)[1]) >= n_shards:
            output.remove(found)
    for path in output.folder.glob("*.tmp") if alone else ():
        path.unlink()


def _make(
    jobs: list[_Job],
    output: Destination,
    cfg: ShardConfig,
    processes: int,
    progress: Callable[[int, int], None] | None,
    *,
    stored: Mapping[str, int],
    listed: bool,
) -> ShardSummary:
    ledger = Ledger(output.folder / "ledger.jsonl", fresh=True) if listed else Ledger()
    tolerance = Tolerance(cfg.max_bad_fraction, what=f"shards in {output.name}")
    total, done = sum(len(job.utterances) for job in jobs), 0
    rows: list[IndexRow] = []
    records: list[ShardRecord] = []
    for job, index in zip(jobs, _indices(jobs, cfg, processes, stored), strict=True):
        ledger.extend(index.rejected)
        refused = {entry.item: entry.reason for entry in index.rejected if entry.action == "rejected"}
        for utterance in job.utterances:
            if reason := refused.get(utterance.id):
                tolerance.bad(reason)
            else:
                tolerance.good()
        data = index.to_bytes()
        records.append(
            ShardRecord(job.name, len(index.rows), index.tar_bytes, index.tar_crc32, len(data), zlib.crc32(data))
        )
        rows += index.rows
        done += len(job.utterances)
        if progress is not None:
            progress(done, total)
    tolerance.finish()
    if listed:
        _publish(jobs, rows, records, ledger, cfg)
    return ShardSummary(len(records), len(rows), _hours(rows), ledger.counts())


def _hours(rows: list[IndexRow]) -> float:
    return sum(row.samples for row in rows) / SAMPLE_RATE / 3600


def _publish(
    jobs: list[_Job], rows: list[IndexRow], records: list[ShardRecord], ledger: Ledger, cfg: ShardConfig
) -> None:
    known = {utterance.id: utterance for job in jobs for utterance in job.utterances}
    lines = b"".join(utterance_json(known[row.id]) for row in rows)
    settings = {"name": cfg.name, "encoding": cfg.encoding, "channels": cfg.channels, "sample_rate": SAMPLE_RATE}
    lengths, splits = pack_lengths(rows)
    listing = Listing(
        shards=tuple(records),
        utterances=len(rows),
        hours=_hours(rows),
        rejected=ledger.counts(),
        manifest_bytes=len(lines),
        manifest_crc32=zlib.crc32(lines),
        settings=settings | {"seed": cfg.seed},
        splits=splits,
        lengths_crc32=zlib.crc32(lengths),
    )
    output = jobs[0].output
    manifest = output.folder / "manifest.jsonl"
    manifest.unlink(missing_ok=True)
    write_atomic(output.folder / FILE_NAME, lengths)
    write_atomic(output.folder / "summary.json", listing.to_bytes())
    write_atomic(manifest, lines)
    output.send("ledger.jsonl", FILE_NAME, "manifest.jsonl", "summary.json")  # the last is what a reader asks for first


def _indices(jobs: list[_Job], cfg: ShardConfig, processes: int, stored: Mapping[str, int]) -> Iterator[ShardIndex]:
    """Yield the index of every shard in order, making those that are not there yet."""
    kept = {job.shard: index for job in jobs if (index := _kept(job, cfg, stored)) is not None}
    missing = [job for job in jobs if job.shard not in kept]
    if missing:
        jobs[0].output.remove("manifest.jsonl")
        if "summary.json" in stored and jobs[0].output.store:
            jobs[0].output.remove("summary.json")
    if processes <= 1 or len(missing) <= 1:
        for job in jobs:
            yield kept[job.shard] if job.shard in kept else _make_shard(job)
        return
    # spawn: the caller may have run threads (torch, BLAS), after which a forked child can hang.
    processes = min(processes, len(missing))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_main) as pool:
        futures = {job.shard: pool.submit(_make_shard, job) for job in missing}
        try:
            for job in jobs:
                yield kept[job.shard] if job.shard in kept else futures[job.shard].result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{jobs[0].output.name}: a worker process died while writing shards (out of memory?); run the same "
                "command again to go on, with fewer workers or a smaller shard_seconds"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _kept(job: _Job, cfg: ShardConfig, stored: Mapping[str, int]) -> ShardIndex | None:
    """Return the index of a shard that an earlier call finished, unless it is stale or lost too much to be trusted."""
    name = f"{job.name}.idx"
    if name not in stored:
        return None
    try:
        index = parse_index(job.output.read(name), where=f"{job.output.name}/{name}", shard=job.shard)
    except UnreachableError:
        raise
    except (OSError, DataError):
        return None
    whole = index.source == job.source and index.tar_bytes == stored.get(f"{job.name}.tar")
    refused = sum(entry.action == "rejected" for entry in index.rejected)
    lossy = refused > max(1.0, cfg.max_bad_fraction * len(job.utterances))
    return index if whole and not lossy else None


def _make_shard(job: _Job) -> ShardIndex:
    """Write one tar, then its index; the index is what makes the shard count."""
    path = job.output.folder / f"{job.name}.tar"
    path.with_suffix(".idx").unlink(missing_ok=True)
    rows: list[IndexRow] = []
    rejected: list[Entry] = []
    offset = checksum = 0
    try:
        with atomic_file(path) as tar:
            for utterance, result in zip(job.utterances, _encoded(job), strict=True):
                if isinstance(result, AudioError):
                    rejected.append(Entry("shard", utterance.id, result.reason, result.detail))
                    continue
                payload, samples, gain = result
                if gain:
                    detail = f"{gain:+.1f} dB, so that its samples fit into 16 bits"
                    rejected.append(Entry("shard", utterance.id, "rescaled", detail, "repaired"))
                head = header(f"{utterance.id}.{EXTENSIONS[job.encoding]}", len(payload))
                data = head + payload + padding(len(payload)) + sidecars(utterance)
                start = offset + len(head)
                crc32 = zlib.crc32(payload)
                rows.append(IndexRow(utterance.id, job.shard, start, len(payload), samples, crc32, utterance.split))
                tar.write(data)
                checksum = zlib.crc32(data, checksum)
                offset += len(data)
            data = end_of_archive(offset)
            tar.write(data)
        index = ShardIndex(rows, rejected, offset + len(data), zlib.crc32(data, checksum), job.source)
        write_atomic(path.with_suffix(".idx"), index.to_bytes())
        job.output.send(path.name, f"{job.name}.idx", move=True)
    except OSError as error:
        raise DataError(
            f"{path}: cannot write the shard ({error.strerror or error}); make room or choose another output folder, "
            "then run the same command again to go on"
        ) from error
    return index


def _encoded(job: _Job) -> Iterator[tuple[bytes, int, float] | AudioError]:
    """Yield the payload, length and gain (dB) of each utterance, or why there are none, in order."""
    if job.threads == 1:
        for utterance in job.utterances:
            yield _encode(job, utterance)
        return
    with ThreadPoolExecutor(job.threads) as pool:
        size = 8 * job.threads  # bounds the audio held in memory
        for i in range(0, len(job.utterances), size):
            yield from pool.map(lambda utterance: _encode(job, utterance), job.utterances[i : i + size])


def _encode(job: _Job, utterance: Utterance) -> tuple[bytes, int, float] | AudioError:
    try:
        path, start, duration = job.root / utterance.path, utterance.start, utterance.duration
        wave = decode(path, item=utterance.id, start=start, duration=duration, channels=job.channels)
        expected = utterance.duration * SAMPLE_RATE
        if abs(len(wave) - expected) > max(0.02 * expected, 0.1 * SAMPLE_RATE):
            raise AudioError(
                utterance.id,
                "length_mismatch",
                f"{path}: {len(wave) / SAMPLE_RATE:.2f} s decoded, {utterance.duration:.2f} s in the manifest",
            )
        if not len(wave):
            raise AudioError(utterance.id, "no_samples", utterance.path)
        wave, gain = fit_scale(wave)
        payload = encode_payload(wave, job.encoding)
    except AudioError as error:
        return AudioError(utterance.id, error.reason, error.detail)
    return payload, len(wave), gain
