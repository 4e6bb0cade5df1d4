"""Plan and corpus in, batches out, through loader processes or threads that each build whole batches.

Nothing here depends on their kind or number, and no global random state is touched: a batch is a function of its
number. A row that cannot be read becomes silence with weight 0 and an entry for the ledger; too many stop the run.

Loader processes come from a fork server: it is a clean process, so threads of this one (BLAS, CUDA, TensorBoard) cannot
leave a lock held in them as a plain fork can; and it imports torch once for all of them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from speechssl.config import DataConfig
from speechssl.data.audio import SAMPLE_RATE
from speechssl.data.batch import Batch
from speechssl.data.corpus import Corpus
from speechssl.data.ledger import Entry
from speechssl.data.loading import batch_loader
from speechssl.data.plan import Plan
from speechssl.data.slots import array_in
from speechssl.data.tolerance import Tolerance, TooManyBadError
from speechssl.errors import AudioError, ConfigError

__all__ = ["Stream", "evaluation_batches"]

HELD_STEP = 8
"""Micro-batches of a step that get memory which is used again; of the step in progress and of the next."""

Augment = Callable[[np.ndarray, int, str], np.ndarray]


@dataclass(frozen=True)
class BatchReader:
    """Builds the batch of a number; sent to loader processes."""

    corpus: Corpus
    plan: Plan
    augment: Augment | None = None

    def __call__(self, k: int, piece: np.ndarray | None = None) -> Batch:
        """Return micro-batch ``k``, without texts; its samples in ``piece`` (uint8) where they fit."""
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
        """Return the bytes of samples in a batch of ``cfg.batch_seconds``; augmented ones may become a bit longer."""
        return round(cfg.batch_seconds * SAMPLE_RATE) * (2 if self.augment is None else 5)

    def where(self, k: int) -> str:
        """Return the shards that hold batch ``k``, for messages; reads nothing: the disk may be what hangs."""
        if self.corpus.lazy:
            return f"batch {k} of {self.corpus.source.name}"
        shards = set((np.searchsorted(self.corpus.first_rows, self.plan.micro(k).rows, side="right") - 1).tolist())
        names = ", ".join(f"{self.corpus.listing.shards[shard].name}.tar" for shard in sorted(shards))
        return f"batch {k} ({names} of {self.corpus.source.name})"


class Stream:
    """Batches of every step, for one rank.

    Steps asked for in order are prepared ahead by loader processes; any other step starts them anew from there.

    Parameters
    ----------
    corpus, plan
        What to read, and which of it makes micro-batch k.
    cfg
        ``workers``, ``timeout``, ``max_bad_fraction``.
    seed
        Kept for the record: order, crops and augmentation are keyed by the plan's and the augmenter's own.
    batches_per_step
        Micro-batches in a step over all ranks; a multiple of ``world``.
    rank, world
        This rank takes micro-batches ``rank::world`` of each step.
    start
        The step that will be asked for first.
    encode
        Text to token ids; fills ``targets``. Called in this process.
    augment
        Applied to each waveform by the loader processes, so it must be picklable.
    with_text
        Fill ``texts``.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        cfg: DataConfig,
        *,
        seed: int,
        batches_per_step: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        encode: Callable[[str], list[int]] | None = None,
        augment: Augment | None = None,
        with_text: bool = False,
    ) -> None:
        if batches_per_step < 1 or batches_per_step % world:
            raise ConfigError(
                f"data.batches_per_step = {batches_per_step} is not a multiple of the {world} ranks: every rank "
                "needs the same number of micro-batches in each step"
            )
        self.seed = seed
        self._corpus, self._encode, self._with_text = corpus, encode, with_text
        self._share = batches_per_step // world
        self._waited = 0.0
        self._tolerance = Tolerance(cfg.max_bad_fraction, what=f"batches from {corpus.source.name}")

        def number(i: int) -> int:
            """Return the number of this rank's ``i``-th micro-batch."""
            step, place = divmod(i, self._share)
            return step * batches_per_step + place * world + rank

        reader = BatchReader(corpus, plan, augment)
        held = 1 + 2 * min(self._share, HELD_STEP)
        self._loader = batch_loader(reader, cfg, number=number, where=reader.where, size=reader.size(cfg), held=held)
        self._loader.expect(start * self._share)

    def step(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of a global step.

        Raises
        ------
        DataError
            A loader process died or hangs.
        TooManyBadError
            Too many rows cannot be read; it carries the entries of this step's.
        """
        began = time.perf_counter()
        first = step * self._share
        batches = [self._loader.get(first + i) for i in range(self._share)]
        batches = [self._with_labels(batch) for batch in batches]
        self._waited += time.perf_counter() - began
        try:
            for batch in batches:
                _count(batch, self._tolerance)
        except TooManyBadError as error:
            raise TooManyBadError(str(error), [entry for batch in batches for entry in batch.rejected]) from None
        return batches

    @property
    def wait_seconds(self) -> float:
        """Seconds spent waiting in ``step`` since this was last read."""
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """Stop the loader processes; a later ``step`` starts them again."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_labels(self, batch: Batch) -> Batch:
        if self._encode is None and not self._with_text:
            return batch
        texts = _texts(self._corpus, batch)
        if self._encode is None:
            return replace(batch, texts=texts)
        encoded = [self._encode(text or "") for text in texts]
        lengths = torch.tensor([len(ids) for ids in encoded])
        targets = torch.zeros(len(encoded), max(1, int(lengths.max())), dtype=torch.int64)
        for into, ids in zip(targets, encoded, strict=True):
            into[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return replace(batch, texts=texts, targets=targets, target_lengths=lengths)


def evaluation_batches(
    corpus: Corpus, cfg: DataConfig, *, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yield every utterance of a corpus once, the longest first, in padded batches with texts.

    A row that cannot be read has weight 0 and an entry in ``rejected``: it must be reported, not scored.

    Parameters
    ----------
    rank, world
        Yield batches ``rank::world``.

    Raises
    ------
    DataError
        As ``Stream.step``.
    """
    plan = Plan.sequential(corpus, cfg)
    tolerance = Tolerance(cfg.max_bad_fraction, what=f"batches from {corpus.source.name}")
    numbers = range(rank, plan.n_batches, world)
    reader, cfg = BatchReader(corpus, plan), replace(cfg, workers=workers)
    loader = batch_loader(
        reader, cfg, number=numbers.__getitem__, where=reader.where, stop=len(numbers), size=reader.size(cfg), held=2
    )
    try:
        for i in range(len(numbers)):
            batch = loader.get(i)
            yield replace(batch, texts=_texts(corpus, batch))
            _count(batch, tolerance)  # only now: the rows of a batch that is too much have been listed, too
    finally:
        loader.close()
    if numbers:
        tolerance.finish()


def _texts(corpus: Corpus, batch: Batch) -> tuple[str | None, ...]:
    known: dict[str, Any] = corpus.utterances()
    return tuple(known[name].text for name in batch.ids)


def _count(batch: Batch, tolerance: Tolerance) -> None:
    """Tell the tolerance about a batch, bad rows first: the order within a batch carries no meaning."""
    for entry in batch.rejected:
        tolerance.bad(entry.reason)
    tolerance.good(len(batch.ids) - len(batch.rejected))
