"""Validation of pretraining: the objective's loss and metrics on held-out audio, the same crops and masks every time.

In: an objective and the rows that its training never sees. Out: ``valid_loss``, ``valid_accuracy`` and every other
metric of the objective under the prefix ``valid_``; and ``valid_effective_rank``, whatever the objective is. Crops,
masks and negatives are keyed by utterance id alone, dropout is off and codes are chosen without noise, so the numbers
can be compared between steps, runs and seeds.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import AudioError
from speechssl.core.ledger import Entry
from speechssl.core.randomness import key
from speechssl.core.spectrum import effective_rank
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.batch import Batch
from speechssl.data.store.reader import Corpus
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Objective, Prepared
from speechssl.training.parallel import Parallel

__all__ = ["HeldOut", "validation_interval"]

SEED = 0
"""Key of crops, masks and negatives, whatever the seed of the run."""
BATCH_SECONDS = 87.5
"""Audio, padding included, in one micro-batch at most: perplexities are means over micro-batches."""
RANK_SECONDS = 30.0
"""Audio whose frames the effective rank is of."""
TIMES = 50
"""Validations in a run."""
COST = 0.02
"""Largest share of a run's time that they may take."""
BACKWARD = 3.0
"""Time of a training step, in forward passes over the same audio."""

logger = logging.getLogger("speechssl.train")


def validation_interval(steps: int, step_seconds: float, held_seconds: float) -> int:
    """Return the steps between validations: ``TIMES`` a run, less often where they would cost more than ``COST``.

    ``step_seconds`` and ``held_seconds`` are the audio of a training step and of a validation.
    """
    affordable = held_seconds / (COST * BACKWARD * max(step_seconds, 1e-9))
    return max(1, math.ceil(steps / TIMES), math.ceil(affordable))


