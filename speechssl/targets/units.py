"""Units of a corpus: draw a sample, fit k-means, label every utterance.

In: a corpus and a way to turn utterances into features (features.py). Out: ``kmeans.npz``, ``units.npz`` and
``units.json`` (their quality) in one folder. Memory is bounded; finished files and finished parts are not made again.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from speechssl.core.errors import AudioError, DataError
from speechssl.core.files import find_json, read_json, write_json
from speechssl.core.ledger import Entry
from speechssl.core.tolerance import Tolerance
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.targets.audio import Read, group_rows
from speechssl.targets.fit import fit_corpus
from speechssl.targets.kmeans import KMeans
from speechssl.targets.source import ALONE, Share, Source, corpus_change, corpus_identity, each_group, features_of
from speechssl.targets.table import UnitTable, join_tables

__all__ = ["label_corpus", "make_units", "units_identity"]

PART_SECONDS = 36_000.0
"""Audio in one part of the labels: the most that an interrupted run labels again."""
SMALLEST_PART_SECONDS = 600.0
PARTS = 64
"""Parts that a corpus is divided into, where that keeps them between the two."""


def make_units(
    source: Source,
    folder: Path,
    *,
    clusters: int,
    hours: float,
    starts: int,
    seed: int,
    max_bad_fraction: float = 0.01,
    record: Callable[[Iterable[Entry]], None] | None = None,
    share: Share = ALONE,
) -> UnitTable:
    """Return the units of a corpus, made where ``folder`` does not hold them already.

    Several processes may call it together: the first fits the k-means, and each labels its share of the parts.

    Parameters
    ----------
    folder
        Gets ``kmeans.npz``, ``units.npz``, ``units.json``.
    clusters, starts
        Number of units, and of random starts of the k-means.
    hours
        Audio whose frames the k-means is fitted on.
    seed
        Key of the sample and of the k-means.
    record
        Gets an entry for each utterance that cannot be read; such an utterance has no units.
    share
        This process among those that make the units.

    Raises
    ------
    DataError
        Too few frames for the clusters, too many unreadable utterances, a damaged file in ``folder``, or a table of
        another corpus there.

    Whatever ``source.check`` raises goes through; called again, this goes on from the last finished part.
    """
    table_path, kmeans_path = folder / "units.npz", folder / "kmeans.npz"
    if table_path.exists():
        table = UnitTable.load(table_path, check=share.first)
        if share.first and (found := corpus_change(table, source)):
            raise DataError(f"{table_path}: made from another corpus: {found}. Delete it to label this one")
        if share.first and find_json(folder / "units.json") is None:  # the process was killed in between
            _describe(source, KMeans.load(kmeans_path), table, folder)
        return table
    if not share.first:
        share.wait(kmeans_path)
    if kmeans_path.exists():
        kmeans = KMeans.load(kmeans_path)
    else:
        kmeans = fit_corpus(source, clusters=clusters, hours=hours, starts=starts, seed=seed)
        kmeans.save(kmeans_path)
    table = label_corpus(source, kmeans, folder, max_bad_fraction=max_bad_fraction, record=record, share=share)
    if share.first:
        _describe(source, kmeans, table, folder)
    return table


def _describe(source: Source, kmeans: KMeans, table: UnitTable, folder: Path) -> None:
    """Write ``units.json``."""
    features = source.features
    made = {"features": features.name, "hop": features.hop, "identity": _meaning(source, kmeans)}
    fitted = {"kmeans_hours": round(kmeans.hours, 4), "kmeans_frames": kmeans.frames, "kmeans_sample": kmeans.sample}
    write_json(folder / "units.json", made | table.quality() | fitted)


def label_corpus(
    source: Source,
    kmeans: KMeans,
    folder: Path,
    *,
    max_bad_fraction: float = 0.01,
    record: Callable[[Iterable[Entry]], None] | None = None,
    part_seconds: float | None = None,
    share: Share = ALONE,
) -> UnitTable:
    """Label utterances with their nearest centroids, shortest first, in parts that survive an interruption.

    Parts lie in ``folder`` under a name that depends on audio, centroids and utterances. Process r of n labels the
    parts r, r + n, r + 2 n ... What a part holds does not depend on n. The first process joins them to ``units.npz``.

    Raises DataError when too many utterances cannot be read, or none is long enough.
    """
    centroids = kmeans.to(source.features.device)
    table_path, parts = folder / "units.npz", folder / f"parts-{_digest(source, kmeans)}"
    tolerance = Tolerance(max_bad_fraction, what="units")

    def label(read: Read) -> tuple[dict[str, np.ndarray], list[AudioError]]:
        found = {item: centroids.assign(values).cpu().numpy() for item, values in features_of(source, read)}
        return found, [wave for _, wave in read if isinstance(wave, AudioError)]

    paths = []
    for number, groups in enumerate(_parts(source, part_seconds or _part_seconds(source))):
        paths.append(path := parts / f"part-{number:05d}.npz")
        if number % share.world != share.rank or path.exists() or (table_path.exists() and not share.first):
            continue
        own: dict[str, np.ndarray] = {}
        bad: list[Entry] = []
        for found, errors in each_group(source, groups, label):
            own |= found
            tolerance.good(len(found))
            for error in errors:
                bad.append(Entry("pretrain", error.item, error.reason, error.detail, action="dropped"))
                if record is not None:
                    record(bad[-1:])
                tolerance.bad(error.reason)
        if bad:
            write_json(path.with_suffix(".json"), [asdict(entry) for entry in bad])
        UnitTable(own, n_units=len(kmeans), hop=source.features.hop).save(path)
    if share.first:
        tolerance.finish()
        _join(source, paths, table_path, share, record)
        shutil.rmtree(parts, ignore_errors=True)
    else:
        share.wait(table_path)
    return UnitTable.load(table_path, check=share.first)


def _join(
    source: Source,
    paths: list[Path],
    table_path: Path,
    share: Share,
    record: Callable[[Iterable[Entry]], None] | None,
) -> None:
    """Wait for every part, record what the others could not read, and write the table."""
    for path in paths:
        share.wait(path)
        listed = path.with_suffix(".json")
        if record is not None and share.world > 1 and listed.exists():
            rows = read_json(listed, "delete the folder it is in and run again")
            record(Entry(**row) for row in rows)
    keys, contents = corpus_identity(source)
    if not join_tables(paths, table_path, keys_used=keys, contents=contents):
        raise DataError("units: no utterance is long enough for one frame; lower data.min_seconds or add audio")


def _part_seconds(source: Source) -> float:
    """Return the audio of one part: some parts for each of many processes, whatever their number."""
    total = float(source.corpus.samples[source.usable()].sum()) / SAMPLE_RATE
    return min(PART_SECONDS, max(SMALLEST_PART_SECONDS, total / PARTS))


def _parts(source: Source, seconds: float) -> Iterator[list[list[int]]]:
    """Split the groups of all usable utterances into parts of about ``seconds`` of audio."""
    part: list[list[int]] = []
    samples = 0
    for group in group_rows(source.corpus, source.usable(), source.batch_seconds):
        part.append(group)
        samples += int(source.corpus.samples[group].sum())
        if samples >= seconds * SAMPLE_RATE:
            yield part
            part, samples = [], 0
    if part:
        yield part


def _digest(source: Source, kmeans: KMeans) -> str:
    """Name what the labels depend on."""
    rows = np.asarray(source.usable(), dtype=np.int64)
    digest = hashlib.blake2b("\n".join(source.corpus.ids[row] for row in rows.tolist()).encode(), digest_size=8)
    digest.update(source.corpus.contents[rows].tobytes())
    digest.update(kmeans.centroids.cpu().numpy().tobytes())
    digest.update(f"{source.features.name} {source.batch_seconds}".encode())
    return digest.hexdigest()


def _meaning(source: Source, kmeans: KMeans) -> str:
    """Name what a unit stands for: two tables with equal names, of whatever corpora, use the same units."""
    digest = hashlib.sha256(source.features.name.encode())
    digest.update(kmeans.centroids.cpu().numpy().tobytes())
    return digest.hexdigest()


def units_identity(folder: Path) -> str:
    """Return what the units kept in a folder stand for (centroids, or the file they came from); empty when unknown."""
    path = folder / "units.json"
    if not path.exists():
        return ""
    known = read_json(path, f"delete {folder} to make the units again")
    return str(known.get("identity", "")) if isinstance(known, dict) else ""
