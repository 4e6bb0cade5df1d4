"""The batch: what the data side reads, and what an objective's preparer makes of it. Frozen records of tensors.

In: samples of utterances. Out: records that are moved to a device in one call.

Samples stay the 16-bit integers that the shards hold until they are on the device: half the bytes to build, to pass
between processes and to copy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Batch", "BatchSummary", "Prepared", "batch_of", "each_tensor", "full_scale", "with_tensors"]

Record = TypeVar("Record")

FULL_SCALE = 32768


@dataclass(frozen=True)
class BatchSummary:
    """What the loop keeps of a micro-batch after its tensors are released."""

    ids: tuple[str, ...]
    seconds: float
    """Useful audio."""
    rejected: tuple[Entry, ...]
    """Rows that were replaced by silence."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of utterances (or crops of them), all rows in the order of ``ids``."""

    wave: Tensor
    """[B, T] samples at 16 kHz, zero after each row's length: int16 as they come from the loader; float32 with full
    scale 1 when they were augmented, and in any case after ``to``. Models and objectives see float32."""
    lengths: Tensor
    """[B] int64, valid samples in each row."""
    starts: Tensor
    """[B] int64, first sample of the crop within its utterance (0 when uncropped)."""
    weights: Tensor
    """[B] float32: 1, or 0 for a silent stand-in row whose audio could not be read (its loss must not count)."""
    ids: tuple[str, ...]
    epoch: int
    texts: tuple[str | None, ...] = ()
    """Transcripts as in the manifest; empty in pretraining."""
    targets: Tensor | None = None
    """[B, U] int64 token ids, 0 after each row's target length; fine-tuning only."""
    target_lengths: Tensor | None = None
    """[B] int64."""
    rejected: tuple[Entry, ...] = ()
    """Rows that were replaced by silence, with the reason; the loop writes them to the ledger."""

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the batch (then, and only then, masks are needed)."""
        return bool((self.lengths < self.wave.shape[1]).any())

    @property
    def seconds(self) -> float:
        """Useful audio in the batch, in seconds."""
        return float((self.lengths.float() * self.weights).sum()) / SAMPLE_RATE

    def summary(self) -> BatchSummary:
        """Return what the loop keeps of a CPU batch."""
        return BatchSummary(self.ids, self.seconds, self.rejected)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with every tensor on ``device``, the samples as float32 (converted there)."""
        moved = with_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, wave=full_scale(moved.wave))


@dataclass(frozen=True)
class Prepared:
    """A batch with everything random already drawn. Objectives subclass it and add tensors, or records of tensors."""

    batch: Batch
    n_targets: int

    def to(self, device: torch.device | str) -> Self:
        """Return a copy with every tensor, and the batch, on ``device``."""
        moved = with_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, batch=replace(moved.batch, wave=full_scale(moved.batch.wave)))


def with_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """Return a copy of a record with every tensor changed, of the records in it too."""
    changed: dict[str, Any] = {}
    for item in fields(record):  # type: ignore[arg-type]
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            changed[item.name] = change(value)
        elif is_dataclass(value) and not isinstance(value, type):
            changed[item.name] = with_tensors(value, change)
    return replace(record, **changed)  # type: ignore[type-var]


def each_tensor(record: Any) -> Iterator[Tensor]:
    """Yield every tensor of a record and of the records in it."""
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value) and not isinstance(value, type):
            yield from each_tensor(value)


def batch_of(item: Batch | Prepared) -> Batch:
    """Return the batch itself of what a loader gives, prepared or not."""
    return item.batch if isinstance(item, Prepared) else item


def full_scale(wave: Tensor) -> Tensor:
    """Return int16 samples as float32 with full scale 1, exactly, on the device where they are; others unchanged."""
    return wave.float().mul_(1 / FULL_SCALE) if wave.dtype == torch.int16 else wave
