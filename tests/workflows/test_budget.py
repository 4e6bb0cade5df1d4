"""How long ``run`` trains: by hours of audio and labels, within a budget of time."""

import tomllib
from dataclasses import replace

import pytest

from speechssl.asr.recipe import VALIDATIONS, recipe_for
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import ConfigError, SpeechsslError
from speechssl.data.ingest.manifest import Utterance, write_manifest
from speechssl.workflows import pipeline
from speechssl.workflows.budget import PRETRAINING_EPOCHS, hours_of, lengths_for, with_lengths
from speechssl.workflows.outlook import FINETUNE_FILLED, Hours, Speed, expected_seconds
from speechssl.workflows.pipeline import run
from tests.support.whole import settings, write_folder

SPEED = Speed(pretrain=0.4, finetune=0.2, slower=1.0)
AN4 = Hours(unlabelled=7.8, labelled=0.57, dev=0.06, test=0.09)


def lengths(tmp_path, hours, speed=SPEED, **changes):
    cfg = settings(tmp_path, **changes)
    return cfg, lengths_for(cfg, hours, speed)


def spent(cfg, found, hours, speed=SPEED):
    stages = expected_seconds(with_lengths(cfg, found), hours, speed, corpus=False)
    return {part: sum(s for name, s in stages.items() if name.startswith(part)) for part in ("pretrain", "finetune")}


@pytest.mark.parametrize("changes", [{}, {"scratch": True, "jobs": 2}, {"learning_rates": (1e-3, 2e-3)}])
@pytest.mark.parametrize("budget", [0.5, 2.0, 6.0])
def test_both_trainings_fit_and_the_budget_is_used(tmp_path, budget, changes):
    cfg, found = lengths(tmp_path, AN4, budget_hours=budget, **changes)
    parts = spent(cfg, found, AN4)
    assert sum(parts.values()) <= 3600 * budget
    usual = recipe_for(AN4.labelled).epochs
    if found.epochs < usual and found.pretrain < 100:  # neither has all that it wants: nothing is left over
        assert sum(parts.values()) == pytest.approx(3600 * budget, rel=0.01)
    if found.epochs < usual:
        assert parts["pretrain"] <= 3600 * budget / 3


def test_with_time_enough_both_get_what_they_want_and_no_more(tmp_path):
    cfg, found = lengths(tmp_path, AN4, budget_hours=1000.0)
    assert found.epochs == recipe_for(AN4.labelled).epochs
    assert found.finetune == pytest.approx(found.epochs * 3600 * AN4.labelled / (FINETUNE_FILLED * 8.0))
    heard = found.pretrain * 0.9 * cfg.pretrain.data.batch_seconds
    assert heard == pytest.approx(PRETRAINING_EPOCHS * 3600 * AN4.train, rel=1e-4)


def test_what_fine_tuning_leaves_goes_to_pretraining(tmp_path):
    few = Hours(unlabelled=8.0, labelled=0.02, dev=0.0, test=0.0)
    cfg, found = lengths(tmp_path, few, budget_hours=2.0)
    assert found.epochs == recipe_for(few.labelled).epochs
    assert spent(cfg, found, few)["pretrain"] > 0.6 * 7200


def test_without_labels_pretraining_gets_all_and_fine_tuning_keeps_its_settings(tmp_path):
    hours = Hours(unlabelled=9.0, labelled=0.0, dev=0.0, test=0.0)
    cfg, found = lengths(tmp_path, hours, budget_hours=1.0)
    assert found.epochs == 0
    assert spent(cfg, found, hours)["pretrain"] == pytest.approx(3600, rel=0.01)
    assert with_lengths(cfg, found).finetune == cfg.finetune
    assert not any("fine-tuning:" in line or "s in fine-tuning" in line for line in found.why)


