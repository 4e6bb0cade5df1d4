"""Utterances on their way to units: which of them, how they become features, and who works on them.

In: a corpus and a kind of features. Out: features of a group at a time; the identity of what is labelled, and how it
differs from what a table was made from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from speechssl.core.errors import AudioError
from speechssl.data.store.identity import KEPT_IDS, Difference, Identity, difference, text_keys
from speechssl.data.store.reader import Corpus
from speechssl.targets.audio import Read, read_ahead
from speechssl.targets.features import UnitFeatures
from speechssl.targets.table import UnitTable

__all__ = ["ALONE", "Share", "Source", "corpus_change", "corpus_identity", "each_group", "features_of"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Source:
    """Utterances, and how they become features."""

    corpus: Corpus
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


@dataclass(frozen=True)
class Share:
    """One process among those that make the units of a corpus."""

    rank: int = 0
    world: int = 1
    wait: Callable[[Path], object] = Path
    """Returns once a file that another process makes is there."""

    @property
    def first(self) -> bool:
        """Whether it fits the k-means and writes the table."""
        return self.rank == 0


ALONE = Share()


def corpus_identity(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return digests of the ids of the usable utterances, increasing, and what their audio is."""
    rows = np.asarray(source.usable(), dtype=np.int64)
    keys = text_keys(source.corpus.ids[row] for row in rows.tolist())
    places = np.argsort(keys, kind="stable")
    return keys[places], source.corpus.contents[rows][places]


def corpus_change(table: UnitTable, source: Source) -> Difference | None:
    """Return how the corpus differs from the one that a table was made from; None where it does not, or is unknown."""
    if not table.corpus:
        return None
    keys, contents = corpus_identity(source)
    old = Identity(table.corpus["keys_used"], table.corpus["contents"], "", "", table.ids[:KEPT_IDS])
    usable = source.usable()
    new = Identity(keys, contents, "", "", ())
    return difference(old, new, lambda: [source.corpus.ids[row] for row in usable]) or None


def features_of(source: Source, read: Read) -> list[tuple[str, Tensor]]:
    """Return the features of those utterances of a group that could be read."""
    good = [(item, wave) for item, wave in read if not isinstance(wave, AudioError)]
    found = source.features([wave for _, wave in good]) if good else []
    return [(item, values) for (item, _), values in zip(good, found, strict=True)]


def each_group(source: Source, groups: list[list[int]], work: Callable[[Read], Result]) -> Iterator[Result]:
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
