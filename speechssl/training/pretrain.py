"""Pretraining: shards in, a model folder out, for every objective.

In: ``PretrainConfig``. Out: a run folder with ``model/``. An objective whose targets are made offline is trained in
iterations (training/iterations.py). Started again, a run goes on where it was stopped: finished iterations, finished
units and finished updates are not done twice.
"""

from dataclasses import replace
from pathlib import Path

from speechssl.config import PretrainConfig
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import ConfigError
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.joined import open_data
from speechssl.data.store.reader import Corpus
from speechssl.interop.model_folder import is_model
from speechssl.training.checkpoints.same_corpus import check_corpus
from speechssl.training.initialisation import with_initial_sizes
from speechssl.training.iterations import check_iterations, check_layers, run_iterations
from speechssl.training.parallel import Parallel, start_parallel
from speechssl.training.phases import build_heads, open_phase, say, train_phase
from speechssl.training.precision import settled
from speechssl.training.run_folder import RunFolder
from speechssl.training.targets import check_targets

__all__ = ["pretrain", "resolved"]


def pretrain(cfg: PretrainConfig, *, parallel: Parallel | None = None, allow_changes: bool = False) -> Path:
    """Pretrain as configured and return the model folder; ``allow_changes`` as for ``RunFolder.open``.

    Raises
    ------
    ConfigError
        The lists of iterations differ in length, or name a layer that is not there; ``init`` or the teacher does not
        fit.
    DataError
        The shards cannot be used, or hold nothing to train on.
    CheckpointError, RunError, InterruptedRun
        From model folders, the run folder and the loop.
    """
    cfg = resolved(cfg)
    check_targets(cfg)
    ranks = parallel or start_parallel(cfg.training.device)
    try:
        folder = cfg.output or f"runs/{cfg.name}"
        cfg = settled(cfg, folder, ranks)
        with RunFolder(folder).open(cfg, ranks, allow_changes=allow_changes) as run:
            model = run.path / "model"
            if is_model(model):
                say(ranks, f"{model} is complete; nothing is left to do")
                return model
            corpus = _corpus(cfg)
            check_corpus(run, corpus, ranks)
            if (targets := offline_targets(cfg.objective)) is not None:
                return run_iterations(cfg, targets, corpus, run, ranks)
            phase = open_phase(cfg, cfg.objective.kind, cfg.seed, cfg.init, corpus=corpus, run=run, parallel=ranks)
            return train_phase(phase, build_heads(phase, None), {})
    finally:
        if parallel is None:
            ranks.close()


def resolved(cfg: PretrainConfig) -> PretrainConfig:
    """Return the configuration that a run really has.

    With ``model_from_init`` the sizes are those of ``init``, the dropouts and the gradient scale those of
    ``cfg.model``; with targets made offline ``training.steps`` is the sum over iterations.

    Raises
    ------
    ConfigError
        The settings contradict each other, or ``init`` has other sizes.
    CheckpointError
        ``init`` cannot be read.
    """
    if cfg.training.patience or cfg.training.average > 1:
        raise ConfigError("training.patience and training.average choose by dev WER: they are settings of fine-tuning")
    targets = offline_targets(cfg.objective)
    if targets is not None:
        if cfg.training.epochs:
            raise ConfigError(
                f"training.epochs = {cfg.training.epochs:g}: {cfg.objective.kind} is trained in iterations, whose "
                "updates are objective.targets.steps"
            )
        check_iterations(cfg, targets)
    cfg = with_initial_sizes(cfg)
    if targets is None:
        return cfg
    check_layers(cfg, targets)
    return replace(cfg, training=replace(cfg.training, steps=sum(targets.steps)))


def _corpus(cfg: PretrainConfig) -> Corpus:
    data = cfg.data
    if not data.shards:
        raise ConfigError("data.shards is empty: give the folder (or address) of shards made by `speechssl shard`")
    ids = read_ids(data.ids) if data.ids else None
    return open_data(data, splits=data.splits, ids=ids)
