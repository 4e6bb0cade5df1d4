"""How long the demo will take, from the time of its updates; and the progress that follows it."""

import io
import sys
from dataclasses import replace

import pytest

from speechssl.config import RelabelConfig
from speechssl.config.load import load_config
from speechssl.core import progress as progress_module
from speechssl.core.progress import Whole, bars
from speechssl.workflows import demo as demo_module
from speechssl.workflows import outlook
from speechssl.workflows.demo import DemoConfig
from speechssl.workflows.outlook import Hours, Speed, expected_seconds, measure_speed, tuning_updates
from tests.support.whole import settings

HOURS = Hours(unlabelled=1.0, labelled=0.2, dev=0.1, test=0.3)
SPEED = Speed(pretrain=0.1, finetune=0.05, slower=1.0)


def run_of(**changes):
    cfg = load_config(DemoConfig, "demo", []).run
    return replace(cfg, scratch=True, learning_rates=(1e-3, 2e-3), jobs=2, halve_at=(), **changes)


def updates(cfg, steps):
    return replace(cfg, finetune=replace(cfg.finetune, training=replace(cfg.finetune.training, steps=steps)))


@pytest.mark.parametrize(
    ("rates", "halve_at", "expected"),
    [(1, (0.5,), [100]), (3, (), [100] * 3), (3, (0.25, 0.5), [100, 50, 25]), (4, (0.2,), [100, 100, 20, 20])],
)
def test_rates_that_end_early_are_counted_as_long_as_they_run(rates, halve_at, expected):
    assert tuning_updates(rates, 100, halve_at) == expected


def test_the_stages_that_are_expected_are_those_that_run():
    names = list(expected_seconds(run_of(), HOURS, SPEED, corpus=True))
    arms = ["finetune", "finetune-scratch", "evaluate", "evaluate-scratch"]
    assert names == ["corpus", "manifest", "shard", "pretrain", *arms, "report"]
    alone = replace(run_of(), scratch=False)
    assert "corpus" not in expected_seconds(run_of(), HOURS, SPEED, corpus=False)
    assert not [name for name in expected_seconds(alone, HOURS, SPEED, corpus=True) if "scratch" in name]


def test_epochs_of_fine_tuning_are_counted_in_updates_of_the_labels():
    cfg = run_of()
    training, batch = cfg.finetune.training, outlook.FINETUNE_FILLED * cfg.finetune.data.batch_seconds
    epochs = replace(training, epochs=500 * batch / (3600 * HOURS.labelled))  # 500 updates
    by_epochs = replace(cfg, finetune=replace(cfg.finetune, training=epochs))
    expected = expected_seconds(updates(cfg, 500), HOURS, SPEED, corpus=True)
    assert expected_seconds(by_epochs, HOURS, SPEED, corpus=True) == expected


def test_every_round_is_expected(monkeypatch):
    monkeypatch.setattr(outlook, "cores", lambda: 1)
    cfg = replace(run_of(), rounds=2, relabel=RelabelConfig(clusters=200, steps=50), jobs=1)
    once = expected_seconds(replace(cfg, rounds=1), HOURS, SPEED, corpus=True)
    found = expected_seconds(cfg, HOURS, SPEED, corpus=True)
    arms = ["finetune", "pretrain-2", "finetune-2", "finetune-scratch", "evaluate", "evaluate-2", "evaluate-scratch"]
    assert list(found) == ["corpus", "manifest", "shard", "pretrain", *arms, "report"]
    units = outlook.UNITS[0] * HOURS.train + outlook.UNITS[1] * 2
    assert found["pretrain-2"] == pytest.approx(outlook.START + 50 * SPEED.pretrain + units)
    assert found["finetune-2"] == found["finetune"] and found["evaluate-2"] == found["evaluate"]
    assert {name: found[name] for name in once} == once


def test_updates_that_take_twice_as_long_double_the_training(monkeypatch):
    monkeypatch.setattr(outlook, "cores", lambda: 2)
    cfg = run_of()
    once, twice = (
        expected_seconds(cfg, HOURS, Speed(factor * 0.1, factor * 0.05, 1.0), corpus=True) for factor in (1, 2)
    )
    steps = sum(cfg.pretrain.objective.targets.steps)
    assert twice["pretrain"] - once["pretrain"] == pytest.approx(0.1 * steps)
    assert twice["evaluate"] == once["evaluate"]


def test_what_is_expected_of_two_cores_is_the_work_shared_out(monkeypatch):
    """Compared with a simulation in small steps: each process gets its share of the cores until it is done."""
    monkeypatch.setattr(outlook, "cores", lambda: 2)
    for steps in (200, 1500, 4000):
        cfg = updates(run_of(), steps)
        found = expected_seconds(cfg, HOURS, SPEED, corpus=True)
        arm = outlook._arm_seconds(cfg, HOURS, SPEED)
        pretraining, clock, ends, dt = found["pretrain"], 0.0, {}, 0.05
        scratch, tuned, pretrain = list(arm), list(arm), pretraining
        while scratch or tuned:
            running = [("scratch", scratch)] if scratch else []
            running += [("pretrain", None)] if pretrain > 0 else [("tuned", tuned)] * len(tuned)
            share = min(1.0, 2 / max(1, len(running)))
            clock += dt
            if pretrain > 0:
                pretrain -= share * dt
            else:
                tuned = [left - share * dt for left in tuned if left > share * dt]
                if not tuned:
                    ends.setdefault("tuned", clock)
            if scratch:
                scratch[0] -= share * dt
                scratch = scratch if scratch[0] > 0 else scratch[1:]
            if not scratch:
                ends.setdefault("scratch", clock)
        whole = found["pretrain"] + found["finetune"] + found["finetune-scratch"]
        assert whole == pytest.approx(max(ends.values()), rel=0.12), steps


