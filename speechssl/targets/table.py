"""The units of a corpus: one discrete label for each encoder frame of each utterance, in one flat array.

In: labels by utterance, on a frame grid of ``hop`` samples. Out: slices by (id, start frame, frames), statistics, and
an ``.npz`` file (a zip, so that every array carries a checksum), written atomically. A table that was read is mapped
from its file: the processes of a machine share its pages, and memory holds what they look at.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from speechssl.core.arrays import Chunks, map_arrays, save_arrays
from speechssl.core.errors import DataError
from speechssl.data.store.identity import text_keys

__all__ = ["UnitTable", "join_tables"]

CHUNK = 1 << 24
"""Units looked at together in statistics."""


class UnitTable:
    """Units of whole utterances: for each id [frames] integers below ``n_units`` (at most 65,536), one each ``hop``."""

    def __init__(self, labels: Mapping[str, np.ndarray], *, n_units: int, hop: int) -> None:
        lengths = np.array([len(values) for values in labels.values()], dtype=np.int64)
        units = np.concatenate([*labels.values()] or [np.zeros(0)]).astype(np.uint16)
        self._path: Path | None = None
        self._arrays = _arrays(tuple(labels), lengths, n_units=n_units, hop=hop) | {"units": units}
        if n_units > 1 << 16 or (len(units) and int(units.max()) >= n_units):
            raise ValueError(f"units must be below n_units = {n_units}, and n_units at most 65,536")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __contains__(self, item: str) -> bool:
        return self._row(item) is not None

    def __getstate__(self) -> dict[str, Any]:
        """A worker process maps the file itself."""
        return {"_path": self._path} if self._path is not None else {"_path": None, "_arrays": self._arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            self._arrays = map_arrays(self._path, check=False)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of all utterances, in the order of the table."""
        text = self._arrays["ids"].tobytes().decode()
        return tuple(text.split("\n")) if text else ()

    @property
    def n_units(self) -> int:
        """Number of clusters."""
        return int(self._arrays["header"][0])

    @property
    def hop(self) -> int:
        """Samples from one unit to the next."""
        return int(self._arrays["header"][1])

    @property
    def offsets(self) -> np.ndarray:
        """[utterances + 1] int64, where the units of each utterance begin."""
        return self._arrays["offsets"]

    @property
    def units(self) -> np.ndarray:
        """[frames] uint16, units of all utterances."""
        return self._arrays["units"]

    @property
    def corpus(self) -> dict[str, np.ndarray]:
        """What the table was made from: ``keys`` and ``contents`` of utterances (data/store/identity.py); or empty."""
        return {name: self._arrays[name] for name in ("keys_used", "contents") if name in self._arrays}

    def get(self, item: str, start: int = 0, frames: int | None = None) -> np.ndarray | None:
        """Return the units of frames ``start .. start + frames`` (to the end without ``frames``), uint16.

        Fewer come back where the utterance ends before; None when the utterance has no units.
        """
        row = self._row(item)
        if row is None:
            return None
        first, end = int(self.offsets[row]) + start, int(self.offsets[row + 1])
        return np.asarray(self.units[min(first, end) : end if frames is None else min(first + frames, end)])

    def labels(self) -> dict[str, np.ndarray]:
        """Return the units of every utterance, in the order of ``ids``."""
        return {item: self.units[self.offsets[row] : self.offsets[row + 1]] for row, item in enumerate(self.ids)}

    def counts(self) -> np.ndarray:
        """Return [n_units] int64, how many frames carry each unit."""
        counts = np.zeros(self.n_units, dtype=np.int64)
        for piece in self._pieces():
            counts += np.bincount(piece, minlength=self.n_units)
        return counts

    def entropy(self) -> float:
        """Return the entropy of the units in nats: the loss of a model that knows only how frequent each is."""
        shares = self._shares
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())

    def largest_share(self) -> float:
        """Return the share of the most frequent unit: the accuracy of always guessing it."""
        return float(self._shares.max())

    def quality(self) -> dict[str, float | int]:
        """Return what tells good units from bad: dead clusters, entropy, perplexity, largest share, mean run length."""
        changes, last = 0, None
        for piece in self._pieces():
            changes += int(np.count_nonzero(piece[1:] != piece[:-1])) + (last is not None and last != piece[0])
            last = piece[-1]
        return {
            "units": self.n_units,
            "dead": int((self._shares == 0).sum()),
            "entropy": round(self.entropy(), 4),
            "perplexity": round(float(np.exp(self.entropy())), 2),
            "largest_share": round(self.largest_share(), 4),
            "frames_per_run": round(len(self.units) / (changes + 1), 2),
            "utterances": len(self),
            "frames": len(self.units),
        }

    def save(self, path: Path) -> None:
        """Write the table to ``path`` (.npz), atomically."""
        save_arrays(path, **self._arrays)

    @classmethod
    def load(cls, path: Path, *, check: bool = True) -> Self:
        """Map a table from its file; with ``check`` all of it is read against its checksums first.

        Raises DataError when the file is missing, damaged, or not a table of units.
        """
        arrays = map_arrays(path, check=check)
        known = {"ids", "offsets", "units", "header"} <= arrays.keys()
        if not known or int(arrays["offsets"][-1]) != len(arrays["units"]):
            raise _not_a_table(path)
        if "keys" not in arrays:  # written before tables were mapped
            arrays |= _index(arrays["ids"].tobytes().decode().split("\n"))
        if len(arrays["keys"]) != len(arrays["offsets"]) - 1:
            raise _not_a_table(path)
        table = cls.__new__(cls)
        table._path, table._arrays = path.absolute(), arrays
        return table

    def _row(self, item: str) -> int | None:
        keys = self._arrays["keys"]
        (wanted,) = text_keys([item])
        place = int(np.searchsorted(keys, wanted))
        return int(self._arrays["rows"][place]) if place < len(keys) and keys[place] == wanted else None

    def _pieces(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self.units), CHUNK):
            yield self.units[first : first + CHUNK]

    @cached_property
    def _shares(self) -> np.ndarray:
        """[n_units] relative frequencies (zeros for an empty table)."""
        return self.counts() / max(1, len(self.units))


