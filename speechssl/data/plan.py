"""Which utterances make batch k, and which part of each: pure functions of (seed, corpus, k), with no state to save.

In: the lengths and shards of a corpus. Out: ``micro(k)``, the k-th micro-batch of a training that never ends. An epoch
has the same number of batches every time, so k alone gives the epoch and the place in it.

Utterances are mixed within windows of consecutive shards (reading stays nearly sequential); the order of windows, of
batches in a window and of utterances over batches changes each epoch.
"""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from speechssl.config import DataConfig
from speechssl.data.buckets import Cut, bucket_of, deal, edges
from speechssl.data.corpus import Corpus
from speechssl.data.keys import generator, key
from speechssl.data.ledger import Entry
from speechssl.errors import DataError

__all__ = ["Plan", "PlannedBatch"]

RATE = 16_000
CACHED_WINDOWS = 4
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


@dataclass(frozen=True)
class _Window:
    """Utterances of consecutive shards: fixed pools, dealt anew each epoch."""

    number: int
    pools: tuple[np.ndarray, ...]
    """Row numbers in each cut's own bucket."""
    cuts: tuple[Cut, ...]

    @property
    def n_batches(self) -> int:
        return sum(len(cut.sizes) for cut in self.cuts)


class Plan:
    """The batches of a training or evaluation; make one with ``pretrain``, ``finetune`` or ``sequential``.

    Attributes
    ----------
    batches_per_epoch : int
    dropped : list[Entry], utterances left out, each with its reason
    edges : int64 array of bucket edges in samples
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        dropped: list[Entry],
        cfg: DataConfig,
        *,
        kind: Literal["pretrain", "finetune", "evaluate"],
        seed: int = 0,
        align: int = 1,
    ) -> None:
        if not len(rows):
            reasons = ", ".join(sorted({entry.reason for entry in dropped})) or "the corpus is empty"
            raise DataError(
                f"no utterance is left for {kind} ({reasons}); change data.min_seconds, max_seconds or splits"
            )
        self.dropped = dropped
        self.kind = kind
        self._ids, self._samples = corpus.ids, corpus.samples
        self._seed, self._align = seed, align
        self._crop = kind == "pretrain"
        self._orders: dict[int, tuple[list[int], list[int]]] = {}
        self._cache: OrderedDict[tuple[int, int], list[tuple[int, np.ndarray]]] = OrderedDict()
        batch_samples = round(cfg.batch_seconds * RATE)
        lengths = self._samples[rows]
        if kind == "pretrain":
            lengths = np.minimum(lengths, round(cfg.max_seconds * RATE))
        self.edges = edges(lengths, cfg.buckets, align=align, crop=self._crop)
        if kind == "evaluate":
            self._fixed = _by_length(rows, lengths, batch_samples)
            self._windows: list[_Window] = []
            self.batches_per_epoch = len(self._fixed)
            return
        self._fixed = []
        buckets = bucket_of(lengths, self.edges, crop=self._crop)
        window_of = corpus.shard_of[rows] // max(1, cfg.window_shards)
        self._windows = [
            self._window(number, rows[window_of == number], buckets[window_of == number], batch_samples)
            for number in np.unique(window_of).tolist()
        ]
        self.batches_per_epoch = sum(window.n_batches for window in self._windows)

    @classmethod
    def pretrain(cls, corpus: Corpus, cfg: DataConfig, seed: int, *, align: int) -> Self:
        """Plan equal-length batches: every row is cropped to its bucket's edge, so nothing is padded.

        Every utterance that is not in ``dropped`` appears exactly once in each epoch. Edges and crop starts are
        multiples of ``align`` samples (the encoder's hop), so that frames of a crop are frames of the utterance.
        """
        rows, dropped = _within(corpus, max(cfg.min_seconds, align / RATE), None, "pretrain")
        return cls(corpus, rows, dropped, cfg, kind="pretrain", seed=seed, align=align)

    @classmethod
    def finetune(cls, corpus: Corpus, cfg: DataConfig, seed: int) -> Self:
        """Plan whole utterances with transcripts in padded batches of similar length."""
        rows, dropped = _within(corpus, cfg.min_seconds, cfg.max_seconds, "finetune")
        known = corpus.utterances()
        labelled = [row for row in rows.tolist() if known[corpus.ids[row]].text is not None]
        silent = sorted(set(rows.tolist()) - set(labelled))
        dropped += [Entry("finetune", corpus.ids[row], "no_transcript", action="dropped") for row in silent]
        return cls(corpus, np.array(labelled, dtype=np.int64), dropped, cfg, kind="finetune", seed=seed)

    @classmethod
    def sequential(cls, corpus: Corpus, cfg: DataConfig) -> Self:
        """Plan whole utterances, the longest first, each exactly once, in padded batches and a fixed order."""
        rows, dropped = _within(corpus, cfg.min_seconds, cfg.max_seconds, "evaluate")
        return cls(corpus, rows, dropped, cfg, kind="evaluate")

    @property
    def n_batches(self) -> int:
        """Batches in one pass."""
        return self.batches_per_epoch

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict(), "_orders": {}}

    def micro(self, k: int) -> PlannedBatch:
        """Return micro-batch ``k`` of the training, counted from 0 over all epochs and ranks."""
        epoch, place = divmod(k, self.batches_per_epoch)
        if self.kind == "evaluate":
            rows = self._fixed[place]
            return PlannedBatch(epoch, tuple(rows), (0,) * len(rows), int(self._samples[rows].max()))
        order, ends = self._order(epoch)
        position = bisect_right(ends, place)
        window = self._windows[order[position]]
        batches = self._dealt(epoch, window)
        edge, rows_array = batches[place - ends[position] + window.n_batches]
        rows = rows_array.tolist()
        starts = tuple(self._start(epoch, row, edge) for row in rows)
        samples = edge if self._crop else int(self._samples[rows].max())
        return PlannedBatch(epoch, tuple(rows), starts, samples)

    def _window(self, number: int, rows: np.ndarray, buckets: np.ndarray, batch_samples: int) -> _Window:
        counts = np.bincount(buckets, minlength=len(self.edges)).tolist()
        cuts = tuple(deal(counts, self.edges, batch_samples, crop=self._crop))
        return _Window(number, tuple(rows[buckets == cut.bucket] for cut in cuts), cuts)

    def _order(self, epoch: int) -> tuple[list[int], list[int]]:
        """Return the order of windows in an epoch, and the number of batches up to the end of each."""
        if epoch not in self._orders:
            order = _shuffled(np.arange(len(self._windows)), "windows", self._seed, epoch).tolist()
            self._orders = {epoch: (order, np.cumsum([self._windows[i].n_batches for i in order]).tolist())}
        return self._orders[epoch]

    def _dealt(self, epoch: int, window: _Window) -> list[tuple[int, np.ndarray]]:
        """Return the (edge, rows) of every batch of a window in one epoch."""
        name = (epoch, window.number)
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        batches: list[tuple[int, np.ndarray]] = []
        carried = np.empty(0, dtype=np.int64)
        for cut, pool in zip(window.cuts, window.pools, strict=True):
            mixed = _shuffled(pool, "pool", self._seed, epoch, window.number, cut.bucket)
            if not self._crop:
                mixed = self._grouped(mixed, SORTED_BATCHES * max(cut.sizes, default=1))
            pieces = np.split(np.concatenate([carried, mixed]), np.cumsum(cut.sizes).astype(int))
            carried = pieces.pop()
            batches += [(int(self.edges[cut.bucket]), piece) for piece in pieces]
        order = _shuffled(np.arange(len(batches)), "batches", self._seed, epoch, window.number)
        self._cache[name] = [batches[i] for i in order.tolist()]
        if len(self._cache) > CACHED_WINDOWS:
            self._cache.popitem(last=False)
        return self._cache[name]

    def _grouped(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Return the rows sorted by length within groups of ``size``: a batch is then padded less than its bucket."""
        groups = np.arange(len(rows)) // size
        return rows[np.lexsort((self._samples[rows], groups))]

    def _start(self, epoch: int, row: int, edge: int) -> int:
        places = (int(self._samples[row]) - edge) // self._align + 1 if self._crop else 1
        return key("crop", self._seed, epoch, self._ids[row]) % places * self._align


def _shuffled(values: np.ndarray, *parts: str | int) -> np.ndarray:
    """Return the values in an order keyed by the parts; raw PCG64 output, which no numpy release may change."""
    return values[np.argsort(generator(*parts).bit_generator.random_raw(len(values)), kind="stable")]


def _within(corpus: Corpus, low: float, high: float | None, stage: str) -> tuple[np.ndarray, list[Entry]]:
    """Return the rows whose length is allowed, and an entry for each of the others."""
    short = corpus.samples < round(low * RATE)
    long = corpus.samples > round(high * RATE) if high is not None else np.zeros(len(short), dtype=bool)
    dropped = []
    for row in np.flatnonzero(short | long).tolist():
        reason, limit = ("too_short", low) if short[row] else ("too_long", high)
        detail = f"{corpus.samples[row] / RATE:.2f} s, the limit is {limit:g} s"
        dropped.append(Entry(stage, corpus.ids[row], reason, detail, action="dropped"))
    return np.flatnonzero(~(short | long)), dropped


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
