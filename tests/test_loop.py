"""The loop: what it computes, what it skips, what it refuses, and that it continues exactly."""

from dataclasses import replace

import torch

from speechssl.config import PretrainConfig
from speechssl.training.log import read_metrics
from speechssl.training.loop import train
from speechssl.training.parallel import start_parallel
from speechssl.training.run import RunFolder
from tests.tiny import OPTIM, ListStream, TinyObjective, training


def run_tiny(folder, objective=None, stream=None, cfg=None, optim=OPTIM, **options):
    """Train a tiny objective in ``folder``; return (objective, result)."""
    torch.manual_seed(0)
    objective = objective or TinyObjective()
    cfg = cfg or training()
    parallel = start_parallel("cpu")
    with RunFolder(folder).open(PretrainConfig(training=cfg), parallel) as run:
        result = train(
            objective, stream or ListStream(), run=run, parallel=parallel, training=cfg, optim=optim, seed=1, **options
        )
    return objective, result


def weights(objective):
    return {name: value.clone() for name, value in objective.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_metrics_checkpoints_and_its_configuration(tmp_path):
    objective, result = run_tiny(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert result.step == 6
    assert result.best_step is None
    assert (tmp_path / "config.toml").exists()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
        "step-00000006",
    ]
    assert objective.updates == [1, 2, 3, 4, 5, 6]
    assert {"loss", "lr", "grad_norm", "n_targets", "audio_seconds", "step_seconds", "loader_wait"} <= lines[0].keys()