def join_tables(
    parts: Sequence[Path], path: Path, *, keys_used: np.ndarray | None = None, contents: np.ndarray | None = None
) -> int:
    """Write the utterances of several tables, in order, as one; return their number.

    ``keys_used`` and ``contents`` identify the utterances that were to be labelled (data/store/identity.py), those
    included that cannot be read.
    """
    tables = [UnitTable.load(part) for part in parts]
    ids = tuple(item for table in tables for item in table.ids)
    if not ids:
        return 0
    lengths = np.concatenate([np.diff(table.offsets) for table in tables])
    arrays = _arrays(ids, lengths, n_units=tables[0].n_units, hop=tables[0].hop)
    if keys_used is not None and contents is not None:
        arrays |= {"keys_used": keys_used, "contents": contents}
    units = Chunks(int(lengths.sum()), np.uint16, (piece for table in tables for piece in table._pieces()))
    save_arrays(path, **arrays, units=units)
    return len(ids)


def _arrays(ids: Sequence[str], lengths: np.ndarray, *, n_units: int, hop: int) -> dict[str, np.ndarray]:
    return {
        "ids": np.frombuffer("\n".join(ids).encode(), dtype=np.uint8),
        "offsets": np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
        "header": np.array([n_units, hop], dtype=np.int64),
        **_index(ids),
    }


def _index(ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return digests of the ids, increasing, and the row of each: ids are found without a dictionary of them."""
    keys = text_keys(ids)
    rows = np.argsort(keys, kind="stable")
    keys = keys[rows]
    if len(keys) and bool((keys[1:] == keys[:-1]).any()):
        raise DataError("units: an id comes twice, or two ids have one digest; rename one of them")
    return {"keys": keys, "rows": rows.astype(np.uint32)}


def _not_a_table(path: Path) -> DataError:
    return DataError(f"{path}: not a table of units; delete it and run again to rebuild it")
