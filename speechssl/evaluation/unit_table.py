"""The units of a corpus: one discrete label for each encoder frame of each utterance, in one flat array.

In: labels by utterance, on a frame grid of ``hop`` samples. Out: slices by (id, start frame, frames), statistics, and
an ``.npz`` file (a zip, so that every array carries a checksum), written atomically.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from speechssl.core.arrays import load_arrays, save_arrays
from speechssl.errors import DataError

__all__ = ["UnitTable", "load_arrays", "save_arrays"]


class UnitTable:
    """Units of whole utterances.

    Parameters
    ----------
    labels
        [frames] integers below ``n_units`` for each utterance id.
    n_units
        Number of clusters, at most 65,536.
    hop
        Samples (at 16 kHz) from one unit to the next.
    """

    def __init__(self, labels: Mapping[str, np.ndarray], *, n_units: int, hop: int) -> None:
        self.n_units = n_units
        self.hop = hop
        self.ids = tuple(labels)
        lengths = np.array([len(labels[item]) for item in self.ids], dtype=np.int64)
        self.offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        self.units = np.concatenate([labels[item] for item in self.ids] or [np.zeros(0)]).astype(np.uint16)
        self._row = {item: row for row, item in enumerate(self.ids)}
        if n_units > 1 << 16 or (len(self.units) and int(self.units.max()) >= n_units):
            raise ValueError(f"units must be below n_units = {n_units}, and n_units at most 65,536")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item: str) -> bool:
        return item in self._row

    def get(self, item: str, start: int = 0, frames: int | None = None) -> np.ndarray | None:
        """Return the units of frames ``start .. start + frames`` (to the end without ``frames``), uint16.

        Fewer come back where the utterance ends before; None when the utterance has no units.
        """
        row = self._row.get(item)
        if row is None:
            return None
        first, end = int(self.offsets[row]) + start, int(self.offsets[row + 1])
        return self.units[min(first, end) : end if frames is None else min(first + frames, end)]

    def labels(self) -> dict[str, np.ndarray]:
        """Return the units of every utterance, in the order of ``ids``."""
        return {item: self.units[self.offsets[row] : self.offsets[row + 1]] for row, item in enumerate(self.ids)}

    def counts(self) -> np.ndarray:
        """Return [n_units] int64, how many frames carry each unit."""
        return np.bincount(self.units, minlength=self.n_units)

    def entropy(self) -> float:
        """Return the entropy of the units in nats: the loss of a model that knows only how frequent each is."""
        shares = self._shares()
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())

    def largest_share(self) -> float:
        """Return the share of the most frequent unit: the accuracy of always guessing it."""
        return float(self._shares().max())

    def quality(self) -> dict[str, float | int]:
        """Return what tells good units from bad: dead clusters, entropy, perplexity, largest share, mean run length."""
        changes = int(np.count_nonzero(np.diff(self.units.astype(np.int64))))
        return {
            "units": self.n_units,
            "dead": int((self.counts() == 0).sum()),
            "entropy": round(self.entropy(), 4),
            "perplexity": round(float(np.exp(self.entropy())), 2),
            "largest_share": round(self.largest_share(), 4),
            "frames_per_run": round(len(self.units) / (changes + 1), 2),
            "utterances": len(self),
            "frames": len(self.units),
        }

    def save(self, path: Path) -> None:
        """Write the table to ``path`` (.npz), atomically."""
        save_arrays(
            path,
            ids=np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8),
            offsets=self.offsets,
            units=self.units,
            header=np.array([self.n_units, self.hop], dtype=np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a table.

        Raises
        ------
        DataError
            When the file is missing, damaged, or not a table of units.
        """
        arrays = load_arrays(path, {"ids", "offsets", "units", "header"})
        text = arrays["ids"].tobytes().decode()
        ids = text.split("\n") if text else []
        offsets, units = arrays["offsets"], arrays["units"]
        if len(offsets) != len(ids) + 1 or int(offsets[-1]) != len(units):
            raise DataError(f"{path}: not a table of units; delete it and run again to make it anew")
        n_units, hop = (int(value) for value in arrays["header"])
        labels = {item: units[offsets[row] : offsets[row + 1]] for row, item in enumerate(ids)}
        return cls(labels, n_units=n_units, hop=hop)

    def _shares(self) -> np.ndarray:
        """[n_units] relative frequencies (zeros for an empty table)."""
        return self.counts() / max(1, len(self.units))
