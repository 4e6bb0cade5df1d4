"""The options of fine-tuning that are measured one at a time: each is a setting that exists, and changes something."""

import json

import pytest

from benchmarks.options import OPTIONS, chosen
from speechssl.config import FinetuneConfig
from speechssl.config.load import load_config


@pytest.mark.parametrize("name", [name for name in OPTIONS if OPTIONS[name]])
def test_each_option_changes_the_configuration(name):
    as_demo = ["--ctc.time-mask-prob", "0.15", "--ctc.head-lr-scale", "5"]
    base = load_config(FinetuneConfig, "finetune-conformer-cpu", as_demo)
    assert load_config(FinetuneConfig, "finetune-conformer-cpu", [*as_demo, *OPTIONS[name]]) != base


def test_the_training_that_dev_chose_is_the_base(tmp_path):
    rows = [
        {"arm": arm, "lr": lr, "kept": lr == kept, "folder": str(tmp_path / f"{arm}-{lr}")}
        for arm, kept in (("finetune", 4e-3), ("finetune-scratch", 2e-3))
        for lr in (2e-3, 4e-3)
    ]
    sweep = tmp_path / "run" / "sweep"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps(rows), encoding="utf-8")
    assert chosen(tmp_path) == tmp_path / "finetune-0.004" / "config.toml"
