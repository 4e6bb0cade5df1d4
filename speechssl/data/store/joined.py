"""Several folders of shards as one corpus.

In: ``DataConfig``, whose ``mix.corpora`` name further folders or addresses. Out: a corpus of all their utterances,
those of ``shards`` first; nothing is copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from speechssl.config import DataConfig
from speechssl.core.errors import DataError
from speechssl.data.ingest.manifest import Utterance
from speechssl.data.store.catalogue import StoredRows
from speechssl.data.store.payload import encoding_of
from speechssl.data.store.reader import Corpus, manifest_of, open_corpus, select
from speechssl.data.store.sources import Source

__all__ = ["JoinedCorpus", "open_data"]


def open_data(cfg: DataConfig, *, splits: Sequence[str] = (), ids: Iterable[str] | None = None) -> Corpus:
    """Open the shards of a configuration, those of its mixture included; ``splits`` and ``ids`` as in ``open_corpus``.

    Raises DataError as ``open_corpus``, and when the folders have ids in common or other encodings.
    """
    if not cfg.mix.corpora:
        return open_corpus(cfg.shards, cache=cfg.cache, cache_gb=cfg.cache_gb, splits=splits, ids=ids)
    places = (cfg.shards, *cfg.mix.corpora)
    corpora = [open_corpus(place, cache=cfg.cache, cache_gb=cfg.cache_gb) for place in places]
    return JoinedCorpus(corpora, splits, ids)


@dataclass(frozen=True)
class _Sources:
    """A Source: files are named ``NUMBER~NAME``, by the number of their folder."""

    folders: tuple[Source, ...]

    @property
    def name(self) -> str:
        return " + ".join(folder.name for folder in self.folders)

    def listing(self) -> bytes:
        return self.folders[0].listing()

    def local(self, name: str, *, size: int, crc32: int) -> Path:
        number, _, rest = name.partition("~")
        return self.folders[int(number)].local(rest, size=size, crc32=crc32)

    def require(self, name: str, *, size: int, crc32: int) -> None:
        number, _, rest = name.partition("~")
        self.folders[int(number)].require(rest, size=size, crc32=crc32)


class JoinedCorpus(Corpus):
    """The chosen utterances of several corpora, in their order.

    Attributes
    ----------
    folders : tuple[str, ...], where the corpora are
    folder_of : int array [N], position of each utterance's corpus
    """

    def __init__(self, corpora: Sequence[Corpus], splits: Sequence[str] = (), ids: Iterable[str] | None = None) -> None:
        self.folders = tuple(corpus.source.name for corpus in corpora)
        source = _Sources(tuple(corpus.source for corpus in corpora))
        encodings = {encoding_of(corpus.listing.settings, corpus.source.name) for corpus in corpora}
        if len(encodings) > 1:
            raise DataError(f"{source.name}: one encoding for all of them, not {' and '.join(sorted(encodings))}")
        records = [
            replace(record, name=f"{i}~{record.name}")
            for i, corpus in enumerate(corpora)
            for record in corpus.listing.shards
        ]
        starts = np.cumsum([0, *(corpus.n_shards for corpus in corpora)])
        every = [
            replace(row, shard=row.shard + int(start))
            for start, corpus in zip(starts[:-1], corpora, strict=True)
            for row in map(corpus.row, range(len(corpus)))
        ]
        if len({row.id for row in every}) < len(every):
            seen: set[str] = set()
            twice = next(row.id for row in every if row.id in seen or seen.add(row.id))  # type: ignore[func-returns-value]
            raise DataError(f"{source.name}: two of them have an utterance {twice!r}; give one of them other ids")
        rows = select(every, splits, ids, source.name)
        listing = replace(corpora[0].listing, shards=tuple(records), utterances=len(every), splits=())
        super().__init__(source, listing, StoredRows(rows, len(records)))
        self.folder_of = np.searchsorted(starts, self.shard_of, side="right") - 1
        self._parts = tuple((corpus.source, corpus.listing) for corpus in corpora)

    def _manifest(self) -> Iterator[Utterance]:
        return chain.from_iterable(manifest_of(source, listing) for source, listing in self._parts)
