"""Continuing exactly, being stopped, a full disk, the best weights."""

import os
import signal

import pytest
import torch

from speechssl.config import PretrainConfig
from speechssl.core.errors import CheckpointError, InterruptedRun, RunError
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.parallel import start_parallel
from speechssl.training.run_folder import RunFolder
from tests.support.tiny import ListStream, Stopping, TinyObjective, lines_of, run_tiny, same, tiny, training, weights
from tests.training.test_parallel import on_ranks


@pytest.mark.parametrize("at", [1, 3, 4, 5])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, at, ema):
    cfg = training(ema_decay=ema)
    whole, _ = run_tiny(tmp_path / "whole", cfg=cfg)
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path / "parts", stream=Stopping(at), cfg=cfg)
    torch.rand(17)  # the state of the global generator is another one
    stream = ListStream(2)
    parts, _ = run_tiny(tmp_path / "parts", tiny(), stream, cfg)
    assert stream.asked[0] == at // 2 * 2
    assert same(weights(whole), weights(parts))
    numbers = [{k: v for k, v in line.items() if k in {"step", "loss", "lr"}} for line in lines_of(tmp_path / "parts")]
    assert numbers == [
        {k: v for k, v in x.items() if k in {"step", "loss", "lr"}} for x in lines_of(tmp_path / "whole")
    ]


def test_a_finished_run_is_not_done_again(tmp_path):
    first, _ = run_tiny(tmp_path)
    stream = ListStream(2)
    again, result = run_tiny(tmp_path, stream=stream)
    assert stream.asked == []
    assert result.step == 6
    assert same(weights(first), weights(again))


