"""Some frames of a padded batch: where they lie, how to take them out, and how to lay them back in rows.

In: a bool array [B, F]. Out: a `FrameSelection` of its N true places, row by row.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["FrameSelection"]


@dataclass(frozen=True)
class FrameSelection:
    """N frames of a batch of B rows and F frames; W is their number in the row that has most."""

    frames: Tensor
    """[N] int64, the frames as positions in ``[B * F]``, row by row."""
    counts: Tensor
    """[B] int64, selected frames in each row (they sum to N)."""
    positions: Tensor
    """[B, W] int64, the same frames row by row, counted within the row and padded with 0: what
    ``SpeechEncoder.forward`` computes its last block for."""
    slots: Tensor
    """[N] int64, places of the N frames in ``[B * W]``."""

    @classmethod
    def of(cls, selected: np.ndarray) -> Self:
        """Return the selection of the true places of a bool array [B, F]."""
        rows, columns = np.nonzero(selected)
        counts = selected.sum(axis=1)
        width = int(counts.max(initial=0))
        places = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.zeros(0, dtype=np.int64)
        slots = rows * width + places
        positions = np.zeros(len(selected) * width, dtype=np.int64)
        positions[slots] = columns
        return cls(
            frames=torch.from_numpy(rows * selected.shape[1] + columns),
            counts=torch.from_numpy(counts),
            positions=torch.from_numpy(positions.reshape(len(selected), width)),
            slots=torch.from_numpy(slots),
        )

    # Sizes are read off a tensor: as plain numbers they would be constants of a compiled graph, one graph a batch.
    @property
    def rows(self) -> int:
        """B."""
        return self.positions.shape[0]

    @property
    def width(self) -> int:
        """W."""
        return self.positions.shape[1]

    def __len__(self) -> int:
        """Return N."""
        return len(self.frames)

    def pick(self, x: Tensor) -> Tensor:
        """[B, F, ...] -> [N, ...]: the selected frames out of all frames."""
        return x.flatten(0, 1).index_select(0, self.frames)

    def spread(self, x: Tensor) -> Tensor:
        """[N, ...] -> [B, W, ...]: each row's frames side by side, zeros in unused places."""
        placed = x.new_zeros((self.rows * self.width, *x.shape[1:])).index_copy(0, self.slots, x)
        return placed.view(self.rows, self.width, *x.shape[1:])

    def gather(self, x: Tensor) -> Tensor:
        """[B, W, ...] -> [N, ...]: what ``spread`` has laid out, or the encoder at ``positions``."""
        return x.flatten(0, 1).index_select(0, self.slots)
