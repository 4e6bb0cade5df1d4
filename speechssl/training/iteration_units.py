"""The units of one iteration: rank 0 fits the k-means, every rank labels its share of the corpus.

In: the configuration, a corpus, and the model whose layer is clustered (none for MFCC). Out: the table of units, from
``units/`` in the iteration's run folder when it is there already.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from speechssl.config import PretrainConfig, TargetsConfig
from speechssl.core.errors import DataError, InterruptedRun, RunError
from speechssl.core.files import write_atomic
from speechssl.core.precision import uses_bf16
from speechssl.core.randomness import key
from speechssl.data.store.reader import Corpus
from speechssl.interop.any_model import load_any_encoder
from speechssl.models.encoder import SpeechEncoder
from speechssl.targets.features import LayerFeatures, MfccFeatures, NormalisedFeatures, UnitFeatures
from speechssl.targets.source import Share, Source, corpus_change
from speechssl.targets.table import UnitTable
from speechssl.targets.units import make_units
from speechssl.training.interrupt import Interrupt
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import RunFolder
from speechssl.training.targets import check_grid, place_clusters

__all__ = ["iteration_units"]

POLL_SECONDS = 0.5


def iteration_units(
    cfg: PretrainConfig,
    targets: TargetsConfig,
    index: int,
    *,
    corpus: Corpus,
    rows: list[int],
    held: list[int],
    encoder: SpeechEncoder,
    teacher: Path | None,
    layer: int,
    run: RunFolder,
    parallel: Parallel,
) -> UnitTable:
    """Return the units that an iteration predicts.

    Parameters
    ----------
    targets
        How they are made.
    index
        Iteration, counted from 0.
    rows
        Utterances to train on.
    held
        Held-out utterances: labelled too, but the k-means is not fitted on them.
    encoder
        The encoder that will be trained on them: its frame grid counts.
    teacher, layer
        Model whose layer is clustered; layer 0 for MFCC.

    Raises
    ------
    ConfigError
        The teacher has another frame grid.
    DataError
        Units cannot be made (targets/units.py).
    RunError
        A rank could not make its part of them, or those in the run folder are of another corpus.
    InterruptedRun
        A signal asked the run to stop. What is finished is kept: the clusters, and whole parts of the labels.
    """
    folder = run.path / "units"
    if parallel.first:
        for left in folder.glob("failed*"):
            left.unlink()
    features = _features(cfg, encoder, teacher, layer, parallel)
    if targets.units_normalise:
        features = NormalisedFeatures(features)
    source = Source(corpus, features, sorted([*rows, *held]), frozenset(held))
    if problem := parallel.gather(_stale(folder / "units.npz", source, run) if parallel.first else "")[0]:
        raise RunError(problem)
    stopped = InterruptedRun(f"stopped while units were made in {folder}; run the same command again to go on")
    with Interrupt("this group of utterances or step of k-means") as interrupt:

        def check() -> None:
            if interrupt.requested:
                raise stopped

        share = Share(parallel.rank, parallel.world, lambda path: _wait(path, folder, check))
        try:
            if parallel.first and index == 0:
                place_clusters(targets, folder, features)
            table = _make(cfg, targets, index, source=replace(source, check=check), run=run, share=share)
        except BaseException as error:
            write_atomic(folder / f"failed-{parallel.rank}", str(error) or type(error).__name__)
            raise
        if parallel.any(interrupt.requested):
            raise stopped
    return table


def _stale(path: Path, source: Source, run: RunFolder) -> str:
    """Return what is wrong with a table that is there already; where changes are allowed, remove it instead."""
    if not path.exists():
        return ""
    try:
        found = corpus_change(UnitTable.load(path, check=False), source)
    except DataError as error:
        return str(error)
    if not found:
        return ""
    if run.allow_changes:
        path.unlink()
        return ""
    return (
        f"{path} was made from another corpus: {found}. Give it the corpus it had, choose another output folder, or "
        "label this one by --allow-changes"
    )


def _wait(path: Path, folder: Path, check: Callable[[], None]) -> None:
    """Return once a file of another rank is there, or raise what that rank failed with.

    Labelling may take longer than a collective is allowed to, so the ranks look for files.
    """
    while not path.exists():
        check()
        for failed in folder.glob("failed-*"):
            rank = failed.name.removeprefix("failed-")
            raise RunError(f"rank {rank} could not make the units: {failed.read_text(encoding='utf-8')}")
        time.sleep(POLL_SECONDS)


def _make(
    cfg: PretrainConfig, targets: TargetsConfig, index: int, *, source: Source, run: RunFolder, share: Share
) -> UnitTable:
    start, missing = time.monotonic(), not (run.path / "units" / "units.npz").exists()
    try:
        table = make_units(
            replace(source, batch_seconds=cfg.data.batch_seconds, threads=max(1, cfg.data.workers)),
            run.path / "units",
            clusters=targets.clusters[index],
            hours=targets.kmeans_hours,
            starts=targets.kmeans_starts,
            seed=key("units", cfg.seed, index),
            max_bad_fraction=cfg.data.max_bad_fraction,
            record=run.record,
            share=share,
        )
    finally:
        if missing:  # also of an attempt that was interrupted: their sum is what the units cost
            run.metrics.append(0, "targets", {"seconds": round(time.monotonic() - start, 3)})
    if not share.first:
        return table
    quality = table.quality()
    print(
        f"units: {quality['units']} from {source.features.name}, {quality['dead']} dead, "
        f"perplexity {quality['perplexity']:.0f}, {quality['frames_per_run']:.1f} frames a run, "
        f"{time.monotonic() - start:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return table


def _features(
    cfg: PretrainConfig, encoder: SpeechEncoder, teacher: Path | None, layer: int, parallel: Parallel
) -> UnitFeatures:
    if layer == 0 or teacher is None:
        return MfccFeatures(encoder)
    model = load_any_encoder(teacher)
    check_grid(teacher, model.hop, encoder.hop)
    bf16 = uses_bf16(cfg.training.precision, parallel.device.type)
    return LayerFeatures(model, layer, device=parallel.device, bf16=bf16)
