"""Rounds of ``run``: pretraining and fine-tuning again, on units that are biased to recognition.

In: the configuration of a run. Out: the pretraining of each round. From the second round on, its units are clusters of
a layer of the recogniser that the round before fine-tuned (VietASR, arXiv 2505.21527; GigaAM, arXiv 2506.01192):

    units of round r = k-means(layer of the encoder of fine-tune r - 1)

That encoder was trained on transcripts; its clusters are called ASR-biased units.
"""

from dataclasses import replace
from pathlib import Path

from speechssl.config import PretrainConfig, RunConfig, TeacherConfig
from speechssl.config.masked_objectives import MaskedUnitsConfig
from speechssl.core.errors import ConfigError
from speechssl.training.initialisation import with_initial_sizes

__all__ = ["check_rounds", "of_round", "pretraining_of"]


def of_round(name: str, number: int) -> str:
    """Return the folder of a stage in a round: ``pretrain``, then ``pretrain-2``."""
    return name if number == 1 else f"{name}-{number}"


def check_rounds(cfg: RunConfig) -> None:
    """Check, before anything is made, what only a later round would find out.

    Raises
    ------
    ConfigError
        There is no round, the objective predicts no units, or the encoder has not that layer.
    """
    if cfg.rounds < 1:
        raise ConfigError(f"rounds = {cfg.rounds}: at least 1")
    if cfg.rounds == 1:
        return
    if not isinstance(cfg.pretrain.objective, MaskedUnitsConfig):
        raise ConfigError(
            f"rounds = {cfg.rounds} gives new units to predict, but {cfg.pretrain.objective.kind} predicts none: "
            "take an objective that has pretrain.objective.targets, or rounds = 1"
        )
    layers = with_initial_sizes(cfg.pretrain).model.encoder.layers
    if not 0 <= cfg.relabel.layer <= layers:
        raise ConfigError(f"relabel.layer = {cfg.relabel.layer}: the encoder has layers 1 to {layers}; 0 is the last")
    if cfg.relabel.clusters < 2 or cfg.relabel.steps < 0:
        raise ConfigError("relabel: clusters must be at least 2, and steps not negative")


def pretraining_of(cfg: RunConfig, output: Path, number: int) -> PretrainConfig:
    """Return the pretraining of a round, in the run folder ``output``."""
    first = replace(
        cfg.pretrain,
        output=str(output / of_round("pretrain", number)),
        data=replace(cfg.pretrain.data, shards=str(output / "shards")),
    )
    objective = first.objective
    if number == 1 or not isinstance(objective, MaskedUnitsConfig):
        return first
    recogniser = output / of_round("finetune", number - 1) / "model"
    layer = cfg.relabel.layer or with_initial_sizes(cfg.pretrain).model.encoder.layers
    targets = replace(
        objective.targets,
        steps=(cfg.relabel.steps or objective.targets.steps[-1],),
        clusters=(cfg.relabel.clusters,),
        layers=(0,),
        units="",
        teacher=TeacherConfig(model=str(recogniser), layer=layer),
    )
    before = str(output / of_round("pretrain", number - 1) / "model")
    return replace(
        first,
        init=before if cfg.relabel.carry_over else first.init,
        objective=replace(objective, targets=targets),
    )