def test_a_damaged_newest_checkpoint_costs_steps_not_the_run(tmp_path, caplog):
    whole, _ = run_tiny(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path / "parts", stream=Stopping(5))
    path = tmp_path / "parts" / "checkpoints" / "step-00000004" / "state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    parts, _ = run_tiny(tmp_path / "parts")
    assert same(weights(whole), weights(parts))
    assert "step-00000004" in caplog.text
    assert Checkpoints(tmp_path / "parts" / "checkpoints").newest()[0] == 6


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path):
    run_tiny(tmp_path)
    for path in tmp_path.rglob("state.pt"):
        path.write_bytes(b"")
    lines = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="no checkpoint of this run is whole"):
        run_tiny(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    class Other(TinyObjective):
        def __init__(self):
            super().__init__()
            self.extra = torch.nn.Linear(2, 2)

    run_tiny(tmp_path)
    with pytest.raises(CheckpointError, match=r"step 6 does not fit this configuration(.|\n)*extra"):
        run_tiny(tmp_path, Other())


def test_an_average_can_be_added_to_a_run_that_had_none(tmp_path):
    run_tiny(tmp_path, cfg=training(steps=4))
    with RunFolder(tmp_path).open(
        PretrainConfig(training=training(steps=6, ema_decay=0.5)), start_parallel("cpu"), allow_changes=True
    ):
        pass
    averaged, _ = run_tiny(tmp_path, cfg=training(steps=6, ema_decay=0.5))
    last = Checkpoints(tmp_path / "checkpoints").newest()[1]
    assert not same(weights(averaged), last["objective"])
    assert same(weights(averaged), last["average"]["average"])


class Signalling(ListStream):
    """Somebody presses Ctrl-C while step ``at`` is read."""

    def __init__(self, at, number):
        super().__init__(2)
        self.at, self.number = at, number

    def step(self, step):
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().step(step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_leaves(tmp_path, number):
    whole, _ = run_tiny(tmp_path / "whole")
    with pytest.raises(InterruptedRun, match="saved after step 3; run the same command again"):
        run_tiny(tmp_path / "parts", stream=Signalling(2, number))
    assert Checkpoints(tmp_path / "parts" / "checkpoints").steps() == [2, 3]
    parts, _ = run_tiny(tmp_path / "parts")
    assert same(weights(whole), weights(parts))


def test_a_signal_during_the_last_step_lets_the_run_finish(tmp_path):
    _, result = run_tiny(tmp_path, stream=Signalling(5, signal.SIGTERM))
    assert result.step == 6


class FullDisk(ListStream):
    """The disk is full during some steps."""

    def __init__(self, monkeypatch, full):
        super().__init__(2)
        self.monkeypatch, self.full, self.real = monkeypatch, full, torch.save

    def step(self, step):
        def refuse(state, file):
            file.write(b"PK")
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos")

        self.monkeypatch.setattr(torch, "save", refuse if step in self.full else self.real)
        return super().step(step)


def test_a_failing_save_is_a_warning_and_training_goes_on(tmp_path, monkeypatch, caplog):
    _, result = run_tiny(tmp_path, stream=FullDisk(monkeypatch, {3, 5}), cfg=training(steps=8))
    assert result.step == 8
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 8]
    assert "going on without a checkpoint (2 of 3)" in caplog.text
    assert not list(tmp_path.rglob("*.tmp"))


def test_three_failing_saves_in_a_row_stop_the_run(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is the disk full"):
        run_tiny(tmp_path, stream=FullDisk(monkeypatch, {3, 5, 7}), cfg=training(steps=20))
    assert Checkpoints(tmp_path / "checkpoints").newest()[0] == 2


def test_the_last_save_must_not_fail(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is the disk full"):
        run_tiny(tmp_path, stream=FullDisk(monkeypatch, {5}))


def scored(objective, values, calls):
    def validate(step):
        calls.append((step, objective.training, torch.is_grad_enabled(), objective.head.weight.clone()))
        return {"dev_wer": values[step], "other": 1.0}

    return validate


def test_the_best_weights_are_kept_and_returned(tmp_path):
    objective, calls = tiny(), []
    values = {2: 0.5, 4: 0.3, 6: 0.4}
    _, result = run_tiny(
        tmp_path, objective, cfg=training(validate_every=2), validate=scored(objective, values, calls), select="dev_wer"
    )
    assert (result.step, result.best_step, result.best_value) == (6, 4, 0.3)
    assert [call[:3] for call in calls] == [(step, False, False) for step in (2, 4, 6)]
    assert torch.equal(objective.head.weight, calls[1][3])
    assert [line["dev_wer"] for line in lines_of(tmp_path, "valid")] == [0.5, 0.3, 0.4]
    assert Checkpoints(tmp_path / "checkpoints").best()[0] == 4


def test_the_best_is_remembered_over_a_restart(tmp_path):
    values = {2: 0.3, 4: 0.5, 6: float("nan")}
    cfg = training(validate_every=2)
    first = tiny()
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path, first, Stopping(5), cfg, validate=scored(first, values, []), select="dev_wer")
    second = tiny()
    _, result = run_tiny(tmp_path, second, cfg=cfg, validate=scored(second, values, []), select="dev_wer")
    assert (result.best_step, result.best_value) == (2, 0.3)
    assert same(weights(second), Checkpoints(tmp_path / "checkpoints").best()[1]["objective"])


def test_a_damaged_best_is_replaced_by_a_later_one(tmp_path, caplog):
    values = {2: 0.3, 4: 0.5, 6: 0.4}
    cfg = training(validate_every=2)
    first = tiny()
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path, first, Stopping(5), cfg, validate=scored(first, values, []), select="dev_wer")
    (tmp_path / "checkpoints" / "best" / "state.pt").write_bytes(b"")
    second = tiny()
    _, result = run_tiny(tmp_path, second, cfg=cfg, validate=scored(second, values, []), select="dev_wer")
    assert (result.best_step, result.best_value) == (6, 0.4)
    assert "best weights so far are lost" in caplog.text


def test_a_best_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    objective = tiny()
    stream = FullDisk(monkeypatch, {1})
    options = {"validate": scored(objective, {2: 0.3, 6: 0.5, 4: 0.6}, []), "select": "dev_wer"}
    _, result = run_tiny(tmp_path, objective, stream, training(validate_every=2), **options)
    assert (result.best_step, result.best_value) == (6, 0.5)
    assert "were not kept" in caplog.text


def test_validation_sees_and_exports_the_average(tmp_path):
    objective, calls = tiny(), []
    cfg = training(ema_decay=0.9)
    run_tiny(tmp_path, objective, cfg=cfg, validate=scored(objective, {6: 0.5}, calls), select="dev_wer")
    state = Checkpoints(tmp_path / "checkpoints").newest()[1]
    assert torch.equal(calls[0][3], state["average"]["average"]["head.weight"])
    assert not torch.equal(calls[0][3], state["objective"]["head.weight"])
    assert torch.equal(objective.head.weight, calls[0][3])


def test_a_selected_value_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match="no 'dev_wer' to choose the best weights by, only dev_loss"):
        run_tiny(tmp_path, validate=lambda step: {"dev_loss": 1.0}, select="dev_wer")


def _validating(parallel, folder):
    values = {"dev_wer": 0.25} if parallel.first else {}
    _, result = run_tiny(folder, tiny(), validate=lambda step: values, select="dev_wer", parallel=parallel)
    return result.best_value


def test_the_values_of_rank_0_count_on_every_rank(tmp_path):
    assert on_ranks(_validating, tmp_path) == [0.25, 0.25]
