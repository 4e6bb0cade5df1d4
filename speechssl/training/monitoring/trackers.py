"""Where metrics go besides ``metrics.jsonl``: TensorBoard, Weights & Biases, trackio, MLflow.

In: the names of trackers, a run folder and its configuration. Out: scalars named ``PHASE/METRIC`` by step. A library is
imported when its tracker is asked for, never before. Where it sends them is its own affair: ``WANDB_MODE=offline``,
``WANDB_PROJECT``, ``TRACKIO_SPACE_ID``, ``MLFLOW_TRACKING_URI`` and the like. A resumed run goes on under its old id,
which ``trackers.json`` in the run folder holds.
"""

import importlib
import importlib.util
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from speechssl.core.errors import ConfigError
from speechssl.core.files import find_json, write_json

__all__ = ["Tracker", "Trackers", "check_trackers"]

PROJECT = "speechssl"
"""Project (W&B, trackio) or experiment (MLflow), where the environment names no other."""
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow-skinny"}
FILE_NAME = "trackers.json"

logger = logging.getLogger("speechssl.run")


class Tracker(Protocol):
    """One place for metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""

    def close(self) -> None:
        """End the run there."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError when a tracker's library is not installed; TensorBoard's may be absent."""
    for name in names:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"training.log: {name} is not installed: `pip install {PACKAGES[name]}`, or leave {name} out"
            )


class Trackers:
    """The trackers of a run; one that fails is left out with a warning, because ``metrics.jsonl`` has everything.

    Parameters
    ----------
    purge
        TensorBoard drops what it has from this step on: it is about to be done again.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, config: Mapping[str, Any], *, purge: int | None = None
    ) -> None:
        self._open: dict[str, Tracker] = {}
        ids: dict[str, str] = find_json(folder / FILE_NAME) or {}
        before = dict(ids)
        for name in names:
            try:
                match name:
                    case "tensorboard":
                        if importlib.util.find_spec("tensorboard") is None:
                            continue
                        self._open[name] = _TensorBoard(folder, purge)
                    case "mlflow":
                        self._open[name] = _Mlflow(folder, config, ids)
                    case _:
                        self._open[name] = _Wandb(name, folder, config, ids)
            except Exception as error:  # each library has errors of its own; no network is one
                logger.warning("training.log: %s cannot be used: %s", name, error)
        if ids != before:
            write_json(folder / FILE_NAME, ids)

    def log(self, step: int, phase: str, values: Mapping[str, Any]) -> None:
        """Write the numbers among the values."""
        numbers = {f"{phase}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, numbers)
            except Exception as error:
                logger.warning("training.log: %s fails (%s); the rest of the run is in metrics.jsonl", name, error)
                del self._open[name]

    def close(self) -> None:
        """End all."""
        for name, tracker in self._open.items():
            try:
                tracker.close()
            except Exception as error:
                logger.warning("training.log: %s cannot be closed: %s", name, error)
        self._open = {}


class _TensorBoard:
    """Event files in ``events/``."""

    def __init__(self, folder: Path, purge: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "events"), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


class _Wandb:
    """Weights & Biases, or trackio, which has the same calls."""

    def __init__(self, library: str, folder: Path, config: Mapping[str, Any], ids: dict[str, str]) -> None:
        module = importlib.import_module("trackio") if library == "trackio" else importlib.import_module("wandb")
        known = ids.setdefault(library, f"{folder.name}-{uuid.uuid4().hex[:8]}")
        own = {"name": known} if library == "trackio" else {"id": known, "name": folder.name, "dir": str(folder)}
        project = os.environ.get(f"{library.upper()}_PROJECT", PROJECT)
        self._run = module.init(project=project, config=dict(config), resume="allow", **own)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """An MLflow server, file or folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], ids: dict[str, str]) -> None:
        import mlflow

        self._client, self._metric = mlflow.MlflowClient(), mlflow.entities.Metric
        if "mlflow" not in ids:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            ids["mlflow"] = self._client.create_run(experiment, run_name=folder.name).info.run_id
            self._client.log_dict(ids["mlflow"], dict(config), "config.json")
        self._id = ids["mlflow"]
        self._client.update_run(self._id, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)
