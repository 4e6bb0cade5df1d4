"""Probes of the frozen models of a comparison, beside fine-tuning.

In: an arm whose fine-tuned model is chosen. Out: stages that leave ``probes/TASK/probe.json`` in the arm's folder: what
the heads of ``probe`` reached on a task; for ``abx`` its errors; for ``layers`` the effective rank of the last layer
as a share of its width, and PNMI (Hsu et al. 2021, section IV-D) where there are phones. The model is the pretrained
one that dev chose on the first label set; from random weights, the same encoder with random weights. Features are not
kept.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from speechssl.config import AbxConfig, CompareObjectivesConfig, LayersConfig, ProbeConfig
from speechssl.config.load import to_dict
from speechssl.core.errors import ConfigError
from speechssl.core.files import read_json, write_json
from speechssl.reports.comparison.objective_results import CHOSEN
from speechssl.reports.comparison.probe_results import PROBES
from speechssl.understanding.abx.run import run_abx
from speechssl.understanding.extractors import RANDOM
from speechssl.understanding.layers.compare import compare_layers
from speechssl.understanding.probe import open_task, run_probe
from speechssl.workflows.comparison.arms import Labels
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
        if task not in UNTRAINED:
            open_task(task, _settings(cfg))
        elif task == "abx" and not cfg.probe.alignment:
            raise ConfigError("probes: abx needs the times of phones: --probe.alignment FILE")


def _abx(model: str, cfg: ProbeConfig) -> Iterator[tuple[str, float]]:
    """Yield the error of the best layer within and across speakers."""
    own = AbxConfig(alignment=cfg.alignment, layers=cfg.layers, stack=cfg.stack, device=cfg.device)
    found = run_abx(model, cfg.data, Path(cfg.output), own)
    for mode in own.speakers:
        yield f"{mode}, best layer", min(scores[mode].error for scores in found.layers.values())


def _layers(model: str, cfg: ProbeConfig) -> Iterator[tuple[str, float]]:
    own = LayersConfig(output=cfg.output, alignment=cfg.alignment, stack=cfg.stack, device=cfg.device)
    (found,) = compare_layers([f"arm={model}"], cfg.data, own).models
    yield "effective rank of the last, of its width", found.values["effective_rank"][-1] / found.dim
    if "mi_phones" in found.values:
        yield "PNMI, best", max(found.values["mi_phones"])


UNTRAINED: dict[str, Callable[[str, ProbeConfig], Iterator[tuple[str, float]]]] = {"abx": _abx, "layers": _layers}
"""Measures of frozen models that train no head."""


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
            model = chosen["init"] or f"{RANDOM}{chosen['model']}"
            if task in UNTRAINED:
                heads = [
                    {"head": name, "error": value, "eer": None} for name, value in UNTRAINED[task](model, settings)
                ]
                write_json(output / "probe.json", {"task": task, "model": model, "heads": heads})
            else:
                run_probe(model, task, settings)
            shutil.rmtree(output / "features", ignore_errors=True)

        stages.append(Stage(f"probe-{task}", to_dict(settings), output / "probe.json", make, cheap=True))
    return stages