def test_a_folder_without_training_speech_gets_the_error_of_pretraining(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "audio", {"test": 6})
    monkeypatch.setattr(pipeline, "measure_speed", lambda cfg: SPEED)
    with pytest.raises(SpeechsslError, match="train"):
        run(folder, settings(tmp_path / "run", budget_hours=0.01))


def test_the_lengths_reach_every_setting(tmp_path):
    cfg, found = lengths(tmp_path, AN4, budget_hours=1.0)
    after = with_lengths(cfg, found)
    assert sum(offline_targets(after.pretrain.objective).steps) == after.pretrain.training.steps == found.pretrain
    loop = after.finetune.training
    assert (loop.epochs, loop.average, loop.patience) == (found.epochs, 5, 10)
    assert found.finetune / loop.validate_every == pytest.approx(VALIDATIONS, rel=0.02)


def test_they_are_explained_with_hours_times_and_a_way_out(tmp_path):
    _, found = lengths(tmp_path, AN4, budget_hours=1.0)
    text = "\n".join(found.why)
    for part in ("8.37 h of speech", "0.57 h of it with transcripts", "0.40 s in pretraining", "budget_hours = 1",
                 f"{found.pretrain:,} updates", "178 epochs are usual", "--budget-hours 0",
                 "8 updates of pretraining"):  # fmt: skip
        assert part in text, part


def test_hours_are_those_that_each_phase_uses(tmp_path):
    def one(name, seconds, split, text=None):
        return Utterance(name, f"{name}.wav", seconds, 16_000, 1, text=text, split=split)

    rows = [one("a", 3600.0, "train", "x"), one("b", 7200.0, "train"), one("c", 360.0, "dev", "y"),
            one("d", 36.0, "test", "z"), one("e", 720.0, "dev"), one("f", 1800.0, None)]  # fmt: skip
    write_manifest(tmp_path / "manifest.jsonl", rows)
    cfg = settings(tmp_path / "run")
    assert hours_of(tmp_path, cfg) == Hours(2.5, 1.0, 0.1, 0.01)
    (tmp_path / "ids.txt").write_text("b\na\n")
    listed = replace(
        cfg, pretrain=replace(cfg.pretrain, data=replace(cfg.pretrain.data, ids=(str(tmp_path / "ids.txt"),)))
    )
    assert hours_of(tmp_path, listed) == Hours(2.0, 1.0, 0.1, 0.01)


def test_a_run_settles_its_lengths_once_says_why_and_keeps_them(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "audio", {"train": 12, "dev": 4, "test": 4})
    output = tmp_path / "run"
    monkeypatch.setattr(pipeline, "measure_speed", lambda cfg: Speed(0.5, 0.5, 0.0))
    cfg = settings(output, budget_hours=40 / 3600)  # 8 seconds of it start processes
    run(folder, cfg)
    said = capsys.readouterr().out
    assert "How long it trained" in (output / "report.html").read_text()
    assert "budget_hours = 0.0111" in said and "updates of pretraining, 4 of fine-tuning" in said
    settled = tomllib.loads((output / "config.toml").read_text())
    assert settled["budget_hours"] == cfg.budget_hours
    steps = settled["pretrain"]["training"]["steps"]
    assert sum(settled["pretrain"]["objective"]["targets"]["steps"]) == steps > 8
    assert settled["finetune"]["training"]["epochs"] > 0
    monkeypatch.setattr(pipeline, "measure_speed", lambda cfg: Speed(5.0, 5.0, 0.0))  # a slower machine resumes
    run(folder, cfg)
    assert tomllib.loads((output / "config.toml").read_text()) == settled
    assert "budget: done before" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"budget_hours: 0\.0111.* -> 3"):
        run(folder, replace(cfg, budget_hours=3.0))
    assert tomllib.loads((output / "config.toml").read_text()) == settled
    (output / "budget" / "lengths.json").write_text("{")  # torn: settled again, and what was trained is kept by name
    with pytest.raises(ConfigError, match=r"pretrain.*completed with other settings"):
        run(folder, cfg)
