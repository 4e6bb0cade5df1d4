"""The units of one HuBERT iteration: made by rank 0, waited for by the others.

In: the configuration, a corpus, and the model whose layer is clustered (none for MFCC). Out: the table of units, from
``units/`` in the iteration's run folder when it is there already.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from speechssl.config import PretrainConfig
from speechssl.core.files import write_atomic
from speechssl.core.precision import uses_bf16
from speechssl.data.corpus import Corpus
from speechssl.data.keys import key
from speechssl.errors import InterruptedRun, RunError
from speechssl.evaluation.units import (
    LayerFeatures,
    MfccFeatures,
    NormalisedFeatures,
    Source,
    UnitFeatures,
    UnitTable,
    make_units,
)
from speechssl.interop.any_model import load_any_encoder
from speechssl.models.encoder import SpeechEncoder
from speechssl.training.interrupt import Interrupt
from speechssl.training.parallel import Parallel
from speechssl.training.run import RunFolder
from speechssl.training.targets import check_grid, place_clusters

__all__ = ["iteration_units"]

POLL_SECONDS = 0.5


def iteration_units(
    cfg: PretrainConfig,
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
        Units cannot be made (evaluation/units.py).
    RunError
        Rank 0 could not make them.
    InterruptedRun
        A signal asked the run to stop. What is finished is kept: the clusters, and whole parts of the labels.
    """
    folder = run.path / "units"
    failed = folder / "failed"
    if parallel.first:
        folder.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
    parallel.barrier()
    stopped = InterruptedRun(f"stopped while units were made in {folder}; run the same command again to go on")
    with Interrupt("this group of utterances or step of k-means") as interrupt:

        def check() -> None:
            if interrupt.requested:
                raise stopped

        if parallel.first:
            try:
                features = _features(cfg, encoder, teacher, layer, parallel)
                if cfg.hubert.units_normalise:
                    features = NormalisedFeatures(features)
                if index == 0:
                    place_clusters(cfg, folder, features)
                source = Source(corpus, features, sorted([*rows, *held]), frozenset(held), check=check)
                table = _make(cfg, index, source, run)
            except BaseException as error:
                write_atomic(failed, str(error) or type(error).__name__)
                raise
        else:
            table = _wait(folder, failed, check)
        if parallel.any(interrupt.requested):
            raise stopped
    return table


def _wait(folder: Path, failed: Path, check: Callable[[], None]) -> UnitTable:
    """Return the units once rank 0 has made them.

    Labelling may take longer than a collective is allowed to, so the other ranks look for the file.
    """
    while not (folder / "units.npz").exists():
        check()
        if failed.exists():
            raise RunError(f"rank 0 could not make the units: {failed.read_text(encoding='utf-8')}")
        time.sleep(POLL_SECONDS)
    return UnitTable.load(folder / "units.npz")


def _make(cfg: PretrainConfig, index: int, source: Source, run: RunFolder) -> UnitTable:
    start = time.monotonic()
    table = make_units(
        replace(source, batch_seconds=cfg.data.batch_seconds, threads=max(1, cfg.data.workers)),
        run.path / "units",
        clusters=cfg.hubert.clusters[index],
        hours=cfg.hubert.kmeans_hours,
        starts=cfg.hubert.kmeans_starts,
        seed=key("units", cfg.seed, index),
        max_bad_fraction=cfg.data.max_bad_fraction,
        record=run.record,
    )
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
