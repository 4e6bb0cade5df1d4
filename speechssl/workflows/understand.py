"""``speechssl understand``: what models have learned, from their layers, ABX and probes, on one page.

In: models, a manifest or shards, ``UnderstandConfig``. Out: ``layers/``, a folder for each model with ``abx/`` and one
for each task, ``understand.html`` and ``understand.txt``. Finished parts are not measured again; frames are not kept.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.config import UnderstandConfig
from speechssl.config.load import to_dict, write_toml
from speechssl.core.environment import write_environment
from speechssl.core.errors import ConfigError
from speechssl.reports.understand_page import ABX, FOUND, write_understanding
from speechssl.understanding.abx.run import run_abx
from speechssl.understanding.extractors import open_extractor
from speechssl.understanding.layers.compare import compare_layers, named_models
from speechssl.understanding.probe import open_task, run_probe
from speechssl.workflows.stages import Stage, run_stages

__all__ = ["understand"]

OWN = ("layers", "stages")
"""Folders beside those of the models."""


def understand(models: Sequence[str], place: str, cfg: UnderstandConfig) -> Path:
    """Measure models, and write the page; return its path.

    Parameters
    ----------
    models
        One to four models, each as ``MODEL`` or ``NAME=MODEL``, as `open_extractor` takes them.
    place
        A manifest or shards.

    Raises
    ------
    ConfigError
        Models or settings cannot be used.
    DataError, CheckpointError
        The data or a model cannot be used.
    """
    named = named_models(models)
    cfg = _shared(cfg, place)
    if wrong := [name for name, _ in named if name in OWN or Path(name).name != name or name[0] == "."]:
        raise ConfigError(f"{wrong[0]!r} cannot be the name of a folder here; give another NAME=MODEL")
    if ABX in cfg.tasks:
        raise ConfigError(f"{ABX} is no task of probe; it is measured where --alignment gives the times of phones")
    for task in cfg.tasks:  # what the data do not have is found before anything is measured
        open_task(task, cfg.probe)
    identities = {name: open_extractor(model, stack=cfg.stack, device=cfg.device).identity for name, model in named}
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    write_toml(cfg, output / "config.toml")
    write_environment(output)
    key = {"models": list(models), "identities": identities, "data": place, **to_dict(cfg.layers)}
    layers = output / "layers" / "layers.json"
    run_stages(output, [Stage("layers", key, layers, lambda: compare_layers(models, place, cfg.layers), cheap=True)])
    for name, model in named:
        print(f"{name}:", flush=True)
        run_stages(output / name, _stages(model, identities[name], place, output / name, cfg))
        shutil.rmtree(output / name / "features", ignore_errors=True)
    return write_understanding(output, named, cfg)


def _shared(cfg: UnderstandConfig, place: str) -> UnderstandConfig:
    """Hand to every part what stands above all of them."""
    own: dict[str, Any] = {"alignment": cfg.alignment, "stack": cfg.stack, "device": cfg.device}
    return replace(
        cfg,
        layers=replace(cfg.layers, words=cfg.words, output=str(Path(cfg.output) / "layers"), **own),
        abx=replace(cfg.abx, **own),
        probe=replace(cfg.probe, data=place, **own),
    )


def _stages(model: str, identity: str, place: str, folder: Path, cfg: UnderstandConfig) -> list[Stage]:
    """Return what is measured of one model."""
    stages = []
    if cfg.alignment:
        abx = replace(cfg.abx, features=str(folder / "features" / ABX))
        key = {"identity": identity, "data": place, **to_dict(abx)}
        made = folder / ABX / "abx.json"
        stages.append(Stage(ABX, key, made, lambda: run_abx(model, place, made.parent, abx), cheap=True))
    for task in cfg.tasks:
        probe = replace(cfg.probe, output=str(folder / task), features=str(folder / "features"))

        def make(task=task, probe=probe) -> None:  # type: ignore[no-untyped-def]
            run_probe(model, task, probe)

        key = {"identity": identity, **to_dict(probe)}
        stages.append(Stage(f"probe-{task}", key, folder / task / FOUND, make, cheap=True))
    return stages
