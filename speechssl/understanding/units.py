"""Units of any layer of any model: fitted or loaded, written for people and for training, compared with phones.

In: a model, a manifest or shards. Out: ``kmeans.npz``, ``units.npz`` (which pretraining takes as ``units``),
``units.jsonl``, ``quality.json``, ``ledger.jsonl``.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.config import UnitsConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import atomic_file, write_json
from speechssl.core.ledger import Ledger
from speechssl.core.progress import progress
from speechssl.core.randomness import generator, key
from speechssl.core.tolerance import Tolerance
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.targets.audio import Recordings, group_rows
from speechssl.targets.fit import SAMPLE_BYTES
from speechssl.targets.kmeans import KMeans, fit_kmeans
from speechssl.targets.table import UnitTable
from speechssl.understanding.alignment import alignment_of, frame_labels
from speechssl.understanding.extractors import BASELINES, Extractor, open_extractor
from speechssl.understanding.features import each_batch
from speechssl.understanding.recordings import open_recordings, read_ids
from speechssl.understanding.unit_quality import against_phones, code_quality, contingency, runs

__all__ = ["UnitsResult", "make_model_units"]


@dataclass(frozen=True)
class UnitsResult:
    """Units and what is known about them."""

    model: str
    layer: int
    quality: list[dict[str, Any]]
    """Of each seed, the first being that of the written units."""
    counts: np.ndarray | None
    """[phones, units] frames of the written units; None without an alignment."""
    phones: list[str]


def make_model_units(model: str, place: str, output: Path, cfg: UnitsConfig) -> UnitsResult:
    """Cluster the frames of a layer, label all utterances, and write the files.

    Raises
    ------
    ConfigError
        The layer is not there, or a k-means file belongs to features of another width.
    DataError
        Too many utterances cannot be read, there are too few frames, or the alignment fits no utterance.
    """
    recordings, _ = open_recordings(place, splits=cfg.splits, ids=read_ids(cfg.ids) if cfg.ids else None)
    alignment = alignment_of(recordings.ids, cfg.alignment, place) if cfg.alignment else None
    layers = (cfg.layer,) if cfg.layer >= 0 and model not in BASELINES else ()
    extractor = open_extractor(model, layers=layers, stack=cfg.stack, device=cfg.device)
    fits = _fits(recordings, extractor, cfg)
    tables, grid = _label(recordings, extractor, fits, output, cfg)
    seconds = sum(len(own) for own in tables[0].values()) * extractor.hop / SAMPLE_RATE
    quality: list[dict[str, Any]] = []
    counts: np.ndarray | None = None
    names: list[str] = []
    for number, (kmeans, units) in enumerate(zip(fits, tables, strict=True)):
        seed = None if cfg.kmeans else cfg.seeds[number]
        found: dict[str, Any] = {"seed": seed, "units": len(kmeans), **code_quality(units, len(kmeans), seconds)}
        if alignment is not None:
            phones = {
                item: frame_labels(alignment[item], len(own), **grid)
                for item, own in units.items()
                if item in alignment
            }
            own_counts, own_names = contingency(units, phones, len(kmeans))
            if not own_counts.sum():
                raise DataError(f"{cfg.alignment}: none of its intervals lies on a frame of these utterances")
            found |= against_phones(own_counts) | {"aligned_frames": int(own_counts.sum())}
            if number == 0:
                counts, names = own_counts, own_names
        quality.append(found)
    fits[0].save(output / "kmeans.npz")
    UnitTable(tables[0], n_units=len(fits[0]), hop=extractor.hop).save(output / "units.npz")
    with atomic_file(output / "units.jsonl") as file:
        file.writelines(_lines(tables[0], **grid))
    about = {"model": model, "layer": extractor.layers[-1], "identity": extractor.identity, "settings": asdict(cfg)}
    write_json(output / "quality.json", about | {"quality": quality})
    return UnitsResult(model, extractor.layers[-1], quality, counts, names)


def _fits(recordings: Recordings, extractor: Extractor, cfg: UnitsConfig) -> list[KMeans]:
    """Return the k-means of each seed, on the same audio, or the one that was given."""
    if cfg.kmeans:
        kmeans = KMeans.load(Path(cfg.kmeans))
        if kmeans.centroids.shape[1] != extractor.dim:
            raise ConfigError(
                f"{cfg.kmeans} has {kmeans.centroids.shape[1]} dimensions, {extractor.name} {extractor.dim}"
            )
        return [kmeans]
    order = sorted(range(len(recordings.ids)), key=lambda row: key("units", recordings.ids[row]))
    ends = np.cumsum(recordings.samples[order])
    drawn = order[: int(np.searchsorted(ends, cfg.hours * 3600 * SAMPLE_RATE)) + 1]
    frames = sum(int(recordings.samples[row]) // extractor.hop for row in drawn)
    share = min(1.0, SAMPLE_BYTES / max(1, frames * extractor.dim * 4))
    kept: list[np.ndarray] = []
    for found, _ in each_batch(recordings, group_rows(recordings, drawn, cfg.batch_seconds), extractor, stage="units"):
        for item, x in found:
            chosen = generator("units-frames", item).random(x.shape[1]) < share
            kept.append(x[-1].numpy()[chosen] if share < 1 else x[-1].numpy())
    points = np.concatenate(kept) if kept else np.zeros((0, extractor.dim), dtype=np.float32)
    return [
        fit_kmeans(points, cfg.clusters, seed=key("units", seed) % (1 << 32), starts=cfg.starts) for seed in cfg.seeds
    ]


def _label(
    recordings: Recordings, extractor: Extractor, fits: list[KMeans], output: Path, cfg: UnitsConfig
) -> tuple[list[dict[str, np.ndarray]], dict[str, int]]:
    """Return the units of each k-means by utterance, in the order of the data."""
    ledger = Ledger(output / "ledger.jsonl", fresh=True)
    tolerance = Tolerance(cfg.max_bad_fraction, what="units")
    tables: list[dict[str, np.ndarray]] = [{} for _ in fits]
    groups = group_rows(recordings, range(len(recordings.ids)), cfg.batch_seconds)
    with progress("units", unit="groups") as advance:
        for number, (found, bad) in enumerate(each_batch(recordings, groups, extractor, stage="units")):
            for item, x in found:
                for kmeans, table in zip(fits, tables, strict=True):
                    table[item] = kmeans.assign(x[-1].to(torch.float32)).numpy()
            tolerance.good(len(found))
            ledger.extend(bad)
            for entry in bad:
                tolerance.bad(entry.reason)
            advance(number + 1, len(groups))
    tolerance.finish()
    ordered = [{item: table[item] for item in recordings.ids if item in table} for table in tables]
    return ordered, {"hop": extractor.hop, "receptive": extractor.receptive}


def _lines(units: dict[str, np.ndarray], *, hop: int, receptive: int) -> Iterator[bytes]:
    """Yield a JSON line for each utterance: its units, and its runs with start and end in seconds.

    Frame f stands for the ``hop`` samples around its centre.
    """
    shift = (receptive - hop) / 2
    for item, own in units.items():
        times = [
            (
                unit,
                round((first * hop + shift) / SAMPLE_RATE, 4),
                round(((first + length) * hop + shift) / SAMPLE_RATE, 4),
            )
            for unit, first, length in runs(own.tolist())
        ]
        yield (json.dumps({"id": item, "hop": hop, "units": own.tolist(), "runs": times}) + "\n").encode()
