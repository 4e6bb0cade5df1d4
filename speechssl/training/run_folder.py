"""The run folder: one writer at a time, one configuration for its whole life, and where everything is found.

In: a path and a resolved configuration. Out: ``config.toml``, ``environment.json``, ``metrics.jsonl``,
``ledger.jsonl``, ``checkpoints/``.
"""

import fnmatch
import json
import logging
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import from_dict, to_dict, write_toml
from speechssl.core.environment import write_environment
from speechssl.core.errors import ConfigError, DataError, RunError
from speechssl.core.files import exclusive
from speechssl.core.ledger import Entry, Ledger, read_ledger
from speechssl.data.batches.plan import Plan
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.checkpoints.upload import Upload
from speechssl.training.monitoring.log import MetricsLog
from speechssl.training.monitoring.trackers import check_trackers
from speechssl.training.parallel import Parallel

__all__ = ["ALLOWED", "FREE", "RunFolder", "config_changes", "decisive"]

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)

FREE = (
    "name",
    "output",
    "*.workers",
    "*.timeout",
    "*.cache",
    "*.cache_gb",
    "*.max_bad_fraction",
    "*.shards",
    "pseudo.labels",
    "*.loader",
    "training.device",
    "training.threads",
    "training.compile",
    "training.recompute",
    "training.profile",
    "training.validate_every",
    "training.log",
    "training.upload",
    "training.log_every",
    "training.save_every",
    "training.keep",
    "training.pause_at",
    "training.max_skips",
    "training.on_collapse",
)
"""Settings that may change between the parts of a run: they decide how it is computed and kept, not what it
computes. Shards and pseudo-labels may lie elsewhere: what is in them is checked by
``check_corpus``."""

ALLOWED = "allowed"
"""What the ledger says was done about a change that ``--allow-changes`` let through."""

BEFORE: dict[str, dict[str, Any]] = {"PretrainConfig": {"validation": {"share": 0.0}}}
"""What runs did before a table of the configuration existed, where its defaults do something else."""

logger = logging.getLogger("speechssl.run")


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value)
    return flat


def decisive(cfg: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries, without the settings of ``FREE``."""

    def kept(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        return {
            name: kept(value, f"{prefix}{name}.") if isinstance(value, dict) else value
            for name, value in data.items()
            if not _is_free(prefix + name)
        }

    return kept(to_dict(cfg))


def _is_free(name: str) -> bool:
    return any(fnmatch.fnmatch(name, free) for free in FREE)


def config_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line for each setting that differs and may not: ``key: old -> new``, sorted."""
    before, after = _flatten(old), _flatten(new)
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not _is_free(name)
        and not (name == "training.precision" and after.get(name) == '"auto"')  # a run keeps the one it has
        and not (name == "training.steps" and float(after.get("training.epochs", 0)) > 0)  # follow from the epochs
    ]


class RunFolder:
    """One run on the disk. Use it as ``with RunFolder(path).open(cfg, parallel) as run``.

    Attributes
    ----------
    path, checkpoints, metrics, ledger
        The folder, its checkpoints, and its two logs; ``metrics`` writes on rank 0 only.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.metrics = MetricsLog(self.path / "metrics.jsonl", active=False)
        self.ledger = Ledger()
        self.stage = "train"
        """Name of this run's stage in the ledger: that of the configuration (pretrain, finetune)."""
        self.allow_changes = False
        """Go on with another configuration or corpus; the ledger then says so."""
        self._recorded: set[Entry] = set()

    @contextmanager
    def open(self, cfg: Any, parallel: Parallel, *, allow_changes: bool = False) -> Iterator[Self]:
        """Lock the folder, check that the configuration is the one it was started with, and open its logs.

        Parameters
        ----------
        cfg
            The resolved configuration: a dataclass of ``speechssl.config``.
        allow_changes
            Accept another configuration (it replaces the stored one) instead of refusing it.

        Raises
        ------
        RunError
            Another process writes to the folder, or the configuration differs in more than ``FREE`` settings.
            Every rank raises it.
        """
        problem = ""
        changes: list[Entry] = []
        self.allow_changes = allow_changes
        self.stage = type(cfg).__name__.removesuffix("Config").lower() if is_dataclass(cfg) else "train"
        keep = getattr(getattr(cfg, "training", None), "keep", 3)
        trackers = getattr(getattr(cfg, "training", None), "log", ("tensorboard",))
        address = getattr(getattr(cfg, "training", None), "upload", "")
        check_trackers(trackers)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep)
        with ExitStack() as held:
            if parallel.first:
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    held.enter_context(exclusive(self.path / "run.lock"))
                    if address:
                        upload = held.enter_context(Upload(self.path, address))
                        self.checkpoints.after_save = upload.start
                    changes = self._settle(cfg)
                except (DataError, RunError) as error:
                    problem = str(error)
                except OSError as error:
                    problem = f"{self.path}: cannot be used as a run folder: {error}"
            if problem := parallel.gather(problem)[0]:
                raise RunError(problem)
            self.metrics = MetricsLog(
                self.path / "metrics.jsonl", active=parallel.first, trackers=trackers, config=to_dict(cfg)
            )
            held.callback(self.metrics.close)
            if parallel.first:
                write_environment(self.path, devices=f"{parallel.world} x {_name(parallel.device)}")
                self._recorded = set(read_ledger(self.path / "ledger.jsonl"))
                self.ledger = Ledger(self.path / "ledger.jsonl")
                self.record(changes)
            yield self

    def settle_steps(self, cfg: Config, plan: Plan) -> Config:
        """Return ``cfg`` with the updates that its epochs take by ``plan``, and store it; without epochs, as it is."""
        training = cfg.training
        if not training.epochs:
            return cfg
        steps = plan.updates(training.epochs, cfg.data.batches_per_step)
        cfg = replace(cfg, training=replace(training, steps=steps))
        if self.metrics.active:
            write_toml(cfg, self.path / "config.toml")
        return cfg

    def record(self, entries: Iterable[Entry]) -> None:
        """Add entries to the ledger, each once: steps that are done again after a resume report the same rows."""
        new = [entry for entry in dict.fromkeys(entries) if entry not in self._recorded]
        self._recorded.update(new)
        self.ledger.extend(new)

    def _settle(self, cfg: Any) -> list[Entry]:
        """Store the configuration; return what was changed, where that is allowed."""
        stored = self.path / "config.toml"
        changes: list[str] = []
        if stored.exists():
            try:
                old = BEFORE.get(type(cfg).__name__, {}) | tomllib.loads(stored.read_text(encoding="utf-8"))
                before = from_dict(type(cfg), old)
                changes = config_changes(to_dict(before), to_dict(cfg))
                if not changes and getattr(cfg, "training", None) and cfg.training.epochs:
                    cfg = replace(cfg, training=replace(cfg.training, steps=before.training.steps))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
                changes = [f"the stored configuration cannot be read: {error}"]
            if stored.stat().st_size == 0:
                changes = [f"{stored} is empty: restore it, or delete it where you are sure of the settings"]
        if changes and not self.allow_changes:
            raise RunError(
                f"{self.path} was started with another configuration:\n  "
                + "\n  ".join(changes)
                + f"\nUse the old settings (they are in {stored}) to resume it, another output folder for a new run, "
                "or --allow-changes to go on with the new ones"
            )
        for change in changes:
            logger.warning("changed configuration of %s: %s", self.path, change)
        self.checkpoints.clean()
        write_toml(cfg, stored)
        names = [change.split(": ", 1) for change in changes]
        return [Entry(self.stage, name, "config_changed", detail, ALLOWED) for name, detail in names]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
