"""The precision of a run, settled before its folder is opened: the same on all ranks, and for the run's whole life.

In: a configuration that may say ``auto``, and the run folder. Out: the configuration with ``bf16`` or ``fp32``, and one
line on standard error that says which and why.
"""

import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from speechssl.config import FinetuneConfig, PretrainConfig, RunConfig
from speechssl.core.precision import Choice, Precision, Setting, choose, device_kind
from speechssl.training.parallel import Parallel

__all__ = ["agreed", "settled", "settled_run"]

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)


def settled(cfg: Config, folder: Path | str, parallel: Parallel) -> Config:
    """Return ``cfg`` with the precision that the run in ``folder`` was started with, or gets now; rank 0 says which."""
    kept = _stored(Path(folder) / "config.toml", "training") if parallel.first else ""
    choice = agreed(cfg.training.precision, parallel, kept=kept)
    return replace(cfg, training=replace(cfg.training, precision=choice.precision))


def agreed(setting: Setting, parallel: Parallel, *, kept: str = "", verb: str = "train") -> Choice:
    """Return the choice of all ranks, and say it: float32 where ``auto`` finds one that has no bfloat16.

    ``kept``, of rank 0, is the precision that the run was started with; ``verb`` begins the line.
    """
    kept = parallel.gather(kept)[0]
    own = choose(setting, parallel.device.type, kept=kept)
    found = [Choice(*each) for each in parallel.gather([own.precision, own.device, own.reason, own.warning])]
    choice = next((each for each in found if not each.bf16), found[0])
    if parallel.first and choice.line:
        print(f"{verb}: {choice.line}", file=sys.stderr, flush=True)
    return choice


def settled_run(cfg: RunConfig, stored: Path) -> RunConfig:
    """Return ``cfg`` with the precisions that the run was started with (``stored``), or gets now, and say them.

    Every stage gets them as explicit settings, so a resumed run keeps its precision on another kind of processor.
    """
    lines: dict[str, None] = {}

    def chosen(part: str, setting: Setting, device: Literal["auto", "cpu", "cuda"], *tables: str) -> Precision:
        choice = choose(setting, device_kind(device), kept=_stored(stored, part, *tables))
        if setting == "auto":  # an explicit precision is checked where it is used
            lines[choice.line] = None
        return choice.precision

    loops = {
        part: replace(loop, precision=chosen(part, loop.precision, loop.device, "training"))
        for part, loop in (("pretrain", cfg.pretrain.training), ("finetune", cfg.finetune.training))
    }
    cfg = replace(
        cfg,
        pretrain=replace(cfg.pretrain, training=loops["pretrain"]),
        finetune=replace(cfg.finetune, training=loops["finetune"]),
        evaluate=replace(cfg.evaluate, precision=chosen("evaluate", cfg.evaluate.precision, cfg.evaluate.device)),
    )
    for line in lines:
        print(f"run: {line}", file=sys.stderr, flush=True)
    return cfg


def _stored(path: Path, *tables: str) -> str:
    """Return what a stored configuration says in ``tables``; empty where it says nothing or cannot be read."""
    try:
        found: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # opening the run folder reports what is wrong with it
        return ""
    for table in tables:
        found = found.get(table, {}) if isinstance(found, dict) else {}
    return str(found.get("precision", "")) if isinstance(found, dict) else ""
