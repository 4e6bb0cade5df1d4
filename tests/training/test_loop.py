"""The loop: what it computes, and which steps it skips."""

from dataclasses import replace

import pytest
import torch

from speechssl.core.errors import ConfigError, RunError
from speechssl.core.ledger import Entry, read_ledger
from speechssl.core.tolerance import TooManyBadError
from speechssl.training.checkpoints.checkpoint import Checkpoints
from speechssl.training.parallel import start_parallel
from tests.support.tiny import (
    OPTIM,
    ListStream,
    Stopping,
    TinyObjective,
    batch_of,
    close,
    lines_of,
    run_tiny,
    same,
    tiny,
    training,
    weights,
)
from tests.training.test_parallel import on_ranks


def test_a_run_leaves_metrics_checkpoints_and_its_configuration(tmp_path):
    objective, result = run_tiny(tmp_path)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert (result.step, result.best_step, result.best_value) == (6, None, None)
    assert (tmp_path / "config.toml").exists()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 4, 6]
    assert objective.updates == [1, 2, 3, 4, 5, 6]
    keys = {"loss", "lr", "grad_norm", "n_targets", "audio_seconds", "step_seconds", "loader_wait", "skipped", "error"}
    assert keys <= lines[0].keys()
    assert [line["lr"] for line in lines] == pytest.approx([0.01, 0.01, 0.008, 0.006, 0.004, 0.002])
    assert lines[0]["n_targets"] == 4