def test_on_one_core_everything_is_added_up(monkeypatch):
    monkeypatch.setattr(outlook, "cores", lambda: 1)
    cfg = updates(run_of(), 1000)
    found = expected_seconds(cfg, HOURS, SPEED, corpus=True)
    assert found["finetune"] == found["finetune-scratch"] == pytest.approx(sum(outlook._arm_seconds(cfg, HOURS, SPEED)))


def test_the_probe_makes_real_updates_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(outlook, "PROBE_SECONDS", 0.05)
    asked = []
    answers = outlook.run_probes
    monkeypatch.setattr(outlook, "run_probes", lambda requests: asked.append(answers(requests)) or asked[-1])
    speed = measure_speed(settings(tmp_path, scratch=True))
    (found,) = asked if len(asked) == 1 else [[*asked[0], *asked[1]]]
    took = [each["micro_seconds"] + each["update_seconds"] for each in found]
    assert speed.pretrain == pytest.approx(1.03 * took[0])
    assert speed.finetune == pytest.approx(1.08 * took[1])
    assert min(took) > 0
    assert found[0]["parameters"] != found[1]["parameters"]
    assert speed.slower > 0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


EXPECTED = {"corpus": 20.0, "pretrain": 300.0, "finetune": 200.0, "report": 30.0}


def test_a_log_gets_one_line_a_stage_with_the_time_left(capsys):
    clock = Clock()
    with Whole(EXPECTED, clock) as whole:
        whole.begin("corpus")
        clock.now = 20.0
        whole.begin("manifest")  # nothing is expected of it
        whole.begin("pretrain")
    assert capsys.readouterr().err.splitlines() == [
        "corpus: 0:00 gone, about 9:10 left in all",
        "pretrain: 0:20 gone, about 8:50 left in all",
    ]


@pytest.mark.parametrize("slower", [0.8, 1.0, 1.25])
def test_the_time_left_keeps_to_what_is_left_within_a_quarter(slower):
    """Every stage takes ``slower`` times what was expected; what is left is right within 25 % of the whole."""
    clock = Clock()
    whole = Whole(EXPECTED, clock)
    total = slower * whole.total
    for name, seconds in EXPECTED.items():
        whole.begin(name)
        for _ in range(10):
            assert whole.left() == pytest.approx(total - clock.now, abs=0.25 * whole.total + 0.01)
            clock.now += slower * seconds / 10
    # After a fifth of it the pace is known, and the rest is right to a few per cent.
    assert whole.left() < 0.05 * total


def test_a_slow_first_part_corrects_what_is_expected_of_the_rest():
    clock = Clock()
    whole = Whole(EXPECTED, clock)
    whole.begin("corpus")
    clock.now = 40.0
    whole.begin("pretrain")
    assert whole.left() == 530.0  # too little was seen
    clock.now = 640.0
    whole.begin("finetune")
    assert whole.left() == pytest.approx(2 * 230.0)


def test_a_stage_that_takes_longer_always_has_a_little_left():
    clock = Clock()
    whole = Whole(EXPECTED, clock)
    whole.begin("corpus")
    clock.now = 500.0
    assert whole.left() == pytest.approx(530.0 + 1.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_bar_for_the_whole_and_no_other(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert bars()
    with Whole(EXPECTED) as whole:
        assert not bars()
        whole.begin("pretrain")
        whole.refresh()
        with progress_module.progress("shard", unit="utterances") as advance:
            advance(1, 2)
    assert bars()
    assert "left in all" in screen.getvalue()
    assert "utterances" not in screen.getvalue()


def test_the_first_screen_says_how_long_it_will_take_and_what_is_left_after_a_stop(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_module, "measure_speed", lambda cfg: SPEED)
    cfg = DemoConfig(run=run_of())
    left = demo_module._outlook(cfg, tmp_path)
    said = capsys.readouterr().out
    assert "an update takes 100 ms in pretraining, 50 ms in fine-tuning (measured now): about " in said
    assert progress_module.duration(sum(left.values())) in said
    (tmp_path / "run" / "stages").mkdir(parents=True)
    (tmp_path / "run" / "stages" / "pretrain.json").write_text("{}")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text("{}")
    assert set(left) - set(demo_module._outlook(cfg, tmp_path)) == {"corpus", "pretrain"}
    assert "2 stages are done already" in capsys.readouterr().out


def test_the_demo_is_sized_for_any_laptop(monkeypatch):
    """On two cores with AVX2 alone, by the time of updates measured on one (91 and 74 ms): within 13 minutes."""
    monkeypatch.setattr(outlook, "cores", lambda: 2)
    cfg = load_config(DemoConfig, "demo", [])
    synth = cfg.synth
    minutes = (synth.unlabelled_minutes, synth.labelled_minutes, synth.dev_minutes, synth.test_minutes)
    run = replace(cfg.run, scratch=True)
    found = expected_seconds(run, Hours(*(each / 60 for each in minutes)), Speed(0.094, 0.079, 1.0), corpus=True)
    assert sum(found.values()) < 13 * 60
    assert run.pretrain.training.precision == run.finetune.training.precision == "auto"
