"""Findings, diverging ranks and warnings as the loop writes them down."""

import logging
from dataclasses import replace

import pytest
import torch

from speechssl.core.errors import RunError
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.training.monitoring import health
from speechssl.training.monitoring.log import read_metrics
from tests.support.tiny import Stopping, TinyObjective, lines_of, run_tiny, tiny, training
from tests.training.test_parallel import on_ranks


class Dead(TinyObjective):
    """Reports a dead codebook."""

    rules = Wav2Vec2.rules

    def forward(self, prepared):
        loss = super().forward(prepared)
        return replace(loss, metrics={**loss.metrics, "perplexity_0": torch.tensor(1.0)})


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_a_collapse_warns_or_stops(tmp_path, on_collapse, caplog, monkeypatch):
    monkeypatch.setattr(health, "GRACE_STEPS", 20)
    cfg = training(steps=30, log_every=5, save_every=30, on_collapse=on_collapse)
    if on_collapse == "stop":
        with pytest.raises(RunError, match=r"step 20: codebook_collapse: perplexity_0 is 1\.00"):
            run_tiny(tmp_path, Dead(), cfg=cfg)
    else:
        assert run_tiny(tmp_path, Dead(), cfg=cfg)[1].step == 30
        assert "codebook_collapse" in caplog.text
    found = [line for line in lines_of(tmp_path, "health") if line["name"] == "codebook_collapse"]
    assert [(line["step"], line["severity"]) for line in found] == [(20, "collapse")]


def test_a_resumed_run_remembers_what_it_has_found(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "GRACE_STEPS", 5)
    cfg = training(steps=10, save_every=6)
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path, Dead(), Stopping(7), cfg)
    run_tiny(tmp_path, Dead(), cfg=cfg)
    found = [line for line in lines_of(tmp_path, "health") if line["name"] == "codebook_collapse"]
    assert [line["step"] for line in found] == [5]


def test_the_level_of_chance_is_the_first_line_once(tmp_path):
    cfg = training(steps=4, save_every=2)
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path, tiny(), Stopping(3), cfg)
    run_tiny(tmp_path, tiny(), cfg=cfg)
    first, *others = read_metrics(tmp_path / "metrics.jsonl")
    assert (first["phase"], first["step"], first["error"]) == ("chance", 0, 1.0)
    assert {line["phase"] for line in others} == {"train"}


def _diverging(parallel, folder):
    objective = tiny()
    if parallel.rank == 1:

        def perturb(step, parallel):
            if step == 4:
                with torch.no_grad():
                    objective.body.weight[0, 0] += 1e-3

        objective.after_update = perturb
    try:
        run_tiny(folder, objective, parallel=parallel)
    except RunError as error:
        return str(error)
    return "nothing was noticed"


def test_ranks_that_diverge_are_noticed(tmp_path):
    for message in on_ranks(_diverging, tmp_path):
        assert message.startswith("after step 4 the weights of rank(s) [1] differ from those of rank 0")


def test_warnings_reach_the_log_of_the_package(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "speechssl")
    run_tiny(tmp_path, tiny(bad_steps=(0,)))
    assert all(record.name.startswith("speechssl") for record in caplog.records)
    assert caplog.records
