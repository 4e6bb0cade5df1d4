"""The k-means of a corpus: a keyed sample that fits in memory starts it, and all requested audio is used.

In: a source of features, hours of audio. Out: centroids, and a line that says how much they were fitted on.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from speechssl.core.randomness import generator, key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.targets.audio import Read, group_rows
from speechssl.targets.kmeans import KMeans, fit_kmeans, refine_kmeans
from speechssl.targets.source import Source, each_group, features_of

__all__ = ["fit_corpus", "sample_features"]

SAMPLE_BYTES = 2 << 30
"""Largest sample of features that k-means starts from: a keyed part of the frames of each utterance is kept."""


def fit_corpus(source: Source, *, clusters: int, hours: float, starts: int, seed: int) -> KMeans:
    """Fit the k-means on ``hours`` of audio, and say on how much it was.

    What does not fit in ``SAMPLE_BYTES`` is seen all the same: the fit starts from a sample, and every frame is then
    seen once, in mini-batches.
    """
    sample = sample_features(source, hours=hours, seed=seed)
    number = key("kmeans", seed) % (1 << 32)
    kmeans = fit_kmeans(sample, clusters, seed=number, starts=starts, check=source.check)
    drawn = _drawn(source, hours, seed)
    there = float(source.corpus.samples[drawn].sum()) / SAMPLE_RATE / 3600
    kmeans = replace(kmeans, hours=there, frames=len(sample), sample=len(sample))
    said = f"k-means: {hours:g} h asked for, {there:.3g} h there; "
    del sample
    if _part_kept(source, drawn) < 1:
        kmeans = refine_kmeans(kmeans, _streamed(source, drawn, seed))
        part = f"{kmeans.sample:,} ({kmeans.sample / max(1, kmeans.frames):.1%}) start it: no more fit in"
        said += f"{kmeans.frames:,} frames, each seen once; {part} {SAMPLE_BYTES / 2**30:.3g} GiB"
    else:
        said += f"{kmeans.frames:,} frames, all in memory"
    print(said, file=sys.stderr, flush=True)
    return kmeans


def _drawn(source: Source, hours: float, seed: int) -> list[int]:
    """Return the rows of about ``hours`` of utterances, drawn by key."""
    corpus = source.corpus
    fitted = [row for row in source.usable() if row not in source.unfitted]
    order = sorted(fitted, key=lambda row: key("kmeans", seed, corpus.ids[row]))
    ends = np.cumsum(corpus.samples[order])
    return order[: int(np.searchsorted(ends, hours * 3600 * SAMPLE_RATE)) + 1]


def _part_kept(source: Source, drawn: list[int]) -> float:
    """Return the share of the frames that ``SAMPLE_BYTES`` hold."""
    frames = sum(int(source.corpus.samples[row]) // source.features.hop for row in drawn)
    return min(1.0, SAMPLE_BYTES / max(1, frames * source.features.dim * 4))


def _streamed(source: Source, drawn: list[int], seed: int) -> Iterator[np.ndarray]:
    """Yield the frames of utterances, short and long ones mixed."""
    groups = group_rows(source.corpus, drawn, source.batch_seconds)
    groups.sort(key=lambda group: key("kmeans-stream", seed, source.corpus.ids[group[0]]))

    def arrays(read: Read) -> list[np.ndarray]:
        return [values.cpu().numpy() for _, values in features_of(source, read)]

    for found in each_group(source, groups, arrays):
        yield from found


def sample_features(source: Source, *, hours: float, seed: int) -> np.ndarray:
    """Return [N, dim] float32 frames of about ``hours`` of utterances, drawn by key, in about ``SAMPLE_BYTES`` at most.

    Unreadable utterances are left out here; labelling, which follows, lists them.
    """
    corpus, features = source.corpus, source.features
    drawn = _drawn(source, hours, seed)
    share = _part_kept(source, drawn)

    def keep(read: Read) -> list[np.ndarray]:
        arrays = []
        for item, values in features_of(source, read):
            array = values.cpu().numpy()
            chosen = generator("kmeans-frames", seed, item).random(len(array)) < share
            arrays.append(array if share >= 1 else array[chosen])
        return arrays

    groups = group_rows(corpus, drawn, source.batch_seconds)
    kept = [array for arrays in each_group(source, groups, keep) for array in arrays]
    return np.concatenate(kept) if kept else np.zeros((0, features.dim), dtype=np.float32)
