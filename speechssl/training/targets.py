"""What the first iteration learns from when that is no k-means of MFCC: a teacher, or units made elsewhere.

In: the configuration, and a corpus for the units. Out: an error before anything is made, or the units of a file,
checked and kept in the run folder.
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from speechssl.config import PretrainConfig, TargetsConfig
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import write_json
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.store.reader import Corpus
from speechssl.interop.any_model import load_any_encoder
from speechssl.models.frame_counts import frame_grid
from speechssl.targets.features import UnitFeatures
from speechssl.targets.files import fit_units, read_unit_file
from speechssl.targets.kmeans import KMeans
from speechssl.targets.table import UnitTable
from speechssl.targets.units import units_identity
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import RunFolder

__all__ = ["check_grid", "check_targets", "given_units", "place_clusters"]


def check_grid(teacher: Path, hop: int, wanted: int) -> None:
    """Raise ConfigError unless a teacher's frames lie as far apart as those of the model that learns from it."""
    if hop != wanted:
        raise ConfigError(
            f"{teacher}: its frames lie {hop} samples apart, those of the new model {wanted}: units would not fit. "
            "Take a teacher with the same hop, or change the stem of [model]"
        )


def check_targets(cfg: PretrainConfig) -> None:
    """Check, before anything is made, what the first iteration learns from.

    Raises
    ------
    ConfigError
        The settings contradict each other, or the teacher has not that layer or another frame grid.
    DataError
        The file of units is not there.
    CheckpointError
        The teacher cannot be read.
    """
    targets = offline_targets(cfg.objective)
    if targets is None:
        return
    teacher = targets.teacher
    if teacher.kmeans and not Path(teacher.kmeans).is_file():
        raise DataError(
            f"objective.targets.teacher.kmeans = {teacher.kmeans}: no such file; it is units/kmeans.npz of a "
            "run's iteration"
        )
    if targets.units:
        if teacher.model or teacher.kmeans:
            raise ConfigError("units and teacher both say what the first iteration learns from: give one of them")
        if not Path(targets.units).is_file():
            raise DataError(f"objective.targets.units = {targets.units}: no such file")
        return
    if not teacher.model:
        if teacher.layer:
            raise ConfigError(
                f"objective.targets.teacher.layer = {teacher.layer}, but teacher.model is empty: give "
                "--objective.targets.teacher.model FOLDER (for a LARGE model a BASE one), or units made elsewhere "
                "(--objective.targets.units FILE), or teacher.layer = 0 for MFCC"
            )
        return
    model = load_any_encoder(Path(teacher.model))
    layers = model.cfg.encoder.layers
    if not 1 <= teacher.layer <= layers:
        raise ConfigError(
            f"objective.targets.teacher.layer = {teacher.layer}: {teacher.model} has layers 1 to {layers}"
        )
    check_grid(Path(teacher.model), model.hop, frame_grid(cfg.model.frontend).hop)


def place_clusters(targets: TargetsConfig, folder: Path, features: UnitFeatures) -> None:
    """Put the clusters of an earlier run (``teacher.kmeans``) where those of the first iteration would be fitted.

    Raises
    ------
    ConfigError
        There are not ``clusters[0]`` of them, or they lie among features of another size.
    DataError
        The file is missing or damaged.
    """
    target = folder / "kmeans.npz"
    if not targets.teacher.kmeans or target.exists():
        return
    kmeans = KMeans.load(Path(targets.teacher.kmeans))
    clusters, dim = kmeans.centroids.shape
    if (clusters, dim) != (targets.clusters[0], features.dim):
        raise ConfigError(
            f"{targets.teacher.kmeans}: {clusters} clusters of {dim} dimensions, but objective.targets.clusters[0] = "
            f"{targets.clusters[0]} and the features ({features.name}) have {features.dim}"
        )
    kmeans.save(target)


def given_units(
    cfg: PretrainConfig, targets: TargetsConfig, *, corpus: Corpus, run: RunFolder, parallel: Parallel
) -> UnitTable:
    """Return the units of ``targets.units`` on the encoder's frames, checked and kept in ``units/`` (a collective).

    Raises DataError when rank 0 cannot use the file, or it has changed since it was kept; every rank raises it.
    """
    folder, problem = run.path / "units", ""
    if parallel.first:
        try:
            _keep_given(cfg, targets, corpus, folder, run)
        except (ConfigError, DataError) as error:
            problem = str(error)
    if problem := parallel.gather(problem)[0]:
        raise DataError(problem)
    return UnitTable.load(folder / "units.npz")


def _keep_given(cfg: PretrainConfig, targets: TargetsConfig, corpus: Corpus, folder: Path, run: RunFolder) -> None:
    source, grid = Path(targets.units), frame_grid(cfg.model.frontend)
    with source.open("rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()
    if (folder / "units.npz").exists():
        if units_identity(folder) != identity:
            raise DataError(
                f"{source} is not the file that {folder} was made from: give that one, or choose another output folder"
            )
        return
    shortest = max(round(cfg.data.min_seconds * SAMPLE_RATE), grid.receptive)
    table, entries = fit_units(
        read_unit_file(source),
        corpus,
        np.flatnonzero(corpus.samples >= shortest).tolist(),
        hop=grid.hop,
        given_hop=targets.units_hop,
        frames=grid.frames,
        clusters=targets.clusters[0],
        max_bad_fraction=cfg.data.max_bad_fraction,
    )
    run.record(entries)
    quality = {"features": f"file {source.name}", "hop": grid.hop, "identity": identity, **table.quality()}
    write_json(folder / "units.json", quality)
    table.save(folder / "units.npz")
    left_out = ", ".join(f"{count} {reason}" for reason, count in Counter(entry.reason for entry in entries).items())
    print(
        f"units: {len(table):,} utterances from {source}, perplexity {quality['perplexity']:.0f}"
        + (f"; left out: {left_out}" if left_out else ""),
        file=sys.stderr,
        flush=True,
    )
