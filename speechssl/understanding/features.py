"""Features on the disk: parts of some minutes of audio, resumed part by part.

In: recordings and an extractor. Out: a folder with ``features.json`` (what it holds), ``part-00000.safetensors`` (or
npz) with an array for each utterance id, and ``ledger.jsonl``. ``Features`` reads it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from speechssl.config import FeaturesConfig
from speechssl.config.understanding import Pool
from speechssl.core.arrays import map_arrays, save_arrays
from speechssl.core.errors import AudioError, ConfigError, DataError
from speechssl.core.files import find_json, write_atomic, write_json
from speechssl.core.ledger import Entry, Ledger
from speechssl.core.progress import progress
from speechssl.core.tolerance import Tolerance
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.targets.audio import Read, Recordings, group_rows, read_ahead
from speechssl.understanding.extractors import Extractor, open_extractor
from speechssl.understanding.recordings import open_recordings, read_ids

__all__ = ["Features", "compute_features", "each_batch", "pooled", "write_features"]

INDEX = "features.json"
Result_co = TypeVar("Result_co", covariant=True)


class _Computed(Protocol[Result_co]):
    """An extractor, or what makes something else of each waveform."""

    receptive: int

    def __call__(self, waves: Sequence[np.ndarray], /) -> Sequence[Result_co]: ...


def pooled(frames: Tensor, pool: Pool) -> Tensor:
    """Return [layers, dim] (mean), [layers, 2 dim] (mean and deviation) or the frames [layers, frames, dim]."""
    if pool == "none":
        return frames
    mean = frames.mean(dim=1)
    return mean if pool == "mean" else torch.cat([mean, frames.std(dim=1, correction=0)], dim=1)


def each_batch(
    recordings: Recordings, groups: Sequence[list[int]], extractor: _Computed[Result_co], *, stage: str
) -> Iterator[tuple[list[tuple[str, Result_co]], list[Entry]]]:
    """Yield (id, what the extractor gives) of a group of rows at a time, and an entry for each that has no frames."""

    def as_read(read: Read) -> Read:
        return read

    for read in read_ahead(recordings, groups, 2, as_read):
        bad, good = [], []
        for item, wave in read:
            if isinstance(wave, AudioError):
                bad.append(Entry(stage, item, wave.reason, wave.detail))
            elif len(wave) < extractor.receptive:
                needed = f"{len(wave)} samples at 16 kHz; a frame needs {extractor.receptive}"
                bad.append(Entry(stage, item, "too_short", needed))
            else:
                good.append((item, wave))
        found = extractor([wave for _, wave in good]) if good else []
        yield [(item, frames) for (item, _), frames in zip(good, found, strict=True)], bad


class Features:
    """The features of a folder, by utterance id; arrays are mapped from the files.

    Raises DataError when the folder is not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = find_json(folder / INDEX)
        if not isinstance(found, dict) or not found.get("whole"):
            raise DataError(
                f"{folder}: no whole features; run `speechssl features` again, which goes on where it ended"
            )
        self.info: dict[str, Any] = found
        self.layers: tuple[int, ...] = tuple(found["layers"])
        self.hop = int(found["hop"])

    @cached_property
    def _parts(self) -> list[Any]:
        return [_open_part(self.folder / name) for name in self.info["parts"]]

    @cached_property
    def _part_of(self) -> dict[str, Any]:
        return {item: part for part in self._parts for item in part.keys()}  # noqa: SIM118

    @property
    def ids(self) -> list[str]:
        """Ids of all utterances, shortest first."""
        return list(self._part_of)

    def __contains__(self, item: object) -> bool:
        return item in self._part_of

    def __getitem__(self, item: str) -> Tensor:
        """Return [layers, frames, dim], or [layers, dim] of pooled features."""
        part = self._part_of[item]
        return torch.from_numpy(np.array(part[item])) if isinstance(part, dict) else part.get_tensor(item)

    def layer(self, item: str, place: int) -> Tensor:
        """Return [frames, dim] of one layer, the one at ``place`` in ``layers``; only its bytes are read."""
        part = self._part_of[item]
        if isinstance(part, dict):
            return torch.from_numpy(np.array(part[item][place]))
        found: Tensor = part.get_slice(item)[place]
        return found


def _open_part(path: Path) -> Any:
    if path.suffix == ".npz":
        return map_arrays(path)
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: damaged ({error}); delete {path.parent} and run again") from error


