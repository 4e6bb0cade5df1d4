"""Plan and corpus in, batches out, through loader threads or processes that each build and prepare whole batches.

Nothing here depends on their kind or number, and no global random state is touched: a batch is a function of its
number. A row that cannot be read becomes silence with weight 0 and an entry for the ledger; too many stop the run.

What an objective draws for a batch (masks, negatives, units) is made by its preparer in the same place, so that the
thread that launches the computation does none of it. A step's batches are given one by one: memory and file
descriptors do not grow with their number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Self, cast

import numpy as np
import torch

from speechssl.config import DataConfig
from speechssl.core.errors import AudioError, ConfigError
from speechssl.core.ledger import Entry
from speechssl.core.tolerance import Tolerance, TooManyBadError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.batch import Batch, batch_of
from speechssl.data.batches.labels import Labels, with_texts
from speechssl.data.batches.loader import batch_loader
from speechssl.data.batches.memory import array_in
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.supply import Item
from speechssl.data.store.reader import Corpus

__all__ = ["Stream", "evaluation_batches"]

HELD = 3
"""Batches that the consumer holds at the same time: the one in use, the next, and one on its way to the device."""

NAMED = 5
"""Utterances of a batch that a message names."""

Augment = Callable[[np.ndarray, int, str], np.ndarray]


@dataclass(frozen=True)
class BatchReader(Generic[Item]):
    """Builds and prepares the batch of a number; shared by loader threads, sent to loader processes."""

    corpus: Corpus
    plan: Plan
    augment: Augment | None = None
    labels: Labels | None = None
    prepare: Callable[[Batch], Item] | None = None
    """Prepares a batch for the objective; None: the stream yields the batch itself."""

    def __call__(self, k: int, piece: np.ndarray | None = None) -> Item:
        """Return micro-batch ``k``, its samples in ``piece`` (uint8) where they fit."""
        batch = self._read(k, piece)
        if self.labels is not None:
            batch = self.labels(batch)
        return cast(Item, batch) if self.prepare is None else self.prepare(batch)

    def _read(self, k: int, piece: np.ndarray | None) -> Batch:
        planned = self.plan.micro(k)
        rows = [self.corpus.row(row) for row in planned.rows]
        ids = tuple(row.id for row in rows)
        crop = planned.samples if self.plan.kind == "pretrain" else None
        counts = [crop or row.samples for row in rows]
        # numpy, not torch: a large torch.zeros or copy_ would start torch's own threads inside each loader thread.
        shape = (len(rows), max(counts))
        batch = array_in(piece, shape, np.int16) if self.augment is None else np.empty(shape, np.float32)
        waves = [into[:count] for into, count in zip(batch, counts, strict=True)]
        weights, rejected = np.ones(len(rows), np.float32), []
        for i, (number, start, wave) in enumerate(zip(planned.rows, planned.starts, waves, strict=True)):
            try:
                self.corpus.read(number, start, len(wave), out=wave)
                if self.augment is not None:
                    waves[i] = self.augment(wave, planned.epoch, ids[i])
            except AudioError as error:
                wave[:] = 0
                weights[i] = 0.0
                rejected.append(Entry(self.plan.kind, ids[i], error.reason, error.detail, action="dropped"))
        if self.augment is not None:
            counts = [len(wave) for wave in waves]
            batch = array_in(piece, (len(rows), max(counts)), np.float32)
            for into, wave in zip(batch, waves, strict=True):
                into[: len(wave)] = wave
        for into, count in zip(batch, counts, strict=True):
            into[count:] = 0
        return Batch(
            torch.from_numpy(batch),
            torch.tensor(counts),
            torch.tensor(planned.starts),
            torch.from_numpy(weights),
            ids,
            planned.epoch,
            rejected=tuple(rejected),
        )

    def size(self, cfg: DataConfig) -> int:
        """Return the bytes of the samples of ``cfg.batch_seconds``; augmented ones may become a bit more."""
        return round(cfg.batch_seconds * SAMPLE_RATE) * (2 if self.augment is None else 5)

    def where(self, k: int) -> str:
        """Say which utterances of which shards make batch ``k``; reads nothing: the disk may be what hangs."""
        if self.corpus.lazy:
            return f"batch {k} of {self.corpus.source.name}"
        rows = [self.corpus.row(row) for row in self.plan.micro(k).rows]
        shards = ", ".join(f"{self.corpus.listing.shards[i].name}.tar" for i in sorted({row.shard for row in rows}))
        ids = ", ".join(row.id for row in rows[:NAMED])
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return f"batch {k} ({ids}{more}, of {shards} in {self.corpus.source.name})"


class Stream(Generic[Item]):
    """Batches of every step, for one rank.

    Steps asked for in order are prepared ahead by the loader; any other step starts it anew from there.

    Attributes
    ----------
    share : int, this rank's micro-batches of each step

    Parameters
    ----------
    corpus, plan
        What to read, and which of it makes micro-batch k.
    cfg
        ``workers``, ``timeout``, ``max_bad_fraction``.
    batches_per_step
        Micro-batches in a step over all ranks; a multiple of ``world``.
    rank, world
        This rank takes micro-batches ``rank::world`` of each step.
    start
        The step that will be asked for first.
    encode
        Text to token ids; fills ``targets`` and ``texts``.
    augment
        Applied to each waveform.
    prepare
        An objective's preparer; the stream then gives what it makes of each batch.

    ``encode``, ``augment`` and ``prepare`` are called where batches are built: loader processes are sent a copy, so
    they must be picklable, and threads share them.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        cfg: DataConfig,
        *,
        batches_per_step: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        encode: Callable[[str], list[int]] | None = None,
        augment: Augment | None = None,
        prepare: Callable[[Batch], Item] | None = None,
    ) -> None:
        if batches_per_step < 1 or batches_per_step % world:
            raise ConfigError(
                f"data.batches_per_step = {batches_per_step} is not a multiple of the {world} ranks: every rank "
                "needs the same number of micro-batches in each step"
            )
        self.share = batches_per_step // world
        self._tolerance = Tolerance(cfg.max_bad_fraction, what=f"batches from {corpus.source.name}")

        def number(i: int) -> int:
            """Return the number of this rank's ``i``-th micro-batch."""
            step, place = divmod(i, self.share)
            return step * batches_per_step + place * world + rank

        labels = with_texts(corpus, encode) if encode is not None else None
        reader = BatchReader(corpus, plan, augment, labels, prepare)
        self._loader = batch_loader(reader, cfg, number=number, where=reader.where, size=reader.size(cfg), held=HELD)
        self._loader.expect(start * self.share)

    def step(self, step: int) -> Iterator[Item]:
        """Yield this rank's ``share`` micro-batches of a global step, each when it is asked for.

        Raises
        ------
        DataError
            A loader process died or hangs.
        TooManyBadError
            Too many rows cannot be read; it carries the entries of the batch that was one too many.
        """
        for i in range(step * self.share, (step + 1) * self.share):
            item = self._loader.get(i)
            batch = batch_of(item)
            try:
                _count(batch, self._tolerance)
            except TooManyBadError as error:
                raise TooManyBadError(str(error), list(batch.rejected)) from None
            yield item

    def close(self) -> None:
        """Stop the loader; a later ``step`` starts it again."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def evaluation_batches(
    corpus: Corpus, cfg: DataConfig, *, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yield every utterance of a corpus once, the longest first, in padded batches with texts: batches ``rank::world``.

    A row that cannot be read has weight 0 and an entry in ``rejected``: it must be reported, not scored. Errors as in
    ``Stream.step``.
    """
    plan = Plan.sequential(corpus, cfg)
    tolerance = Tolerance(cfg.max_bad_fraction, what=f"batches from {corpus.source.name}")
    numbers = range(rank, plan.n_batches, world)
    reader: BatchReader[Batch] = BatchReader(corpus, plan)
    cfg = replace(cfg, workers=workers)
    loader = batch_loader(
        reader, cfg, number=numbers.__getitem__, where=reader.where, stop=len(numbers), size=reader.size(cfg), held=2
    )
    labels = with_texts(corpus)
    try:
        for i in range(len(numbers)):
            batch = loader.get(i)
            yield labels(batch)
            _count(batch, tolerance)  # counted after yielding: rows that exceed the limit reach the ledger first
    finally:
        loader.close()
    if numbers:
        tolerance.finish()


def _count(batch: Batch, tolerance: Tolerance) -> None:
    """Tell the tolerance about a batch, bad rows first: the order within a batch carries no meaning."""
    for entry in batch.rejected:
        tolerance.bad(entry.reason)
    tolerance.good(len(batch.ids) - len(batch.rejected))
