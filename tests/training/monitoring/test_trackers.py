"""Trackers: what they are told, that they go on after a resume, and that a run outlives them."""

import json
import subprocess
import sys
import types

import pytest

from speechssl.cli.main import main
from speechssl.config import TrainingConfig
from speechssl.config.load import load_config
from speechssl.core.errors import ConfigError
from speechssl.training.monitoring.log import MetricsLog, read_metrics
from speechssl.training.monitoring.trackers import check_trackers

CONFIG = {"seed": 7, "optim": {"lr": 0.5}}


class FakeRun:
    def __init__(self, **options):
        self.options, self.lines, self.finished = options, [], False

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module with the calls of wandb that are used; ``runs`` has what was opened."""
    module = types.ModuleType("wandb")
    module.runs = []
    module.init = lambda **options: module.runs.append(FakeRun(**options)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def logged(folder, steps, *trackers, cut=None):
    log = MetricsLog(folder / "metrics.jsonl", trackers=trackers, config=CONFIG)
    if cut is not None:
        log.cut(cut)
    for step in steps:
        log.append(step, "train", {"loss": 1.0 / step, "note": "text"})
    log.close()


def test_wandb_gets_numbers_by_step_and_the_configuration(wandb, tmp_path, monkeypatch):
    logged(tmp_path / "mine", [1, 2], "wandb")
    (run,) = wandb.runs
    assert run.lines == [(1, {"train/loss": 1.0}), (2, {"train/loss": 0.5})]
    assert run.finished
    assert (run.options["project"], run.options["name"], run.options["config"]) == ("speechssl", "mine", CONFIG)
    assert not (tmp_path / "mine" / "events").exists()
    monkeypatch.setenv("WANDB_PROJECT", "other")
    logged(tmp_path / "mine", [2], "wandb", cut=1)
    assert wandb.runs[1].options["id"] == run.options["id"], "a resumed run goes on under its id"
    assert wandb.runs[1].options["project"] == "other"
    logged(tmp_path / "another", [1], "wandb")
    assert wandb.runs[2].options["id"] != run.options["id"]


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(wandb, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(FakeRun, "log", lambda *_, **__: 1 / 0)
    logged(tmp_path, [1, 2, 3], "wandb")
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert caplog.text.count("wandb fails (division by zero); the rest of the run is in metrics.jsonl") == 1
    monkeypatch.setattr(wandb, "init", lambda **_: 1 / 0)
    logged(tmp_path, [4], "wandb")
    assert "wandb cannot be used: division by zero" in caplog.text


def test_what_is_not_installed_is_an_error_before_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_trackers(["tensorboard"])
    with pytest.raises(ConfigError, match=r"mlflow is not installed: `pip install mlflow-skinny`"):
        check_trackers(["tensorboard", "mlflow"])


def test_the_flag_is_short_for_the_setting(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("speechssl.training.pretrain.pretrain", lambda cfg, **_: seen.append(cfg.training.log))
    assert main(["pretrain", "tiny", "--log", "wandb", "mlflow", "--seed", "2"]) == 0
    assert seen == [("wandb", "mlflow")]
    assert load_config(TrainingConfig).log == ("tensorboard",)
    capsys.readouterr()


def test_nothing_is_imported_unless_it_is_asked_for(tmp_path):
    code = (
        "import sys; from pathlib import Path; from speechssl.training.monitoring.log import MetricsLog; "
        "log = MetricsLog(Path(sys.argv[1]) / 'metrics.jsonl', trackers=()); log.append(1, 'train', {'loss': 1.0}); "
        "print({'wandb', 'trackio', 'mlflow', 'tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_real_wandb_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra trackers (wandb) is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(tmp_path / "run", [1, 2], "wandb")
    logged(tmp_path / "run", [2, 3], "wandb", cut=1)
    ids = json.loads((tmp_path / "run" / "trackers.json").read_text())
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) >= 1 and all(ids["wandb"] in path.name for path in files)
    assert sum(path.stat().st_size for path in files) > 200


def test_real_trackio_without_a_network(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="the extra trackers (trackio) is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("TRACKIO_PROJECT", "test")
    logged(tmp_path / "run", [1, 2], "trackio")
    ids = json.loads((tmp_path / "run" / "trackers.json").read_text())
    (run,) = trackio.Api().runs("test")
    assert run.name == ids["trackio"]


def test_real_mlflow_without_a_network(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra trackers (mlflow) is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs all of mlflow
    mlflow.set_tracking_uri(f"file:{tmp_path}/store")
    logged(tmp_path / "run", [1, 2], "mlflow")
    logged(tmp_path / "run", [3], "mlflow", cut=2)
    known = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    history = client.get_metric_history(known, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert client.get_run(known).info.status == "FINISHED"
