"""Early stopping and the mean of the best weights: exact, the same after a resume, bounded on the disk."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import CheckpointError
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.checkpoints.leaders import Leaders, mean_of
from speechssl.training.parallel import start_parallel
from tests.support.tiny import OPTIM, ListStream, Stopping, lines_of, run_tiny, same, tiny, training, weights
from tests.training.test_parallel import on_ranks

VALUES = {1: 0.9, 2: 0.5, 3: 0.6, 4: 0.3, 5: 0.5, 6: 0.4, 7: 0.8, 8: 0.7, 9: 0.2, 10: 0.1}
FALLING = replace(OPTIM, warmup=0.0)


def scored(objective, seen, values=VALUES, mean=0.35):
    """Return a validation that remembers the weights of each call; a second call for a step judges the mean."""
    steps = set()

    def validate(step):
        again = step in steps
        steps.add(step)
        seen.append((step, weights(objective)))
        return {"dev_wer": mean if again else values[step]}

    return validate


def run(folder, seen=None, stream=None, optim=FALLING, values=VALUES, mean=0.35, **changes):
    objective = tiny()
    cfg = training(**{"steps": 6, "validate_every": 1, **changes})
    validate = scored(objective, [] if seen is None else seen, values, mean)
    options = {"validate": validate, "select": "dev_wer"}
    return run_tiny(folder, objective, stream or ListStream(2), cfg, optim, **options)


def slow_mean(states):
    """Return the mean of each number, summed without rounding."""
    return {
        name: torch.tensor(
            [
                float(np.float32(math.fsum(numbers) / len(states)))
                for numbers in zip(*(s[name].flatten().tolist() for s in states), strict=True)
            ]
        ).view_as(states[0][name])
        for name in states[0]
    }


def test_the_mean_is_that_of_a_slow_sum_and_leaves_integers_alone():
    torch.manual_seed(3)
    states = [{"w": torch.randn(50, 7) * 10.0 ** (i - 2), "b": torch.randn(3)} for i in range(5)]
    assert same(mean_of(iter(states)), slow_mean(states))
    before = [{name: value.clone() for name, value in state.items()} for state in states]
    half = [{**state, "count": torch.tensor([i]), "h": state["w"].double()} for i, state in enumerate(states)]
    found = mean_of(half)
    assert (found["count"].item(), found["h"].dtype) == (0, torch.float64)
    assert all(same(state, old) for state, old in zip(states, before, strict=True))


def test_the_mean_of_the_best_is_validated_and_exported_if_it_is_not_worse(tmp_path):
    seen = []
    objective, result = run(tmp_path / "better", seen, average=3, mean=0.3)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6, 6]
    at = dict(seen[:6])
    expected = slow_mean([at[step] for step in (4, 5, 6)])  # 0.3, 0.4, and of 0.5 (steps 2 and 5) the later one
    assert same(seen[-1][1], expected)
    assert same(weights(objective), expected)
    assert (result.mean.steps, result.mean.value, result.took_mean) == ((4, 5, 6), 0.3, True)
    assert (result.best_step, result.best_value) == (4, 0.3)
    (line,) = lines_of(tmp_path / "better", "average")
    assert (line["step"], line["steps"], line["dev_wer"]) == (6, [4, 5, 6], 0.3)
    names = sorted(path.name for path in (tmp_path / "better" / "checkpoints").iterdir())
    assert [name for name in names if name.startswith("best")] == [
        "best",
        "best-00000004",
        "best-00000005",
        "best-00000006",
    ]
    worse = run(tmp_path / "worse", at_worse := [], average=3, mean=0.31)
    assert not worse[1].took_mean
    assert same(weights(worse[0]), dict(at_worse)[4])
    assert run(tmp_path / "alone", average=3, steps=1)[1].mean is None


def test_what_is_averaged_is_the_moving_average_where_there_is_one(tmp_path):
    seen = []
    run(tmp_path, seen, average=2, ema_decay=0.9)
    state = Checkpoints(tmp_path / "checkpoints").newest()[1]
    at = dict(seen[:6])
    assert same(at[6], state["average"]["average"])
    assert not same(at[6], state["objective"])
    assert same(seen[-1][1], slow_mean([at[4], at[6]]))


@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_run_that_was_stopped_keeps_and_averages_the_same(tmp_path, at):
    whole, expected = run(tmp_path / "whole", average=2, mean=0.1, save_every=3)
    with pytest.raises(RuntimeError, match="plug"):
        run(tmp_path / "parts", stream=Stopping(at), average=2, save_every=3)
    parts, result = run(tmp_path / "parts", average=2, mean=0.1, save_every=3)
    assert result == expected
    assert same(weights(whole), weights(parts))
    seen = []
    again, result = run(tmp_path / "parts", seen, average=2, mean=0.9, save_every=3)  # finished: not judged again
    assert (seen, result) == ([], expected)
    assert same(weights(whole), weights(again))


def test_patience_counts_validations_after_the_lowest(tmp_path):
    objective, result = run(tmp_path, at := [], steps=10, patience=3)
    assert (result.step, result.best_step) == (7, 4)  # 5, 6 and 7 are not below 0.3
    assert same(weights(objective), dict(at)[4])
    assert result.stopped == (
        "stopped after update 7 of 10: dev_wer was lowest at 4 (0.3000), and 3 more validations gave no lower one "
        "(training.patience); the learning rate was 0.004"
    )
    assert [line["why"] for line in lines_of(tmp_path, "stopped")] == [result.stopped]
    stream = ListStream(2)
    again, second = run(tmp_path, stream=stream, steps=10, patience=3)
    assert (stream.asked, second) == ([], result)
    assert same(weights(again), weights(objective))
    assert run(tmp_path / "more", steps=10, patience=5)[1].step == 10


def test_patience_waits_for_the_rate_to_fall_and_for_a_frozen_encoder(tmp_path):
    flat = dict.fromkeys(range(1, 11), 1.0)
    assert run(tmp_path / "a", values=flat, steps=10, patience=2)[1].step == 3
    assert run(tmp_path / "b", values=flat, optim=replace(OPTIM, warmup=0.4), steps=10, patience=2)[1].step == 6
    hold = replace(OPTIM, schedule="tri-stage", warmup=0.2, hold=0.4, final_scale=0.1)
    assert run(tmp_path / "c", values=flat, optim=hold, steps=10, patience=2)[1].step == 8
    objective = tiny()
    options = {"validate": scored(objective, [], flat), "select": "dev_wer", "settled": 5}
    cfg = training(steps=10, validate_every=1, patience=2)
    assert run_tiny(tmp_path / "d", objective, ListStream(2), cfg, FALLING, **options)[1].step == 7


@pytest.mark.parametrize("at", [4, 5, 6])
def test_patience_is_exact_over_a_restart(tmp_path, at):
    """``best/`` may be of a step that is done again: what counts is the history up to the checkpoint."""
    values = {1: 0.9, 2: 0.8, 3: 0.8, 4: 0.7, 5: 0.6, 6: 0.6, 7: 0.6, 8: 0.1, 9: 0.1, 10: 0.1}
    changes = {"values": values, "steps": 10, "patience": 2, "save_every": 3, "average": 2}
    whole, expected = run(tmp_path / "whole", **changes)
    assert expected.step == 7
    with pytest.raises(RuntimeError, match="plug"):
        run(tmp_path / "parts", stream=Stopping(at), **changes)
    parts, result = run(tmp_path / "parts", **changes)
    assert result == expected
    assert same(weights(whole), weights(parts))


def test_a_damaged_one_is_left_out_on_a_restart_and_an_error_at_the_end(tmp_path, caplog):
    with pytest.raises(RuntimeError, match="plug"):
        run(tmp_path, stream=Stopping(4), average=2)
    (tmp_path / "checkpoints" / "best-00000004" / "state.pt").write_bytes(b"")
    assert run(tmp_path, average=2)[1].mean.steps == (5, 6)
    assert "left out of the mean of the best weights" in caplog.text
    leaders = Leaders(Checkpoints(tmp_path / "checkpoints"), 2, start_parallel("cpu"))
    (tmp_path / "checkpoints" / "best-00000005" / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="best-00000005"):
        leaders.mean([5, 6])


def test_one_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    leaders = Leaders(Checkpoints(tmp_path), 2, start_parallel("cpu"))
    state = {"w": torch.zeros(1)}
    leaders.keep(1, 0.5, state)
    leaders.keep(2, float("nan"), state)

    def full(*_):
        raise RuntimeError("unexpected pos")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        leaders.keep(3, 0.4, state)
    assert "cannot save" in caplog.text
    leaders.keep(4, 0.6, state)
    leaders.keep(1, 0.7, state)  # done again with another value
    assert leaders.steps() == [1, 4]
    leaders.keep(5, 0.6, state)
    assert leaders.steps() == [4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-00000004", "best-00000005"]


def _averaging(parallel, folder):
    objective = tiny()
    validate = scored(objective, [], VALUES if parallel.first else dict.fromkeys(VALUES, 0.0), 0.1 * parallel.first)
    cfg = training(steps=10, validate_every=1, average=2, patience=3)
    stream = ListStream(2, parallel.rank, parallel.world)
    options = {"validate": validate, "select": "dev_wer", "parallel": parallel}
    _, result = run_tiny(folder, objective, stream, cfg, FALLING, **options)
    return [result.step, list(result.mean.steps), result.mean.value, result.took_mean, objective.head.weight.tolist()]


def test_ranks_stop_and_average_together(tmp_path):
    zero, one = on_ranks(_averaging, tmp_path)
    assert zero == one
    assert zero[:4] == [7, [4, 6], 0.1, True]
