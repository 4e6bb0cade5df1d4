"""Iterations of an objective whose targets are made offline: each learns the units of a layer of the one before.

In: the configuration and a corpus. Out: ``iteration-N/``, each a run of its own with ``units/`` beside its checkpoints,
and ``model/``, that of the last. Finished iterations and finished units are not made twice.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from speechssl.config import PretrainConfig, TargetsConfig
from speechssl.core.errors import ConfigError
from speechssl.core.files import atomic_folder
from speechssl.core.randomness import key
from speechssl.data.store.reader import Corpus
from speechssl.interop.model_folder import is_model
from speechssl.targets.units import units_identity
from speechssl.training.initialisation import strange_labels
from speechssl.training.iteration_units import iteration_units
from speechssl.training.parallel import Parallel
from speechssl.training.phases import build_heads, open_phase, say, train_phase
from speechssl.training.run_folder import RunFolder
from speechssl.training.targets import given_units

__all__ = ["check_iterations", "check_layers", "run_iterations"]


def check_iterations(cfg: PretrainConfig, targets: TargetsConfig) -> None:
    """Raise ConfigError unless the lists fit together and the first iteration has no layer to learn from."""
    if not len(targets.steps) == len(targets.clusters) == len(targets.layers) or not targets.steps:
        raise ConfigError(
            "objective.targets: steps, clusters and layers need one item for each iteration; they have "
            f"{len(targets.steps)}, {len(targets.clusters)} and {len(targets.layers)}"
        )
    if targets.layers[0] > 0:
        layers = ", ".join(map(str, (0, *targets.layers[1:])))
        raise ConfigError(
            f"objective.targets.layers[0] = {targets.layers[0]}: there is no model before iteration 1, and init gives "
            f"weights only. To learn from the units of another model, write [objective.targets.teacher] with model = "
            f'"{cfg.init or "FOLDER"}" and layer = {targets.layers[0]}, and objective.targets.layers = [{layers}]; '
            "drop init if the weights are not to start from that model"
        )


def check_layers(cfg: PretrainConfig, targets: TargetsConfig) -> None:
    """Raise ConfigError unless every layer is there and the numbers of clusters can be used."""
    if not 0 <= min(targets.layers) <= max(targets.layers) <= cfg.model.encoder.layers:
        raise ConfigError(
            f"objective.targets.layers = {list(targets.layers)}: the encoder has layers 1 to {cfg.model.encoder.layers}"
        )
    if min(targets.clusters) < 2 or max(targets.clusters) > 1 << 16:
        raise ConfigError(f"objective.targets.clusters = {list(targets.clusters)}: use 2 to 65,536")


def run_iterations(
    cfg: PretrainConfig, targets: TargetsConfig, corpus: Corpus, run: RunFolder, parallel: Parallel
) -> Path:
    """Run the iterations in order, with targets made as ``targets`` says, and publish the model of the last."""
    previous: Path | None = None
    for index, steps in enumerate(targets.steps):
        folder = run.path / f"iteration-{index + 1}"
        own = replace(cfg, output=str(folder), training=replace(cfg.training, steps=steps))
        title = f"{cfg.objective.kind} iteration {index + 1} of {len(targets.steps)}"
        init = str(previous or cfg.init) if targets.carry_over else cfg.init
        with RunFolder(folder).open(own, parallel, allow_changes=run.allow_changes) as iteration:
            if is_model(folder / "model"):
                say(parallel, f"{title}: done before")
            else:
                seed = key("iteration", cfg.seed, index)
                given = None
                if targets.units and index == 0:
                    given = given_units(own, targets, corpus=corpus, run=iteration, parallel=parallel)
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
                first = index == 0 and targets.teacher.model
                units = given or iteration_units(
                    own,
                    targets,
                    index,
                    corpus=corpus,
                    rows=phase.plan.rows.tolist(),
                    held=phase.held.tolist(),
                    encoder=phase.encoder,
                    teacher=Path(targets.teacher.model) if first else previous,
                    layer=targets.teacher.layer if first else targets.layers[index],
                    run=iteration,
                    parallel=parallel,
                )
                objective = build_heads(phase, units)
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


def _publish(source: Path, target: Path) -> None:
    """Copy a model folder; it takes its name only when complete."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