class HeldOut:
    """The held-out part of a corpus as micro-batches shared out over ranks; called with the number of steps done.

    This rank's samples, masks and targets are made at the first call and kept (32 kB for each second of audio).

    Parameters
    ----------
    rows
        Row numbers of the corpus, each long enough for one frame.
    max_seconds, batch_seconds
        Longer utterances are cropped; audio in a micro-batch, padding included, ``BATCH_SECONDS`` at most.
    threads
        Threads that read.
    autocast
        Returns the context that the loss is computed in.
    record
        Gets an entry for each utterance that cannot be read (on rank 0). It is left out of the loss.
    """

    def __init__(
        self,
        objective: Objective[Any],
        corpus: Corpus,
        rows: Sequence[int],
        parallel: Parallel,
        *,
        hop: int,
        max_seconds: float,
        batch_seconds: float,
        threads: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        record: Callable[[Iterable[Entry]], None],
    ) -> None:
        self.objective, self.corpus, self.parallel = objective, corpus, parallel
        self.hop, self.threads, self.autocast, self.record = hop, max(1, threads), autocast, record
        longest = max(1, round(max_seconds * SAMPLE_RATE) // hop) * hop
        lengths = {row: min(int(corpus.samples[row]), longest) for row in rows}
        self.seconds = sum(lengths.values()) / SAMPLE_RATE
        self._lengths = lengths
        self._groups = _grouped(lengths, min(batch_seconds, BATCH_SECONDS) * SAMPLE_RATE)
        self._prepared: list[tuple[int, Prepared]] | None = None
        self._heard: Batch | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Return the metrics, averaged over all held-out targets of all ranks (a collective).

        ``valid_effective_rank`` is that of the last layer's unmasked frames of ``RANK_SECONDS`` of audio (Roy and
        Vetterli 2007).

        The averages are summed in the order of the micro-batches, so they do not depend on the number of ranks. Empty
        when nothing could be read or masked.
        """
        del step
        if self._prepared is None:
            self._prepared = self._prepare()
        found: list[tuple[int, dict[str, int], Tensor]] = []
        for number, item in self._prepared:
            with self.autocast():
                # Not the compiled objective: it would be compiled again for the widths of these batches.
                loss = self.objective.forward(item.to(self.parallel.device))
            weight = loss.n_targets if loss.metrics_weight is None else loss.metrics_weight
            weights = {"loss": loss.n_targets} | dict.fromkeys(loss.metrics, weight)
            means = [value.double() * weight for value in loss.metrics.values()]
            found.append((number, weights, torch.stack([loss.sum.detach().double(), *means])))
        mine = [[number, weights, values.tolist()] for number, weights, values in found]
        parts = sorted((part for rank in self.parallel.gather(mine) for part in rank), key=lambda part: part[0])
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for _, weights, values in parts:
            for (name, weight), value in zip(weights.items(), values, strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + weight
        measured = {f"valid_{name}": value / max(1, counts[name]) for name, value in sums.items()}
        directions = self.parallel.gather(None if self._heard is None else self._effective_rank(self._heard))[0]
        if measured and directions is not None:
            measured["valid_effective_rank"] = directions
        return measured

    def _effective_rank(self, batch: Batch) -> float:
        """Return how many directions the frames of the last layer use; NaN when they are not finite."""
        moved = batch.to(self.parallel.device)
        encoder = cast(SpeechEncoder, self.objective.encoder)
        with self.autocast():
            x = encoder(moved.wave, moved.lengths if batch.padded else None).x
        counts = [int(encoder.frames(samples)) for samples in batch.lengths.tolist()]
        frames = torch.cat([row[:count] for row, count in zip(x, counts, strict=True)]).float().cpu().numpy()
        return effective_rank(frames) if np.isfinite(frames).all() else math.nan

    def _prepare(self) -> list[tuple[int, Prepared]]:
        """Read this rank's micro-batches and draw their masks; those without a target are left out (a collective)."""
        own = range(self.parallel.rank, len(self._groups), self.parallel.world)
        with ThreadPoolExecutor(self.threads) as pool:
            read = list(pool.map(lambda number: self._batch(self._groups[number]), own))
        if self.parallel.first and read and (first := read[0][0]) is not None:
            rows = max(1, round(RANK_SECONDS * SAMPLE_RATE) // first.wave.shape[1])
            self._heard = replace(first, wave=first.wave[:rows], lengths=first.lengths[:rows])
        unread = self.parallel.gather([asdict(entry) for _, entries in read for entry in entries])
        if self.parallel.first:
            self.record(Entry(**fields) for part in unread for fields in part)
        prepare = self.objective.preparer(SEED)
        prepared = [(number, prepare(batch)) for number, (batch, _) in zip(own, read, strict=True) if batch is not None]
        kept = [(number, item) for number, item in prepared if item.n_targets]
        if not self.parallel.any(bool(kept)) and self.parallel.first:
            logger.warning(
                "no held-out utterance has anything to predict: there is no validation loss. The ledger lists those "
                "that could not be read; otherwise look at mask and data.min_seconds"
            )
        return kept

    def _batch(self, rows: list[int]) -> tuple[Batch | None, list[Entry]]:
        """Read one micro-batch without the rows that cannot be read, which are entries; None when no row can."""
        waves, rejected = {}, []
        for row in rows:
            name = self.corpus.row(row).id
            wave = np.empty(self._lengths[row], dtype=np.int16)
            start = self._start(row, name)
            try:
                waves[name] = start, self.corpus.read(row, start, len(wave), out=wave)
            except AudioError as error:
                rejected.append(Entry("pretrain", name, error.reason, f"held out: {error.detail}", "dropped"))
        if not waves:
            return None, rejected
        lengths = [len(wave) for _, wave in waves.values()]
        padded = np.zeros((len(waves), max(lengths)), dtype=np.int16)
        for into, (_, wave) in zip(padded, waves.values(), strict=True):
            into[: len(wave)] = wave
        starts = torch.tensor([start for start, _ in waves.values()])
        ones = torch.ones(len(waves))
        return Batch(torch.from_numpy(padded), torch.tensor(lengths), starts, ones, tuple(waves), epoch=0), rejected

    def _start(self, row: int, name: str) -> int:
        """Return the first sample of a row's crop: on the frame grid, as units ask for."""
        places = (int(self.corpus.samples[row]) - self._lengths[row]) // self.hop + 1
        return key("validation-crop", name) % places * self.hop


def _grouped(lengths: dict[int, int], samples: float) -> list[list[int]]:
    """Split rows, longest first, into groups whose padded audio stays within ``samples`` (or is one utterance)."""
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(lengths, key=lambda row: (-lengths[row], row)):
        if not groups or (len(groups[-1]) + 1) * longest > samples:
            groups.append([])
            longest = lengths[row]
        groups[-1].append(row)
    return groups
