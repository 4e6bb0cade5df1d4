"""Probes of the frozen models of a comparison, beside fine-tuning.

In: an arm whose fine-tuned model is chosen. Out: stages that leave ``probes/TASK/probe.json`` in the arm's folder. The
model is the pretrained one that dev chose on the first label set; from random weights, the same encoder with random
weights. Features are not kept.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speechssl.config import CompareObjectivesConfig, ProbeConfig
from speechssl.config.load import to_dict
from speechssl.core.files import read_json
from speechssl.reports.comparison.objective_results import CHOSEN
from speechssl.reports.comparison.probe_results import PROBES
from speechssl.understanding.extractors import RANDOM
from speechssl.understanding.probe import open_task, run_probe
from speechssl.workflows.arms import Labels
from speechssl.workflows.stages import Stage

__all__ = ["check_probes", "probe_stages"]


def check_probes(cfg: CompareObjectivesConfig) -> None:
    """Refuse a task that the data do not have, before anything is trained.

    Raises
    ------
    ConfigError, DataError
        As the probe would.
    """
    for task in cfg.probes:
        open_task(task, _settings(cfg))


def _settings(cfg: CompareObjectivesConfig) -> ProbeConfig:
    return replace(cfg.probe, data=cfg.probe.data or cfg.pretrain.data.shards, features="")


def probe_stages(cfg: CompareObjectivesConfig, labels: Sequence[Labels], folder: Path) -> list[Stage]:
    """Return a stage for each task of ``cfg.probes``."""
    stages = []
    for task in cfg.probes:
        output = folder / PROBES / task
        settings = replace(_settings(cfg), output=str(output))

        def make(task=task, settings=settings, output=output) -> None:  # type: ignore[no-untyped-def]
            place = folder / labels[0].name
            chosen = read_json(place / CHOSEN, f"delete {place} to train it again")
            run_probe(chosen["init"] or f"{RANDOM}{chosen['model']}", task, settings)
            shutil.rmtree(output / "features")

        stages.append(Stage(f"probe-{task}", to_dict(settings), output / "probe.json", make, cheap=True))
    return stages
