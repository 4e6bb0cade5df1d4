"""Which utterances make batch k, and which part of each: pure functions of (seed, corpus, k), with no state to save.

In: the lengths and shards of a corpus. Out: ``micro(k)``, the k-th micro-batch of a training that never ends. An epoch
has the same number of batches every time, so k alone gives the epoch and the place in it.

Utterances are mixed within windows of consecutive shards (reading stays nearly sequential); the order of windows, of
batches in a window and of utterances over batches changes each epoch.
"""

import math
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from speechssl.config import DataConfig
from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.core.randomness import generator, key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.buckets import Cut, bucket_of, deal, edges_of, rounded
from speechssl.data.batches.selection import Selection
from speechssl.data.store.catalogue import spans
from speechssl.data.store.reader import Corpus

__all__ = ["Plan", "PlannedBatch"]

CACHED_WINDOWS = 4
COUNTABLE = 1 << 22
"""Lengths (in steps of ``align``) up to which they are counted in a table rather than sorted."""
SORTED_BATCHES = 8
"""Fine-tuning sorts this many shuffled batches of a bucket by length before it cuts them."""


@dataclass(frozen=True)
class PlannedBatch:
    """One micro-batch, as row numbers of the corpus."""

    epoch: int
    rows: tuple[int, ...]
    starts: tuple[int, ...]
    """First sample of each row's crop."""
    samples: int
    """T: length of every row (pretraining), or of the longest row."""


class _Dealt(NamedTuple):
    """One batch of a window: row numbers and lengths of its utterances, and the edge they share."""

    edge: int
    rows: np.ndarray
    lengths: np.ndarray