def test_it_learns(tmp_path):
    make = lambda step, number: batch_of(0, number)  # noqa: E731
    run_tiny(tmp_path, tiny(dropout=0.0), ListStream(2, make=make), training(steps=60, log_every=20, save_every=60))
    losses = [line["loss"] for line in lines_of(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]


class Watched(TinyObjective):
    """Keeps the gradients of every update."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gradients = []

    def after_update(self, step, parallel):
        self.gradients.append({name: value.grad.clone() for name, value in self.named_parameters()})


def watched_run(folder, micro_batches, parallel=None):
    """One step without dropout and clipping; micro-batches are slices of the same ten rows."""
    torch.manual_seed(0)
    whole = batch_of(0, 0, rows=10)

    def make(step, number):
        rows = micro_batches[number]
        cut = {name: getattr(whole, name)[rows] for name in ("wave", "lengths", "starts", "weights", "ids")}
        return replace(whole, **cut)

    parallel = parallel or start_parallel("cpu")
    stream = ListStream(len(micro_batches), parallel.rank, parallel.world, make)
    objective = Watched(dropout=0.0)
    cfg = training(steps=1, save_every=1)
    run_tiny(folder, objective, stream, cfg, replace(OPTIM, clip=0.0), parallel)
    return {name: value.tolist() for name, value in objective.gradients[0].items()}


def test_gradients_do_not_depend_on_how_a_step_is_divided(tmp_path):
    whole = watched_run(tmp_path / "whole", [slice(0, 10)])
    uneven = watched_run(tmp_path / "uneven", [slice(0, 1), slice(1, 10)])
    for ranks in on_ranks(_watched_on_two_ranks, tmp_path / "ranks"):
        assert ranks.keys() == whole.keys()
        for name in whole:
            assert torch.allclose(torch.tensor(whole[name]), torch.tensor(ranks[name]), rtol=1e-5, atol=1e-7)
            assert torch.allclose(torch.tensor(whole[name]), torch.tensor(uneven[name]), rtol=1e-5, atol=1e-7)


def _watched_on_two_ranks(parallel, folder):
    return watched_run(folder, [slice(0, 1), slice(1, 10)], parallel)


def _on_rank(parallel, folder, options):
    """Run six steps of four micro-batches with dropout; return weights and the steps asked for."""
    empty = options.pop("empty_steps", ())
    stream = ListStream(4, parallel.rank, parallel.world, empty_steps=empty)
    objective, _ = run_tiny(folder, tiny(**options), stream, training(), parallel=parallel)
    return {name: value.tolist() for name, value in objective.state_dict().items()}


@pytest.mark.parametrize("options", [{}, {"freeze_until": 3}, {"bad_steps": (2,)}, {"empty_steps": (1,)}])
def test_two_ranks_do_what_one_rank_with_accumulation_does(tmp_path, options):
    """Dropout included: it is numbered by micro-batch, not by rank. Frozen parameters join DDP when they are freed."""
    alone = _on_rank(start_parallel("cpu"), tmp_path / "alone", dict(options))
    zero, one = on_ranks(_on_rank, tmp_path / "two", options)
    assert zero == one
    as_tensors = [{name: torch.tensor(value) for name, value in each.items()} for each in (alone, zero)]
    assert close(*as_tensors)
    here, there = lines_of(tmp_path / "alone"), lines_of(tmp_path / "two")
    for name in ("loss", "error", "grad_norm", "n_targets", "audio_seconds", "skipped"):
        assert [x.get(name, -1) for x in here] == pytest.approx([x.get(name, -1) for x in there], rel=1e-4)


def test_bf16_is_autocast_around_the_objective(tmp_path):
    seen = []
    objective = tiny()
    objective.body.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run_tiny(tmp_path, objective, cfg=training(steps=1, precision="bf16"))
    assert set(seen) == {torch.bfloat16}
    assert objective.body.weight.dtype == torch.float32


def test_settings_of_torch_are_put_back(tmp_path):
    seen = []

    class Looking(TinyObjective):
        def after_update(self, step, parallel):
            seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))

    before = torch.get_num_threads()
    run_tiny(tmp_path, Looking(), cfg=training(steps=1, threads=2, deterministic=True))
    assert seen == [(2, True)]
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_compile_compiles_the_objective(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(TinyObjective, "compile", lambda self: calls.append(self) or None)
    objective, _ = run_tiny(tmp_path, cfg=training(steps=1, compile=True))
    assert calls == [objective]


def test_groups_of_the_optimiser_come_from_the_caller(tmp_path):
    objective = tiny()
    before = weights(objective)
    body, head = list(objective.body.parameters()), list(objective.head.parameters())
    run_tiny(
        tmp_path, objective, param_groups=[{"params": body, "lr_scale": 0.0, "weight_decay": 0.0}, {"params": head}]
    )
    assert torch.equal(before["body.weight"], objective.body.weight)
    assert not torch.equal(before["head.weight"], objective.head.weight)


def test_a_bad_schedule_is_refused_before_anything_is_read(tmp_path):
    stream = ListStream()
    with pytest.raises(ConfigError, match="warmup"):
        run_tiny(tmp_path, stream=stream, optim=replace(OPTIM, warmup=2.0))
    assert stream.asked == []


def test_a_step_with_nan_changes_nothing_and_the_run_goes_on(tmp_path, caplog):
    objective = tiny(bad_steps=(3,))
    _, result = run_tiny(tmp_path, objective)
    assert result.step == 6
    assert objective.updates == [1, 2, 3, 5, 6]
    saved = Checkpoints(tmp_path / "checkpoints", 9)
    assert [line["skipped"] for line in lines_of(tmp_path)] == [0, 0, 0, 1, 1, 1]
    assert all(torch.isfinite(value).all() for value in saved.newest()[1]["objective"].values())
    entries = read_ledger(tmp_path / "ledger.jsonl")
    assert [entry.item for entry in entries] == ["s3-m0-r0", "s3-m0-r1", "s3-m1-r0", "s3-m1-r1"]
    assert {(entry.stage, entry.reason, entry.action) for entry in entries} == {
        ("pretrain", "non_finite_gradient", "dropped")
    }
    (line,) = lines_of(tmp_path, "health")
    assert (line["name"], line["step"], len(line["ids"])) == ("skipped_step", 4, 4)
    assert "s3-m0-r0" in caplog.text


def test_the_skipped_step_leaves_weights_and_moments_alone(tmp_path):
    run_tiny(tmp_path / "a", tiny(bad_steps=(3,)), cfg=training(save_every=1, keep=9))
    checkpoints = Checkpoints(tmp_path / "a" / "checkpoints")
    before, after = checkpoints.load(checkpoints.path(3)), checkpoints.load(checkpoints.path(4))
    assert same(before["objective"], after["objective"])
    for number, moments in before["optimizer"].items():
        assert same(moments, after["optimizer"][number])


def test_nan_forever_stops_the_run(tmp_path):
    with pytest.raises(RunError, match=r"3 steps in a row without an update \(non_finite_gradient\), up to step 4"):
        run_tiny(tmp_path, tiny(bad_steps=range(2, 99)), cfg=training(steps=50, max_skips=3))
    assert len(lines_of(tmp_path, "health")) == 3


def test_skips_in_a_row_are_counted_over_a_restart(tmp_path):
    cfg = training(steps=50, max_skips=4, save_every=1)
    stream = Stopping(4)
    with pytest.raises(RuntimeError, match="plug"):
        run_tiny(tmp_path, tiny(bad_steps=range(2, 99)), stream, cfg)
    with pytest.raises(RunError, match=r"4 steps in a row .* up to step 5"):
        run_tiny(tmp_path, tiny(bad_steps=range(2, 99)), cfg=cfg)


def test_steps_without_targets_are_skipped_and_stop_the_run_when_they_last(tmp_path):
    objective, _ = run_tiny(tmp_path / "a", stream=ListStream(2, empty_steps=(0, 3)))
    assert objective.updates == [2, 3, 5, 6]
    with pytest.raises(RunError, match=r"no_targets.*mask settings"):
        run_tiny(tmp_path / "b", stream=ListStream(2, empty_steps=range(99)), cfg=training(steps=50, max_skips=3))


def test_one_micro_batch_without_targets_does_not_matter(tmp_path):
    def make(step, number):
        batch = batch_of(step, number)
        return replace(batch, weights=torch.zeros(2), wave=batch.wave * float("nan")) if number == 1 else batch

    objective, _ = run_tiny(tmp_path / "a", stream=ListStream(2, make=make))
    alone, _ = run_tiny(tmp_path / "b", stream=ListStream(1))
    assert same(weights(objective), weights(alone))
    assert objective.updates == [1, 2, 3, 4, 5, 6]


def _rejecting(parallel, folder):
    def make(step, number):
        return replace(batch_of(step, number), rejected=(Entry("pretrain", f"bad-{number}", "not_audio"),))

    run_tiny(folder, tiny(), ListStream(2, parallel.rank, parallel.world, make), parallel=parallel)


def test_unreadable_rows_of_all_ranks_reach_the_ledger_once(tmp_path):
    on_ranks(_rejecting, tmp_path)
    assert sorted(entry.item for entry in read_ledger(tmp_path / "ledger.jsonl")) == ["bad-0", "bad-1"]


def _giving_up(parallel, folder):
    def make(step, number):
        entry = Entry("pretrain", f"bad-{step}-{number}", "not_audio")
        if step == 3 and parallel.rank == parallel.world - 1:
            raise TooManyBadError("3 of the last 3 utterances could not be read", [entry])
        return replace(batch_of(step, number), rejected=(entry,) if step else ())

    try:
        stream = ListStream(2, parallel.rank, parallel.world, make)
        run_tiny(folder, tiny(), stream, training(log_every=2), parallel=parallel)
    except TooManyBadError as error:
        return str(error)
    except RuntimeError:
        return "left alone"


def test_too_many_unreadable_rows_are_all_in_the_ledger(tmp_path):
    """Those of the step that is too much, and those remembered since the last log line; also on a rank above 0."""
    assert _giving_up(start_parallel("cpu"), tmp_path / "one") == "3 of the last 3 utterances could not be read"
    listed = [entry.item for entry in read_ledger(tmp_path / "one" / "ledger.jsonl")]
    assert sorted(listed) == ["bad-1-0", "bad-1-1", "bad-2-0", "bad-2-1", "bad-3-0"]
    assert on_ranks(_giving_up, tmp_path / "two")[1] == "3 of the last 3 utterances could not be read"
    listed = {entry.item for entry in read_ledger(tmp_path / "two" / "ledger.jsonl")}
    assert {"bad-1-0", "bad-1-1", "bad-2-1", "bad-3-1"} <= listed