def compute_features(
    recordings: Recordings, extractor: Extractor, folder: Path, cfg: FeaturesConfig, *, stage: str = "features"
) -> Features:
    """Write features of all recordings; parts that are there already are kept.

    Raises
    ------
    ConfigError
        The folder holds features of another model, other settings or other utterances.
    DataError
        Too many utterances cannot be read.
    """
    digest = hashlib.blake2b("\n".join(recordings.ids).encode() + recordings.samples.tobytes(), digest_size=16)
    meaning = {
        "model": extractor.name, "identity": extractor.identity, "layers": list(extractor.layers),
        "hop": extractor.hop, "receptive": extractor.receptive, "dim": extractor.dim, "sample_rate": SAMPLE_RATE,
        "pool": cfg.pool, "dtype": cfg.dtype, "format": cfg.format, "batch_seconds": cfg.batch_seconds,
        "part_seconds": cfg.part_seconds, "utterances": digest.hexdigest(),
    }  # fmt: skip
    there = find_json(folder / INDEX)
    if isinstance(there, dict):
        if differs := [name for name, value in meaning.items() if there.get(name) != value]:
            raise ConfigError(
                f"{folder} holds features of another {', '.join(differs)}: give another folder, or delete it"
            )
        if there.get("whole"):
            return Features(folder)
    write_json(folder / INDEX, meaning)
    parts = _parts(recordings, cfg)
    names = [f"part-{number:05d}.{cfg.format}" for number in range(len(parts))]
    ledger, tolerance = Ledger(folder / "ledger.jsonl"), Tolerance(cfg.max_bad_fraction, what=f"features of {folder}")
    with progress(stage, unit="parts") as advance:
        for number, (name, groups) in enumerate(zip(names, parts, strict=True)):
            if not (folder / name).exists():
                read = each_batch(recordings, groups, extractor, stage=stage)
                arrays, bad = _part(read, extractor.name, cfg, tolerance)
                _save(folder / name, arrays)
                ledger.extend(bad)
            advance(number + 1, len(parts))
    tolerance.finish()
    write_json(folder / INDEX, meaning | {"parts": names, "whole": True})
    return Features(folder)


def _parts(recordings: Recordings, cfg: FeaturesConfig) -> list[list[list[int]]]:
    """Divide the rows, shortest first, into parts of groups."""
    parts: list[list[list[int]]] = [[]]
    samples = 0
    for group in group_rows(recordings, range(len(recordings.ids)), cfg.batch_seconds):
        if samples >= cfg.part_seconds * SAMPLE_RATE:
            parts.append([])
            samples = 0
        parts[-1].append(group)
        samples += int(recordings.samples[group].sum())
    return parts


def _part(
    batches: Iterator[tuple[list[tuple[str, Tensor]], list[Entry]]],
    name: str,
    cfg: FeaturesConfig,
    tolerance: Tolerance,
) -> tuple[dict[str, Tensor], list[Entry]]:
    arrays: dict[str, Tensor] = {}
    entries: list[Entry] = []
    for found, bad in batches:
        for item, frames in found:
            value = pooled(frames, cfg.pool).to(getattr(torch, cfg.dtype))
            if not bool(value.isfinite().all()):
                advice = "use --dtype float32" if cfg.dtype == "float16" else "the model has diverged"
                raise DataError(f"{item}: features of {name} are not finite in {cfg.dtype}; {advice}")
            arrays[item] = value.contiguous()
        tolerance.good(len(found))
        for entry in bad:
            entries.append(entry)
            tolerance.bad(entry.reason)
    return arrays, entries


def _save(path: Path, arrays: dict[str, Tensor]) -> None:
    if path.suffix == ".npz":
        save_arrays(path, **{item: value.numpy() for item, value in arrays.items()})
        return
    from safetensors.torch import save

    write_atomic(path, save(arrays))


def write_features(model: str, place: str, folder: Path, cfg: FeaturesConfig) -> Features:
    """Write the features of a manifest or of shards; as :func:`compute_features`."""
    recordings, _ = open_recordings(place, splits=cfg.splits, ids=read_ids(cfg.ids) if cfg.ids else None)
    extractor = open_extractor(model, layers=cfg.layers, stack=cfg.stack, seed=cfg.seed, device=cfg.device)
    return compute_features(recordings, extractor, folder, cfg)
