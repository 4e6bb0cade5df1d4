"""The batch: what the data side hands to an objective. One frozen record of tensors, moved to a device in one call."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from speechssl.data.ledger import Entry

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of utterances (or crops of them), all rows in the order of ``ids``."""

    wave: Tensor
    """[B, T] float32 samples at 16 kHz, zero after each row's length."""
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
        return float((self.lengths.float() * self.weights).sum()) / 16_000

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)
