"""Units of a corpus: draw a sample, fit k-means, label every utterance.

In: a corpus and a way to turn utterances into features (unit_features.py). Out: ``kmeans.npz``, ``units.npz`` and
``units.json`` (their quality) in one folder. Memory is bounded; finished files and finished parts are not made again.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from speechssl.core.files import read_json, write_json
from speechssl.data.audio import SAMPLE_RATE
from speechssl.data.keys import generator, key
from speechssl.data.ledger import Entry
from speechssl.data.tolerance import Tolerance
from speechssl.errors import AudioError, DataError
from speechssl.evaluation.kmeans import KMeans, fit_kmeans
from speechssl.evaluation.mfcc import mfcc
from speechssl.evaluation.unit_audio import Audio, Read, group_rows, read_ahead
from speechssl.evaluation.unit_features import LayerFeatures, MfccFeatures, NormalisedFeatures, UnitFeatures
from speechssl.evaluation.unit_table import UnitTable

__all__ = [
    "Audio", "KMeans", "LayerFeatures", "MfccFeatures", "NormalisedFeatures", "Source", "UnitFeatures", "UnitTable",
    "fit_kmeans", "label_corpus", "make_units", "mfcc", "sample_features", "units_identity",
]  # fmt: skip

Result = TypeVar("Result")
SAMPLE_BYTES = 2 << 30
"""Largest sample of features for k-means; a keyed part of the frames of each utterance is kept to stay below it."""
PART_SECONDS = 36_000.0
"""Audio in one part of the labels: the most that an interrupted run labels again."""


@dataclass(frozen=True)
class Source:
    """Utterances, and how they become features."""

    corpus: Audio
    features: UnitFeatures
    rows: Sequence[int]
    """Utterances to use, as rows of the corpus; those too short for one frame are passed over."""
    unfitted: frozenset[int] = frozenset()
    """Rows among them that get units, but that the k-means is not fitted on: held out."""
    batch_seconds: float = 100.0
    """Audio that becomes features at a time, padding included."""
    threads: int = 1
    """Reading threads."""
    check: Callable[[], None] = lambda: None
    """Called between groups of utterances and steps of k-means; stops the work by raising."""

    def usable(self) -> list[int]:
        """Return the rows that are long enough for a frame."""
        samples = self.corpus.samples
        return [row for row in self.rows if samples[row] >= self.features.min_samples]


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
) -> UnitTable:
    """Return the units of a corpus, made where ``folder`` does not hold them already.

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

    Raises
    ------
    DataError
        Too few frames for the clusters, too many unreadable utterances, or a damaged file in ``folder``.

    Whatever ``source.check`` raises goes through; called again, this goes on from the last finished part.
    """
    table_path, kmeans_path = folder / "units.npz", folder / "kmeans.npz"
    if table_path.exists():
        return UnitTable.load(table_path)
    if kmeans_path.exists():
        kmeans = KMeans.load(kmeans_path)
    else:
        sample = sample_features(source, hours=hours, seed=seed)
        kmeans = fit_kmeans(sample, clusters, seed=key("kmeans", seed) % (1 << 32), starts=starts, check=source.check)
        del sample
        kmeans.save(kmeans_path)
    table = label_corpus(source, kmeans, folder, max_bad_fraction=max_bad_fraction, record=record)
    quality = {"features": source.features.name, "hop": source.features.hop, "identity": _meaning(source, kmeans)}
    quality |= table.quality()
    write_json(folder / "units.json", quality)
    table.save(table_path)
    return table


def sample_features(source: Source, *, hours: float, seed: int, max_bytes: int = SAMPLE_BYTES) -> np.ndarray:
    """Return [N, dim] float32 frames of about ``hours`` of utterances, drawn by key, in about ``max_bytes`` at most.

    Unreadable utterances are left out here; labelling, which follows, lists them.
    """
    corpus, features = source.corpus, source.features
    fitted = [row for row in source.usable() if row not in source.unfitted]
    order = sorted(fitted, key=lambda row: key("kmeans", seed, corpus.ids[row]))
    ends = np.cumsum(corpus.samples[order])
    drawn = order[: int(np.searchsorted(ends, hours * 3600 * SAMPLE_RATE)) + 1]
    frames = sum(int(corpus.samples[row]) // features.hop for row in drawn)
    share = min(1.0, max_bytes / max(1, frames * features.dim * 4))

    def keep(read: Read) -> list[np.ndarray]:
        arrays = []
        for item, values in _features(source, read):
            array = values.cpu().numpy()
            chosen = generator("kmeans-frames", seed, item).random(len(array)) < share
            arrays.append(array if share >= 1 else array[chosen])
        return arrays

    groups = group_rows(corpus, drawn, source.batch_seconds)
    kept = [array for arrays in _each(source, groups, keep) for array in arrays]
    return np.concatenate(kept) if kept else np.zeros((0, features.dim), dtype=np.float32)


def label_corpus(
    source: Source,
    kmeans: KMeans,
    folder: Path,
    *,
    max_bad_fraction: float = 0.01,
    record: Callable[[Iterable[Entry]], None] | None = None,
    part_seconds: float = PART_SECONDS,
) -> UnitTable:
    """Label utterances with their nearest centroids, shortest first, in parts that survive an interruption.

    Parts lie in ``folder`` under a name that depends on audio, centroids and utterances, and go when all are done.

    Raises
    ------
    DataError
        Too many utterances cannot be read, or none is long enough.
    """
    centroids = kmeans.to(source.features.device)
    parts = folder / f"parts-{_digest(source, kmeans)}"
    tolerance = Tolerance(max_bad_fraction, what="units")

    def label(read: Read) -> tuple[dict[str, np.ndarray], list[AudioError]]:
        found = {item: centroids.assign(values).cpu().numpy() for item, values in _features(source, read)}
        return found, [wave for _, wave in read if isinstance(wave, AudioError)]

    labels: dict[str, np.ndarray] = {}
    for number, groups in enumerate(_parts(source, part_seconds)):
        path = parts / f"part-{number:05d}.npz"
        if not path.exists():
            own: dict[str, np.ndarray] = {}
            for found, errors in _each(source, groups, label):
                own |= found
                tolerance.good(len(found))
                for error in errors:
                    if record is not None:
                        record([Entry("pretrain", error.item, error.reason, error.detail, action="dropped")])
                    tolerance.bad(error.reason)
            UnitTable(own, n_units=len(kmeans), hop=source.features.hop).save(path)
        labels |= UnitTable.load(path).labels()
    tolerance.finish()
    if not labels:
        raise DataError("units: no utterance is long enough for one frame; lower data.min_seconds or add audio")
    shutil.rmtree(parts)
    return UnitTable(labels, n_units=len(kmeans), hop=source.features.hop)


def _features(source: Source, read: Read) -> list[tuple[str, Tensor]]:
    """Return the features of those utterances of a group that could be read."""
    good = [(item, wave) for item, wave in read if not isinstance(wave, AudioError)]
    found = source.features([wave for _, wave in good]) if good else []
    return [(item, values) for (item, _), values in zip(good, found, strict=True)]


def _each(source: Source, groups: list[list[int]], work: Callable[[Read], Result]) -> Iterator[Result]:
    """Yield the result of ``work`` for each group: in the reading threads where the features profit from it."""
    source.check()
    if source.features.threaded:
        for result in read_ahead(source.corpus, groups, source.threads, work):
            yield result
            source.check()
    else:
        for read in read_ahead(source.corpus, groups, source.threads, _as_read):
            yield work(read)
            source.check()


def _as_read(read: Read) -> Read:
    return read


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