class Plan:
    """The batches of a training or evaluation; make one with ``pretrain``, ``finetune`` or ``sequential``.

    What it keeps is the number of utterances in each bucket of each window; which ones they are is read from the corpus
    when a batch of the window is asked for. So a plan of any corpus is small.

    Attributes
    ----------
    batches_per_epoch : int
    edges : int64 array of bucket edges in samples
    n_rows, n_samples : int, utterances used and their length together
    dropped : list[Entry], utterances left out, each with its reason
    dropped_counts : Counter[str], how many of them by reason
    """

    def __init__(
        self,
        corpus: Corpus,
        cfg: DataConfig,
        chosen: Selection,
        *,
        kind: Literal["pretrain", "finetune", "evaluate"],
        seed: int = 0,
        align: int = 1,
    ) -> None:
        self.kind = kind
        self._corpus, self._chosen = corpus, chosen
        self._seed, self._align = seed, align
        self._crop = kind == "pretrain"
        self._order_of: tuple[int, np.ndarray, np.ndarray] | None = None
        self._cache: OrderedDict[tuple[int, int], list[_Dealt]] = OrderedDict()
        self._lock = threading.Lock()
        self._batch_samples = round(cfg.batch_seconds * SAMPLE_RATE)
        self._longest = round(cfg.max_seconds * SAMPLE_RATE) if self._crop else None
        self._step = max(1, cfg.window_shards)
        self.n_rows = self.n_samples = 0
        self.dropped_counts: Counter[str] = Counter()
        values, counts = self._survey()
        if not self.n_rows:
            reasons = ", ".join(sorted(self.dropped_counts)) or "the corpus is empty"
            raise DataError(
                f"no utterance is left for {kind} ({reasons}); change data.min_seconds, max_seconds or splits"
            )
        self.edges = edges_of(values, counts, cfg.buckets, crop=self._crop)
        self._fixed: list[list[int]] = []
        if kind == "evaluate":
            rows = self.rows
            self._fixed = _by_length(rows, corpus.samples[rows], self._batch_samples)
            self.batches_per_epoch = len(self._fixed)
            return
        counted = self._count()
        self._windows = np.flatnonzero(counted.any(axis=1))
        self._counts = counted[self._windows]
        self._sizes = np.array([sum(len(cut.sizes) for cut in self._cuts(i)) for i in range(len(self._windows))])
        self.batches_per_epoch = int(self._sizes.sum())

    @classmethod
    def pretrain(
        cls, corpus: Corpus, cfg: DataConfig, seed: int, *, align: int, without: np.ndarray | None = None
    ) -> Self:
        """Plan equal-length batches: every row is cropped to its bucket's edge, so nothing is padded.

        Every utterance that is neither in ``dropped`` nor in the rows ``without`` (held out, int64, increasing) appears
        exactly once in each epoch. Edges and crop starts are multiples of ``align`` samples (the encoder's hop), so
        that frames of a crop are frames of the utterance.
        """
        chosen = Selection("pretrain", max(cfg.min_seconds, align / SAMPLE_RATE), None, without=without)
        return cls(corpus, cfg, chosen, kind="pretrain", seed=seed, align=align)

    @classmethod
    def finetune(cls, corpus: Corpus, cfg: DataConfig, seed: int, *, without: np.ndarray | None = None) -> Self:
        """Plan whole utterances with transcripts in padded batches of similar length, without some rows."""
        known = corpus.utterances()
        labelled = np.array([known[name].text is not None for name in corpus.ids], dtype=bool)
        chosen = Selection("finetune", cfg.min_seconds, cfg.max_seconds, labelled, without)
        return cls(corpus, cfg, chosen, kind="finetune", seed=seed)

    @classmethod
    def sequential(cls, corpus: Corpus, cfg: DataConfig) -> Self:
        """Plan whole utterances, the longest first, each exactly once, in padded batches and a fixed order."""
        return cls(corpus, cfg, Selection("evaluate", cfg.min_seconds, cfg.max_seconds), kind="evaluate")

    @property
    def n_batches(self) -> int:
        """Batches in one pass."""
        return self.batches_per_epoch

    def updates(self, epochs: float, batches_per_step: int) -> int:
        """Return the fewest updates, at least 1, that take ``epochs`` passes over the utterances used."""
        return max(1, math.ceil(epochs * self.batches_per_epoch / batches_per_step - 1e-9))

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the utterances used, int64, in shard order."""
        return np.concatenate([self._used(first, last)[0] for first, last in spans(self._corpus.first_rows)])

    @cached_property
    def dropped(self) -> list[Entry]:
        """An entry for each utterance left out; one for each reason where that would mean to read many indexes."""
        return self._chosen.entries(self._corpus)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_cache": OrderedDict(), "_order_of": None}
        return {name: value for name, value in state.items() if name not in {"dropped", "_lock"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def micro(self, k: int) -> PlannedBatch:
        """Return micro-batch ``k`` of the training, counted from 0 over all epochs and ranks.

        Raises DataError when an index that is read as it is needed is missing or damaged.
        """
        epoch, place = divmod(k, self.batches_per_epoch)
        if self.kind == "evaluate":
            rows = self._fixed[place]
            return PlannedBatch(epoch, tuple(rows), (0,) * len(rows), int(self._corpus.samples[rows].max()))
        order, ends = self._order(epoch)
        position = int(np.searchsorted(ends, place, side="right"))
        window = int(order[position])
        dealt = self._dealt(epoch, window)[place - int(ends[position] - self._sizes[window])]
        rows, lengths = dealt.rows.tolist(), dealt.lengths.tolist()
        starts = tuple(self._start(epoch, row, length, dealt.edge) for row, length in zip(rows, lengths, strict=True))
        return PlannedBatch(epoch, tuple(rows), starts, dealt.edge if self._crop else max(lengths))

    def _used(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and lengths of the utterances used of the shards ``first`` to ``last``."""
        start = int(self._corpus.first_rows[first])
        lengths = self._corpus.lengths(first, last)
        kept = np.flatnonzero(self._chosen.kept(lengths, start))
        return kept + start, lengths[kept]

    def _usable(self, lengths: np.ndarray) -> np.ndarray:
        return lengths if self._longest is None else np.minimum(lengths, self._longest)

    def _survey(self) -> tuple[np.ndarray, np.ndarray]:
        """Count what is used and what is left out; return the rounded lengths with their counts."""
        found = []
        for first, last in spans(self._corpus.first_rows):
            every = self._corpus.lengths(first, last)
            kept = self._chosen.kept(every, int(self._corpus.first_rows[first]))
            lengths = every[kept]
            self.n_rows += len(lengths)
            self.n_samples += int(lengths.sum())
            self.dropped_counts.update(self._chosen.reasons(every, kept))
            found.append(_tally(rounded(self._usable(lengths), self._align, crop=self._crop) // self._align))
        values, places = np.unique(np.concatenate([value for value, _ in found]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([count for _, count in found]))
        return values * self._align, counts

    def _count(self) -> np.ndarray:
        """Return the utterances used in each bucket of each window, int64 [windows, buckets]."""
        first_rows, step, n_buckets = self._corpus.first_rows, self._step, len(self.edges)
        counts = []
        for first, last in spans(first_rows, step=step):
            rows, lengths = self._used(first, last)
            windows = [*range(first, last, step), last]
            window_of = np.repeat(np.arange(len(windows) - 1), np.diff(np.searchsorted(rows, first_rows[windows])))
            cells = window_of * n_buckets + bucket_of(self._usable(lengths), self.edges, crop=self._crop)
            counts.append(np.bincount(cells, minlength=(len(windows) - 1) * n_buckets).reshape(-1, n_buckets))
        return np.concatenate(counts)

    def _cuts(self, window: int) -> list[Cut]:
        return deal(self._counts[window].tolist(), self.edges, self._batch_samples, crop=self._crop)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of windows in an epoch, and the number of batches up to the end of each."""
        known = self._order_of
        if known is None or known[0] != epoch:
            order = _shuffled(np.arange(len(self._windows)), "windows", self._seed, epoch)
            known = self._order_of = (epoch, order, np.cumsum(self._sizes[order]))
        return known[1:]

    def _dealt(self, epoch: int, window: int) -> list[_Dealt]:
        """Return every batch of a window in one epoch."""
        name = (epoch, window)
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        number = int(self._windows[window])
        first = number * self._step
        rows, lengths = self._used(first, min(first + self._step, self._corpus.n_shards))
        buckets = bucket_of(self._usable(lengths), self.edges, crop=self._crop)
        batches: list[_Dealt] = []
        carried = np.empty(0, dtype=np.int64)
        for cut in self._cuts(window):
            pool = np.flatnonzero(buckets == cut.bucket)
            mixed = _shuffled(pool, "pool", self._seed, epoch, number, cut.bucket)
            if not self._crop:
                mixed = _grouped(mixed, lengths, SORTED_BATCHES * max(cut.sizes, default=1))
            pieces = np.split(np.concatenate([carried, mixed]), np.cumsum(cut.sizes).astype(int))
            carried = pieces.pop()
            edge = int(self.edges[cut.bucket])
            batches += [_Dealt(edge, rows[piece], lengths[piece]) for piece in pieces]
        order = _shuffled(np.arange(len(batches)), "batches", self._seed, epoch, number)
        ordered = [batches[i] for i in order.tolist()]
        with self._lock:
            self._cache[name] = ordered
            if len(self._cache) > CACHED_WINDOWS:
                self._cache.popitem(last=False)
        return ordered

    def _start(self, epoch: int, row: int, length: int, edge: int) -> int:
        if not self._crop or length - edge < self._align:
            return 0
        places = (length - edge) // self._align + 1
        return key("crop", self._seed, epoch, self._corpus.row(row).id) % places * self._align


def _tally(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that occur, increasing, and how often each does."""
    if not len(values) or int(values.max()) > COUNTABLE:
        return np.unique(values, return_counts=True)
    counts = np.bincount(values)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _grouped(pool: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Return the pool sorted by length within groups of ``size``: a batch is then padded less than its bucket."""
    groups = np.arange(len(pool)) // size
    return pool[np.lexsort((lengths[pool], groups))]


def _shuffled(values: np.ndarray, *parts: str | int) -> np.ndarray:
    """Return the values in an order keyed by the parts; raw PCG64 output, which no numpy release may change."""
    return values[np.argsort(generator(*parts).bit_generator.random_raw(len(values)), kind="stable")]


def _by_length(rows: np.ndarray, lengths: np.ndarray, batch_samples: int) -> list[list[int]]:
    """Return batches of the rows, longest first: a batch that does not fit in memory shows at once."""
    batches: list[list[int]] = []
    longest = 0
    for i in np.argsort(-lengths, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * longest > batch_samples:
            batches.append([])
            longest = int(lengths[i])
        batches[-1].append(int(rows[i]))
    return batches
