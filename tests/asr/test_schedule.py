"""The length of fine-tuning: epochs, early stopping on dev, and the mean of the weights that were best."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechssl.asr.evaluate import evaluate
from speechssl.asr.finetune import finetune, with_steps
from speechssl.asr.validation import Validation
from speechssl.config import EvaluateConfig, FinetuneConfig, OptimConfig, PretrainConfig, TrainingConfig
from speechssl.config.load import to_dict
from speechssl.core.errors import ConfigError, RunError
from speechssl.interop.model_folder import load_folder
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.pretrain import pretrain
from speechssl.training.run_folder import config_changes
from tests.support.tones import recipe, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("schedule"), {"train": 30, "dev": 6})


def short(shards: Path, output: Path, **changes: object) -> FinetuneConfig:
    cfg = recipe(shards, output)
    usual = {"steps": 6, "validate_every": 2, "save_every": 2, "log_every": 1}
    return replace(cfg, training=replace(cfg.training, **{**usual, **changes}))


def stored(run: Path) -> dict:
    return tomllib.loads((run / "config.toml").read_text())["training"]


def test_epochs_become_updates_that_are_said_stored_and_kept(shards: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    cfg = short(shards, tmp_path / "run", steps=1000, epochs=2.5)
    batches = 3  # 30 utterances of 1.1 s on average in batches of 20 s: three buckets
    settled = with_steps(cfg)
    assert settled.training.steps == 8  # 2.5 * 3, rounded up
    assert with_steps(replace(cfg, data=replace(cfg.data, batches_per_step=2))).training.steps == 4
    validate = Validation.__call__

    def power_cut(self: Validation, step: int) -> dict[str, float]:
        if step == 6:
            raise OSError("the machine is gone")
        return validate(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", power_cut)
        with pytest.raises(OSError, match="gone"):
            finetune(cfg)
    assert f"8 updates of up to 20 s, 2.7 epochs of {batches} batches (training.epochs = 2.5)" in capfd.readouterr().err
    assert (stored(tmp_path / "run")["steps"], stored(tmp_path / "run")["epochs"]) == (8, 2.5)
    info = load_folder(finetune(cfg)).info
    assert (info["steps"], info["epochs"]) == (8, 2.67)
    assert stored(tmp_path / "run")["steps"] == 8
    with pytest.raises(RunError, match=r"training\.epochs: 2\.5 -> 3\.0"):
        finetune(short(shards, tmp_path / "run", epochs=3.0))
    # The same updates without epochs compute the same: the schedule has the length of the resolved updates.
    plain = finetune(short(shards, tmp_path / "plain", steps=8))
    one, other = load_folder(tmp_path / "run" / "model").state, load_folder(plain).state
    assert all(torch.equal(one[name], value) for name, value in other.items())
    assert config_changes(to_dict(cfg), to_dict(settled)) == []


def test_the_mean_of_the_best_is_exported_with_its_own_dev_wer(shards: Path, tmp_path: Path, capfd) -> None:
    cfg = short(shards, tmp_path / "run", steps=90, validate_every=15, average=3, ema_decay=0.9)
    model = finetune(cfg)
    info, said = load_folder(model).info, capfd.readouterr().err
    (line,) = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["phase"] == "average"]
    single = min(line["dev_wer"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "dev_wer" in line)
    assert f"dev WER {line['dev_wer']:.2%}; best single weights" in said
    if line["dev_wer"] <= single:
        assert info["mean_of_steps"] == line["steps"]
        assert info["selected"] == "mean of the 3 weights with the lowest dev WER"
    report = evaluate(EvaluateConfig(model=str(model), data=replace(cfg.dev, shards=str(shards))))
    assert report.wer == info["dev_wer"] == min(single, line["dev_wer"]) < 0.9
    finetune(cfg)  # complete: judged once
    assert sum(line["phase"] == "average" for line in read_metrics(tmp_path / "run" / "metrics.jsonl")) == 1


def test_early_stopping_says_when_and_why_and_stays(shards: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    validate, calls = Validation.__call__, []

    def flat(self: Validation, step: int) -> dict[str, float]:
        calls.append(step)
        return validate(self, step) | {"dev_wer": 0.5}

    monkeypatch.setattr(Validation, "__call__", flat)
    optim = OptimConfig(lr=1e-3, warmup=0.1)
    cfg = replace(short(shards, tmp_path / "run", steps=20, patience=2), optim=optim)
    info = load_folder(finetune(cfg)).info
    assert (info["step"], info["steps"], info["stopped"].partition(":")[0]) == (2, 20, "stopped after update 6 of 20")
    assert info["stopped"] in capfd.readouterr().err
    assert load_folder(finetune(cfg)).info == info
    assert calls == [2, 4, 6]
    bare = write_shards(tmp_path / "bare", {"train": 6})
    finetune(replace(cfg, output=str(tmp_path / "other"), data=replace(cfg.data, shards=str(bare))))
    assert "unselected; training.patience and training.average do nothing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": -1.0}, r"training\.epochs = -1"),
        ({"patience": -1}, r"training\.patience = -1, training\.average = 0: at least 0"),
        ({"patience": 1}, r"set training\.validate_every, for example to 20,000"),
        ({"average": 5}, r"set training\.validate_every"),
    ],
)
def test_lengths_that_mean_nothing_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**wrong)


@pytest.mark.parametrize("setting", ["patience", "average"])
def test_pretraining_has_no_dev_wer_to_choose_by(setting: str) -> None:
    with pytest.raises(ConfigError, match="they are settings of fine-tuning"):
        pretrain(PretrainConfig(training=TrainingConfig(validate_every=1, **{setting: 2})))
