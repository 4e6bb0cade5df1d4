"""One training from start to model folder: all of a pretraining, or one of its iterations.

In: the configuration, a corpus, a run folder. Out: ``model/`` in that run folder. Nothing here knows which objective it
trains.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.config import PretrainConfig, TrainingConfig
from speechssl.core.files import write_atomic
from speechssl.core.randomness import key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.augment import Sounds
from speechssl.data.batches.holdout import held_out
from speechssl.data.batches.mixture import mixed
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.ingest.ids import absent_ids, say_absent
from speechssl.data.store.reader import Corpus
from speechssl.interop.any_model import load_any_encoder
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Objective, OfflineTargets
from speechssl.objectives.build import build_objective
from speechssl.training.initialisation import take_heads
from speechssl.training.loop import autocast, train
from speechssl.training.monitoring.validation import HeldOut, validation_interval
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import RunFolder

__all__ = ["Phase", "build_heads", "open_phase", "say", "train_phase"]


@dataclass(frozen=True)
class Phase:
    """One training from start to model folder: all of a pretraining, or one of its iterations."""

    cfg: PretrainConfig
    """With the steps of this phase in ``training.steps``."""
    title: str
    seed: int
    """Key of initial weights, order, crops, masks and dropout."""
    init: str
    """Model folder that the encoder starts from; empty for random weights."""
    encoder: SpeechEncoder
    corpus: Corpus
    plan: Plan
    held: np.ndarray
    """Rows that are not trained on."""
    run: RunFolder
    parallel: Parallel


def open_phase(
    cfg: PretrainConfig,
    title: str,
    seed: int,
    init: str,
    *,
    corpus: Corpus,
    run: RunFolder,
    parallel: Parallel,
    labelled: Iterable[str] | None = None,
) -> Phase:
    """Build the encoder, random weights keyed by the seed, and the plan; write down what is held out.

    ``labelled`` are the utterances that can be used; None for all.
    """
    torch.manual_seed(key("encoder", seed))
    encoder = load_any_encoder(Path(init), cfg.model) if init else SpeechEncoder(cfg.model)
    shortest = max(round(cfg.data.min_seconds * SAMPLE_RATE), int(encoder.frontend.receptive))
    held = held_out(corpus, cfg.validation, min_samples=shortest)
    bare = _unlabelled(corpus, labelled)
    held = np.setdiff1d(held, bare)
    unused = np.union1d(held, bare)

    def plan_without(rows: np.ndarray | None) -> Plan:
        without = unused if rows is None else np.union1d(unused, rows)
        return Plan.pretrain(corpus, cfg.data, seed, align=encoder.hop, without=without)

    plan = mixed(plan_without, corpus, cfg.data.mix, seed)
    cfg = run.settle_steps(cfg, plan)
    lists = (*cfg.data.ids, *cfg.validation.ids)
    absent = absent_ids(lists, corpus.ids, stage="pretrain", where=cfg.data.shards) if lists else []
    run.record([*absent, *plan.dropped])
    if absent:
        say(parallel, say_absent(absent))
    if parallel.first and len(held):
        names = "".join(f"{corpus.row(row).id}\n" for row in held.tolist())
        write_atomic(run.path / "validation.txt", names)
    return Phase(cfg, title, seed, init, encoder, corpus, plan, held, run, parallel)


def build_heads(phase: Phase, targets: OfflineTargets | None) -> Objective[Any]:
    """Return the objective around the encoder of a phase; its random weights are keyed by the seed alone."""
    torch.manual_seed(key("heads", phase.seed))  # making the targets may or may not have drawn numbers
    objective = build_objective(phase.cfg.objective, phase.encoder, targets, phase.seed)
    objective.sounds = Sounds.of(phase.cfg.data)
    return objective


def _unlabelled(corpus: Corpus, labelled: Iterable[str] | None) -> np.ndarray:
    """Return the rows that have no targets, int64, increasing; they are in the ledger already."""
    if labelled is None:
        return np.zeros(0, dtype=np.int64)
    known = set(labelled)
    return np.flatnonzero([name not in known for name in corpus.ids])


def train_phase(
    phase: Phase, objective: Objective[Any], info: dict[str, Any], *, strange: Mapping[str, str] | None = None
) -> Path:
    """Train one phase and write its model folder, with ``info`` beside what every model says of itself.

    ``strange`` are heads of ``init`` that mean something else here, with the reason: they are not taken back.
    """
    cfg, parallel = phase.cfg, phase.parallel
    if phase.init and phase.init == cfg.init:
        say(parallel, take_heads(objective, cfg, strange or {}))
    hours = phase.plan.n_samples / SAMPLE_RATE / 3600
    validate = _held_out(phase, objective)
    say(parallel, _outlook(phase, objective, hours, validate))
    stream = Stream(
        phase.corpus,
        phase.plan,
        cfg.data,
        batches_per_step=cfg.data.batches_per_step,
        rank=parallel.rank,
        world=parallel.world,
        prepare=objective.preparer(),
    )
    with stream:
        result = train(
            objective,
            stream,
            run=phase.run,
            parallel=parallel,
            training=_with_interval(phase, validate),
            optim=cfg.optim,
            seed=phase.seed,
            validate=validate,
        )
    target = phase.run.path / "model"
    if parallel.first:
        facts = {
            "objective": cfg.objective.kind,
            "step": result.step,
            "seed": cfg.seed,
            "init": phase.init,
            "averaged": cfg.training.ema_decay > 0,
            "utterances": phase.plan.n_rows,
            "hours": round(hours, 4),
        }
        save_model(target, encoder=phase.encoder, extra=objective.exported(), info=facts | info)
    parallel.barrier()
    return target


def _held_out(phase: Phase, objective: Objective) -> HeldOut | None:
    cfg = phase.cfg
    if not len(phase.held):
        return None
    return HeldOut(
        objective,
        phase.corpus,
        phase.held.tolist(),
        phase.parallel,
        hop=phase.encoder.hop,
        max_seconds=cfg.data.max_seconds,
        batch_seconds=cfg.data.batch_seconds,
        threads=cfg.data.workers,
        autocast=lambda: autocast(phase.parallel.device, cfg.training),
        record=phase.run.record,
    )


def _with_interval(phase: Phase, validate: HeldOut | None) -> TrainingConfig:
    """Return the settings of the loop, with the steps between validations."""
    training, plan, data = phase.cfg.training, phase.plan, phase.cfg.data
    if validate is None or training.validate_every:
        return training
    batch = min(data.batch_seconds, plan.n_samples / SAMPLE_RATE / plan.batches_per_epoch)
    every = validation_interval(training.steps, data.batches_per_step * batch, validate.seconds)
    return replace(training, validate_every=every)


def _outlook(phase: Phase, objective: Objective[Any], hours: float, validate: HeldOut | None) -> str:
    """Return what is about to happen, in one line."""
    cfg, plan = phase.cfg, phase.plan
    per_step = cfg.data.batches_per_step
    dropped = ", ".join(f"{count} {reason}" for reason, count in plan.dropped_counts.most_common())
    chance = ", ".join(f"{name} {value:.3g}" for name, value in objective.chance.items())
    held = "nothing" if validate is None else f"{validate.seconds / 60:.1f} min in {len(phase.held):,} utterances"
    return (
        f"{phase.title}: {hours:.2f} h in {phase.plan.n_rows:,} utterances"
        + (f" (left out: {dropped})" if dropped else "")
        + f"; {cfg.training.steps:,} steps of up to {per_step * cfg.data.batch_seconds:g} s, "
        f"{cfg.training.steps * per_step / plan.batches_per_epoch:.1f} epochs; held out for validation: {held}; "
        f"{sum(parameter.numel() for parameter in objective.parameters()) / 1e6:.2f} M parameters; "
        f"{phase.parallel.world} x {phase.parallel.device.type}, {cfg.training.precision}"
        + (f"; chance: {chance}" if chance else "")
    )


def say(parallel: Parallel, text: str) -> None:
    """Print a line to standard error, once."""
    if parallel.first:
        print(text, file=sys.stderr, flush=True)
