"""Pretraining: shards in, a model folder out, for wav2vec 2.0 and for every iteration of HuBERT.

In: ``PretrainConfig``. Out: a run folder with ``model/``. HuBERT's iterations lie in ``iteration-N/``, each a run of
its own with ``units/`` beside its checkpoints, and ``model/`` is that of the last. Started again, a run goes on where
it was stopped: finished iterations, finished units and finished updates are not done twice.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from speechssl.config import PretrainConfig
from speechssl.core.errors import ConfigError
from speechssl.core.files import atomic_folder
from speechssl.core.randomness import key
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import Corpus, open_corpus
from speechssl.interop.model_folder import is_model
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.targets.units import units_identity
from speechssl.training.checkpoints.same_corpus import check_corpus
from speechssl.training.initialisation import strange_labels, with_initial_sizes
from speechssl.training.iteration_units import iteration_units
from speechssl.training.parallel import Parallel, start_parallel
from speechssl.training.phases import open_phase, say, train_phase
from speechssl.training.precision import settled
from speechssl.training.run_folder import RunFolder
from speechssl.training.targets import check_targets, given_units

__all__ = ["pretrain", "resolved"]


def pretrain(cfg: PretrainConfig, *, parallel: Parallel | None = None, allow_changes: bool = False) -> Path:
    """Pretrain as configured and return the model folder; ``allow_changes`` as for ``RunFolder.open``.

    Raises
    ------
    ConfigError
        HuBERT's lists differ in length, or name a layer that is not there; ``init`` or the teacher does not fit.
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
            if cfg.objective == "hubert":
                return _iterations(cfg, corpus, run, ranks)
            phase = open_phase(cfg, "wav2vec2", cfg.seed, cfg.init, corpus=corpus, run=run, parallel=ranks)
            torch.manual_seed(key("heads", phase.seed))
            objective = Wav2Vec2(phase.encoder, cfg.wav2vec2, cfg.mask, seed=phase.seed)
            return train_phase(phase, objective, {})
    finally:
        if parallel is None:
            ranks.close()


def resolved(cfg: PretrainConfig) -> PretrainConfig:
    """Return the configuration that a run really has.

    With ``model_from_init`` the sizes are those of ``init``, the dropouts and the gradient scale those of
    ``cfg.model``; with HuBERT ``training.steps`` is the sum over iterations.

    Raises
    ------
    ConfigError
        The settings contradict each other, or ``init`` has other sizes.
    CheckpointError
        ``init`` cannot be read.
    """
    if cfg.objective != "hubert":
        return with_initial_sizes(cfg)
    hubert = cfg.hubert
    if not len(hubert.steps) == len(hubert.clusters) == len(hubert.layers) or not hubert.steps:
        raise ConfigError(
            "hubert.steps, hubert.clusters and hubert.layers need one item for each iteration; they have "
            f"{len(hubert.steps)}, {len(hubert.clusters)} and {len(hubert.layers)}"
        )
    if hubert.layers[0] > 0:
        layers = ", ".join(map(str, (0, *hubert.layers[1:])))
        raise ConfigError(
            f"hubert.layers[0] = {hubert.layers[0]}: there is no model before iteration 1, and init gives weights only."
            f' To learn from the units of another model, write [teacher] with model = "{cfg.init or "FOLDER"}" and '
            f"layer = {hubert.layers[0]}, and hubert.layers = [{layers}]; drop init if the weights are not to start "
            "from that model"
        )
    cfg = with_initial_sizes(cfg)
    if not 0 <= min(hubert.layers) <= max(hubert.layers) <= cfg.model.encoder.layers:
        raise ConfigError(
            f"hubert.layers = {list(hubert.layers)}: the encoder has layers 1 to {cfg.model.encoder.layers}"
        )
    if min(hubert.clusters) < 2 or max(hubert.clusters) > 1 << 16:
        raise ConfigError(f"hubert.clusters = {list(hubert.clusters)}: use 2 to 65,536")
    return replace(cfg, training=replace(cfg.training, steps=sum(hubert.steps)))


def _iterations(cfg: PretrainConfig, corpus: Corpus, run: RunFolder, parallel: Parallel) -> Path:
    """Run HuBERT's iterations in order and publish the model of the last."""
    previous: Path | None = None
    for index, steps in enumerate(cfg.hubert.steps):
        folder = run.path / f"iteration-{index + 1}"
        own = replace(cfg, output=str(folder), training=replace(cfg.training, steps=steps))
        title = f"hubert iteration {index + 1} of {len(cfg.hubert.steps)}"
        init = str(previous or cfg.init) if cfg.hubert.carry_over else cfg.init
        with RunFolder(folder).open(own, parallel, allow_changes=run.allow_changes) as iteration:
            if is_model(folder / "model"):
                say(parallel, f"{title}: done before")
            else:
                seed = key("iteration", cfg.seed, index)
                given = None
                if cfg.units and index == 0:
                    given = given_units(own, corpus=corpus, run=iteration, parallel=parallel)
                phase = open_phase(
                    own,
                    title,
                    seed,
                    init,
                    corpus=corpus,
                    run=iteration,
                    parallel=parallel,
                    labelled=None if given is None else given.ids,
                )
                first = index == 0 and cfg.teacher.model
                units = given or iteration_units(
                    own,
                    index,
                    corpus=corpus,
                    rows=phase.plan.rows.tolist(),
                    held=phase.held.tolist(),
                    encoder=phase.encoder,
                    teacher=Path(cfg.teacher.model) if first else previous,
                    layer=cfg.teacher.layer if first else cfg.hubert.layers[index],
                    run=iteration,
                    parallel=parallel,
                )
                torch.manual_seed(key("heads", seed))  # making the units may or may not have drawn numbers
                objective = Hubert(phase.encoder, cfg.hubert, cfg.mask, units, cfg.hubert.clusters[index], seed=seed)
                identity = units_identity(folder / "units")
                info = {"iteration": index + 1, "units": {**units.quality(), "identity": identity}}
                train_phase(phase, objective, info, strange=strange_labels(cfg, identity))
        previous = folder / "model"
    target = run.path / "model"
    if parallel.first:
        assert previous is not None
        _publish(previous, target)
    parallel.barrier()
    return target


def _corpus(cfg: PretrainConfig) -> Corpus:
    data = cfg.data
    if not data.shards:
        raise ConfigError("data.shards is empty: give the folder (or address) of shards made by `speechssl shard`")
    ids = read_ids(data.ids) if data.ids else None
    return open_corpus(data.shards, cache=data.cache, splits=data.splits, ids=ids)


def _publish(source: Path, target: Path) -> None:
    """Copy a model folder; it takes its name only when complete."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
