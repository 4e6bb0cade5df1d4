"""The arms of a comparison of objectives, and what each of them trains: everything is the same but the objective.

In: ``CompareObjectivesConfig``. Out: `Arm` and `Labels` records, and the configurations of every training. An objective
that predicts what follows gets a causal encoder, and an arm from random weights with such an encoder to stand beside.
"""

import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.config import (
    CompareObjectivesConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
)
from speechssl.config.load import load_config, tagged
from speechssl.config.objectives import with_updates
from speechssl.core.errors import ConfigError
from speechssl.core.presets import find_config, presets
from speechssl.objectives.build import objective_class

__all__ = ["Arm", "Labels", "arms_of", "finetunings", "labels_of", "model_of", "pretrainings", "runs_of"]


@dataclass(frozen=True)
class Arm:
    """One objective, or none."""

    name: str
    title: str
    """What the page calls it."""
    objective: ObjectiveConfig | None
    """None: fine-tuned from random weights."""
    optim: OptimConfig
    causal: bool
    """No frame of its encoder sees a later one."""


@dataclass(frozen=True)
class Labels:
    """One set of transcribed speech."""

    name: str
    train: DataConfig
    dev: DataConfig
    test: DataConfig


def arms_of(cfg: CompareObjectivesConfig) -> list[Arm]:
    """Return the objectives in the order given, and one arm from random weights for each kind of encoder.

    Raises
    ------
    ConfigError
        A preset is not there, two arms have one name, or the budgets of the arms differ.
    """
    if cfg.pretrain.training.epochs or cfg.finetune.training.epochs:
        raise ConfigError("every arm makes the same updates: set training.steps and leave training.epochs at 0")
    arms = [_arm(word, cfg.size) for word in cfg.arms or _by_size(cfg.size)]
    titles = [arm.title for arm in arms]
    arms = [replace(arm, title=f"{arm.title} ({arm.name})") if titles.count(arm.title) > 1 else arm for arm in arms]
    for causal in sorted({arm.causal for arm in arms}):
        title = "random weights" + ", causal" * causal
        arms.append(Arm("scratch" + "-causal" * causal, title, None, OptimConfig(), causal))
    names = [arm.name for arm in arms]
    if repeated := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"two arms are called {repeated!r}; give one of them a name: arms = ['NAME=PRESET', ...]")
    budget = len(cfg.learning_rates) * max(1, len(cfg.pretrain_rates))
    if len(cfg.scratch_rates or cfg.learning_rates) != budget:
        raise ConfigError(
            f"an objective has {budget} candidates (pretrain_rates x learning_rates): give as many scratch_rates, so "
            "that every arm has the same tuning budget"
        )
    return arms


def _by_size(size: str) -> Iterator[str]:
    """Yield a word for each preset of a size, in the order of the kinds; kinds without one have their defaults."""
    found: dict[str, list[str]] = {kind: [] for kind in tagged(ObjectiveConfig)}
    for name in presets():
        if name == size or name.endswith(f"-{size}"):
            table = tomllib.loads(find_config(name).read_text(encoding="utf-8")).get("objective")
            if isinstance(table, dict):
                found[table["kind"]].append(name)
    for kind, names in found.items():
        yield from names or [f"{kind}= --objective.kind {kind}"]


def _arm(word: str, size: str) -> Arm:
    """Return the arm of ``PRESET`` or ``NAME=PRESET``, with overrides after it."""
    first, *overrides = shlex.split(word)
    name, _, preset = first.rpartition("=") if "=" in first else ("", "", first)
    if first.endswith("="):
        name, preset = first[:-1], ""
    loaded = load_config(PretrainConfig, preset or None, overrides, prog="speechssl compare-objectives")
    declared = objective_class(loaded.objective)
    own = Path(preset).stem
    name = name or (loaded.objective.kind if own == size else own.removesuffix(f"-{size}"))
    return Arm(name, declared.title, loaded.objective, loaded.optim, declared.causal)


def runs_of(arms: list[Arm], seeds: tuple[int, ...]) -> list[tuple[Arm, int]]:
    """Return every arm with every seed, all arms with the first seed first."""
    return [(arm, seed) for seed in seeds for arm in arms]


def model_of(cfg: CompareObjectivesConfig, *, causal: bool) -> ModelConfig:
    """Return the shared encoder, causal where an objective needs it."""
    model = cfg.pretrain.model
    if not causal:
        return model
    frontend = replace(model.frontend, statistics="past") if model.frontend.kind == "logmel" else model.frontend
    return replace(model, frontend=frontend, encoder=replace(model.encoder, causal=True))


def pretrainings(cfg: CompareObjectivesConfig, arm: Arm, seed: int, folder: Path) -> dict[str, PretrainConfig]:
    """Return the pretrainings of an arm by name, one for each learning rate that it tries; none from random weights."""
    if arm.objective is None:
        return {}
    rates = cfg.pretrain_rates or (arm.optim.lr,)
    names = [f"pretrain-lr-{rate:g}" if len(rates) > 1 else "pretrain" for rate in rates]
    return {
        name: replace(
            cfg.pretrain,
            name=arm.name,
            seed=seed,
            output=str(folder / name),
            model=model_of(cfg, causal=arm.causal),
            objective=with_updates(arm.objective, cfg.pretrain.training.steps),
            optim=replace(arm.optim, lr=rate),
        )
        for name, rate in zip(names, rates, strict=True)
    }


def labels_of(cfg: CompareObjectivesConfig) -> list[Labels]:
    """Return the label sets.

    Raises
    ------
    ConfigError
        A word is not NAME=TRAIN,DEV,TEST.
    """
    shards = cfg.finetune.data.shards or cfg.pretrain.data.shards
    parts = [replace(part, shards=part.shards or shards) for part in (cfg.finetune.data, cfg.finetune.dev)]
    parts.append(replace(cfg.evaluate.data, shards=cfg.evaluate.data.shards or shards))
    if not cfg.labels:
        return [Labels("labels", *parts)]
    found = []
    for word in cfg.labels:
        name, _, listed = word.partition("=")
        lists = listed.split(",")
        if not name or len(lists) != 3 or not all(lists):
            raise ConfigError(f"labels: {word!r} is not NAME=TRAIN,DEV,TEST, with three files of utterance ids")
        found.append(Labels(name, *(replace(part, ids=(ids,)) for part, ids in zip(parts, lists, strict=True))))
    return found


def finetunings(
    cfg: CompareObjectivesConfig, arm: Arm, seed: int, labels: Labels, folder: Path
) -> dict[str, FinetuneConfig]:
    """Return the fine-tunings of an arm on a label set by name: from each of its pretrained models, or from none."""
    base = replace(
        cfg.finetune, seed=seed, data=labels.train, dev=labels.dev, model=model_of(cfg, causal=arm.causal), init=""
    )
    place = folder / labels.name
    if arm.objective is None:
        return {"random": replace(base, output=str(place / "random"))}
    return {
        name: replace(base, init=str(folder / name / "model"), output=str(place / name))
        for name in pretrainings(cfg, arm, seed, folder)
    }
