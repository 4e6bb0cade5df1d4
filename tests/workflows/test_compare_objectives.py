"""Objectives on equal terms: arms of every kind, one budget for all, killed and resumed, and what the page says."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechssl.cli.main import main
from speechssl.config import CompareObjectivesConfig, ObjectiveConfig, ProbeConfig, TrainingConfig
from speechssl.config.load import load_config, tagged, write_toml
from speechssl.config.objectives import offline_targets, with_updates
from speechssl.core.errors import ConfigError, DataError
from speechssl.data.store.reader import open_corpus
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.evaluation.wer.wer import compare_systems
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.build import build_objective, objective_class
from speechssl.training.monitoring.log import read_metrics
from speechssl.workflows.comparison import arm_costs
from speechssl.workflows.comparison.arm_costs import expected_seconds, slot_environments
from speechssl.workflows.comparison.arms import arms_of, finetunings, labels_of, model_of, pretrainings
from speechssl.workflows.comparison.compare_objectives import compare_objectives
from tests.support.tones import write_shards
from tests.support.whole import settings

TARGETS = "--objective.targets.steps 2 2 --objective.targets.clusters 6 6 --objective.targets.kmeans-starts 1"
ARMS = (f"<units>=hubert-tiny {TARGETS} --objective.targets.layers 0 1", "apc-tiny --objective.n-mels 20")
NAMES = ("<units>", "apc", "scratch", "scratch-causal")


def config(output, shards, **changes):
    """Return a comparison of two objectives that takes seconds."""
    run = settings(output, steps=4)
    cfg = CompareObjectivesConfig(
        output=str(output),
        arms=ARMS,
        size="tiny",
        learning_rates=(3e-3, 1e-3),
        halve_at=(0.5,),
        jobs=2,
        pretrain=replace(run.pretrain, data=replace(run.pretrain.data, shards=str(shards))),
        finetune=run.finetune,
        evaluate=run.evaluate,
    )
    return replace(cfg, **changes)


def tiny():
    return load_config(CompareObjectivesConfig, "compare-tiny")


def test_without_a_list_every_kind_of_objective_is_an_arm_and_random_weights_are():
    arms = arms_of(tiny())
    kinds = {arm.objective.kind for arm in arms if arm.objective is not None}
    assert kinds == tagged(ObjectiveConfig).keys()
    assert [(arm.name, arm.causal) for arm in arms if arm.objective is None] == [
        ("scratch", False),
        ("scratch-causal", True),
    ]
    assert all(arm.causal == objective_class(arm.objective).causal for arm in arms if arm.objective is not None)
    assert {arm.name for arm in arms_of(replace(tiny(), size="cpu"))} >= {"hubert", "apc", "scratch"}


def test_arms_differ_in_objective_optimiser_and_causality_alone(tmp_path):
    cfg = tiny()
    for arm in arms_of(cfg):
        model = model_of(cfg, causal=arm.causal)
        assert (model == cfg.pretrain.model) == (not arm.causal)
        assert model.encoder == replace(cfg.pretrain.model.encoder, causal=arm.causal)
        for seed in (1, 2):
            for training in pretrainings(cfg, arm, seed, tmp_path).values():
                same = replace(cfg.pretrain, name=arm.name, seed=seed, output=training.output, model=model)
                assert training == replace(same, objective=training.objective, optim=arm.optim)
                targets = offline_targets(training.objective)
                assert targets is None or sum(targets.steps) == cfg.pretrain.training.steps
            (labels,) = labels_of(cfg)
            for name, tuning in finetunings(cfg, arm, seed, labels, tmp_path).items():
                init = "" if arm.objective is None else str(tmp_path / name / "model")
                assert (tuning.init, tuning.model, tuning.seed) == (init, model, seed)
                assert (tuning.training, tuning.ctc) == (cfg.finetune.training, cfg.finetune.ctc)


class AnyUnits:
    """Stands in for units that were made before training."""

    hop = n_units = 0

    def entropy(self):
        return 1.0

    def largest_share(self):
        return 0.5


@pytest.mark.parametrize("size", ["tiny", "cpu"])
def test_every_objective_can_be_built_on_the_shared_encoder(size):
    cfg = load_config(CompareObjectivesConfig, f"compare-{size}")
    for arm in arms_of(cfg):
        if arm.objective is not None:
            encoder = SpeechEncoder(model_of(cfg, causal=arm.causal))
            targets = offline_targets(arm.objective)
            units = None if targets is None else AnyUnits()
            if units is not None:
                units.hop, units.n_units = encoder.hop, targets.clusters[-1]
            objective = build_objective(arm.objective, encoder, units, 1)
            known = [curve for curve in objective.curves if curve.held_out]
            assert any(curve.level is not None or curve.metric in objective.chance for curve in known), arm.name


@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_iterations_share_the_updates_as_in_the_preset(steps):
    objective = next(arm.objective for arm in arms_of(replace(tiny(), arms=("hubert-cpu",))))
    shares = offline_targets(with_updates(objective, steps)).steps
    assert sum(shares) == steps
    assert shares[0] == pytest.approx(steps / 3, abs=1)


def test_a_wrong_list_of_arms_or_labels_is_refused():
    cfg = tiny()
    with pytest.raises(ConfigError, match="two arms are called 'apc'"):
        arms_of(replace(cfg, arms=("apc-tiny", "apc=apc-cpu")))
    with pytest.raises(ConfigError, match="an objective has 4 candidates"):
        arms_of(replace(cfg, pretrain_rates=(1e-3, 2e-3), learning_rates=(1e-3, 3e-3)))
    assert arms_of(replace(cfg, pretrain_rates=(1e-3, 2e-3), scratch_rates=(1e-3, 3e-3)))
    with pytest.raises(ConfigError, match="every arm makes the same updates"):
        arms_of(replace(cfg, finetune=replace(cfg.finetune, training=TrainingConfig(epochs=2.0))))
    with pytest.raises(ConfigError, match="did you mean"):
        arms_of(replace(cfg, arms=("hubert-tyni",)))
    with pytest.raises(ConfigError, match="is not NAME=TRAIN,DEV,TEST"):
        labels_of(replace(cfg, labels=("an4=train.txt,dev.txt",)))
    (labels,) = labels_of(replace(cfg, labels=("an4=a.txt,b.txt,c.txt",)))
    assert (labels.name, labels.train.ids, labels.dev.ids, labels.test.ids) == (
        "an4",
        ("a.txt",),
        ("b.txt",),
        ("c.txt",),
    )


def test_a_setting_of_one_arm_stands_behind_its_preset():
    one, two, *_ = arms_of(replace(tiny(), arms=("wide=best-rq-cpu --objective.entries 2048", "best-rq-cpu")))
    assert (one.name, one.objective.entries, two.objective.entries) == ("wide", 2048, 1024)
    assert one.title != two.title  # the page tells them apart


def test_tasks_begun_in_order_end_when_the_last_slot_is_free():
    assert expected_seconds([5, 4, 3, 3], 2) == 8
    assert expected_seconds([5, 1], 1) == 6
    assert expected_seconds([], 2) == 0


def test_each_process_has_a_gpu_or_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(arm_costs, "cores", lambda: 4)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert slot_environments(0) == [{"OMP_NUM_THREADS": "1"}] * 4
    assert slot_environments(2) == [{"OMP_NUM_THREADS": "2"}] * 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slot_environments(0)] == ["5", "7"]


def measured(requests, environments):
    """Stand in for the probes: an update takes 0.1 s for each second of audio, of the reference half of it."""
    assert len(requests) <= len(environments)
    found = []
    for _, request in requests:
        seconds = request["rows"] * request["samples"] / 160_000
        cost = {"micro_seconds": seconds, "update_seconds": 0.0, "peak_bytes": 10**8, "parameters": 1000, "hop": 320}
        found.append({**cost, "rows": request["rows"], "samples": request["samples"]})
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("compared"), {"train": 24, "dev": 6, "test": 8})


@pytest.fixture(scope="module")
def compared(shards, tmp_path_factory):
    """A comparison that was killed while its first arms were trained, and then went on."""
    output = tmp_path_factory.mktemp("compared") / "run"
    ids = {"train_ids": range(12), "dev_ids": range(12, 18), "test_ids": range(18, 24)}  # of two speakers
    for name, numbers in ids.items():
        (output.parent / name).write_text("".join(f"train-{i:03d}\n" for i in numbers), encoding="utf-8")
    probe = ProbeConfig(heads=("knn",), bootstrap=50, **{name: str(output.parent / name) for name in ids})
    cfg = config(output, shards, probes=("speaker", "layers"), probe=probe)
    write_toml(cfg, output.parent / "compare-it.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm_costs, "run_probes", measured)
        costs = {}
        patch.setattr(
            "speechssl.workflows.comparison.compare_objectives._train", lambda *_: costs.setdefault("made", [])
        )
        with pytest.raises(Exception, match="no arm was finished"):
            compare_objectives(cfg)  # so that the command below measures nothing
    command = [sys.executable, "-m", "speechssl", "compare-objectives", str(output.parent / "compare-it.toml")]
    with (output.parent / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while not list(output.glob("arms/*/pretrain/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, (output.parent / "log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "objectives.html").exists()
    compare_objectives(cfg)
    return cfg, output


def test_every_arm_is_scored_on_the_same_utterances_and_the_difference_is_that_of_its_hypotheses(compared):
    _, output = compared
    said = json.loads((output / "objectives.json").read_text(encoding="utf-8"))
    assert [arm["name"] for arm in said["arms"]] == list(NAMES)
    assert [arm["causal"] for arm in said["arms"]] == [False, True, False, True]
    for arm, scratch in ((0, "scratch"), (1, "scratch-causal")):
        (score,) = said["arms"][arm]["scores"]
        a, b = (
            read_hypotheses(output / "arms" / f"{name}-seed-1" / "labels" / "test") for name in (scratch, NAMES[arm])
        )
        found = compare_systems(a, b, n=50, seed=1)
        assert score["against_scratch"]["difference"] == found.difference
        assert (score["against_scratch"]["low"], score["against_scratch"]["high"]) == (found.low, found.high)
        wer = json.loads((output / "arms" / f"{NAMES[arm]}-seed-1" / "labels" / "test" / "wer.json").read_text())
        assert (score["test_wer"]["value"], score["test_cer"]["value"]) == (wer["wer"], wer["cer"])
        assert (score["test_wer"]["low"], score["test_cer"]["high"]) == (wer["ci_low"], wer["cer_ci_high"])
    assert all(arm["scores"][0]["against_scratch"] is None for arm in said["arms"][2:])


def test_what_was_learnt_is_what_the_run_logged(compared):
    cfg, output = compared
    said = json.loads((output / "objectives.json").read_text(encoding="utf-8"))
    for arm, place in ((0, "<units>-seed-1/pretrain/iteration-2"), (1, "apc-seed-1/pretrain")):
        rows = read_metrics(output / "arms" / place / "metrics.jsonl")
        (learnt,) = said["arms"][arm]["learnt"]
        chance = next(row for row in rows if row["phase"] == "chance")
        last = [row for row in rows if row["phase"] == "valid"][-1]
        assert learnt["chance"] == chance[learnt["metric"]]
        assert learnt["value"] == last[f"valid_{learnt['metric']}"]
        assert learnt["updates"] == cfg.pretrain.training.steps
    units, apc = (said["arms"][arm]["learnt"][0] for arm in (0, 1))
    logged = [row["audio_seconds"] for row in rows if row["phase"] == "train"]  # means of two updates each
    assert apc["hours"] == pytest.approx(2 * sum(logged) / 3600)
    assert units["hours"] > 0
    assert units["target_seconds"] > 0 == apc["target_seconds"]
    assert said["arms"][0]["step_relative"] is None  # the reference is not among the arms
    assert said["arms"][0]["memory_relative"] is None


def test_the_frozen_models_are_probed_and_the_features_are_not_kept(compared):
    _, output = compared
    said = json.loads((output / "objectives.json").read_text(encoding="utf-8"))
    for arm in said["arms"]:
        place = output / "arms" / f"{arm['name']}-seed-1" / "probes" / "speaker"
        probe = json.loads((place / "probe.json").read_text())
        assert arm["probes"]["speaker, knn"] == probe["heads"][0]["error"]
        assert probe["model"].startswith("random:") == arm["scratch"]
        assert not (place / "features").exists()
        assert 0 < arm["probes"]["layers, effective rank of the last, of its width"] <= 1
    text = (output / "objectives.txt").read_text(encoding="utf-8")
    assert "speaker, knn %" in text and "rank correlation" in text


def test_the_estimate_does_not_depend_on_the_order_of_the_label_sets(shards, tmp_path, monkeypatch):
    """Updates are measured on the first, and batches of the other hold more audio."""
    monkeypatch.setattr(arm_costs, "run_probes", measured)
    corpus = open_corpus(shards, splits=("train",))
    ids = [corpus.ids[row] for row in np.argsort(corpus.samples, kind="stable")]
    sets = []
    for name, part in (("short", ids[:6]), ("long", ids[-6:])):
        (tmp_path / name).write_text("\n".join(part), encoding="utf-8")
        sets.append(f"{name}={','.join(3 * [str(tmp_path / name)])}")
    seconds = []
    for number, labels in enumerate((sets, sets[::-1])):
        cfg = config(tmp_path / str(number), shards, labels=tuple(labels), arms=("best-rq-tiny",))
        tuning = replace(cfg.finetune.training, steps=10_000, validate_every=10_000)
        cfg = replace(cfg, finetune=replace(cfg.finetune, training=tuning))
        slots, place = slot_environments(2), tmp_path / f"costs-{number}.json"
        seconds.append(arm_costs.arm_costs(cfg, arms_of(cfg), labels_of(cfg), slots, place)["scratch"].seconds)
    assert seconds[0] == pytest.approx(seconds[1], rel=0.02)


def test_a_probe_that_the_data_do_not_have_is_refused_before_anything_is_trained(shards, tmp_path):
    with pytest.raises((ConfigError, DataError), match="colour"):
        compare_objectives(config(tmp_path / "run", shards, probes=("colour",)))
    with pytest.raises(ConfigError, match=r"abx needs .* --probe\.alignment"):
        compare_objectives(config(tmp_path / "run", shards, probes=("abx",)))
    assert not (tmp_path / "run" / "arms").exists()


def test_the_page_and_the_text_have_every_arm_and_escape_its_name(compared):
    _, output = compared
    page, text = ((output / f"objectives.{kind}").read_text(encoding="utf-8") for kind in ("html", "txt"))
    for words in ("APC", "HuBERT", "random weights, causal", "hours of audio", "causal", "relative_loss"):
        assert words in page and words in text, words
    assert "<units>" not in page
    assert "<script" not in page


def test_again_nothing_is_trained_and_a_changed_setting_is_refused_by_name(compared, capsys):
    cfg, output = compared
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    with (output / "arms" / "apc-seed-1" / "pretrain" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps({"step": 4, "phase": "health", "name": "planted_finding"}), file=file)
    compare_objectives(cfg)
    found = {arm["name"]: arm["learnt"] for arm in json.loads((output / "objectives.json").read_text())["arms"]}
    assert "planted_finding" in found["apc"][0]["findings"]
    assert "planted_finding" in (output / "objectives.txt").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "0 arms, 2 at a time" in said and "4 are done already" in said
    assert "measuring" not in said
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    other = replace(cfg, pretrain=replace(cfg.pretrain, training=replace(cfg.pretrain.training, steps=6)))
    with pytest.raises(ConfigError, match=r"(?s)stage 'pretrain'.*steps: 4 -> 6.*delete "):
        compare_objectives(other)


def test_both_arms_had_the_same_candidates(compared):
    _, output = compared
    for name in NAMES:
        (listing,) = (output / "arms" / f"{name}-seed-1" / "labels" / "sweep").glob("sweep.json")
        rows = json.loads(listing.read_text(encoding="utf-8"))
        assert [row["lr"] for row in rows] == [3e-3, 1e-3]
        assert sorted(row["ended_at"] or 0 for row in rows) == [0, 2]
        chosen = json.loads((output / "arms" / f"{name}-seed-1" / "labels" / "chosen.json").read_text(encoding="utf-8"))
        assert chosen["lr"] == next(row["lr"] for row in rows if row["kept"])


def test_the_best_get_more_seeds_and_an_arm_that_fails_is_named_at_the_end(compared, monkeypatch, capsys):
    """The failing arm is new; of the others, which are there, the best and those from random weights train again."""
    cfg, output = compared
    monkeypatch.setattr(arm_costs, "run_probes", measured)
    write_toml(replace(cfg, arms=(*ARMS, f"bad=hubert-tiny {TARGETS} --objective.targets.layers 0 9"), finalists=1),
               output.parent / "compare-more.toml")  # fmt: skip
    assert main(["compare-objectives", str(output.parent / "compare-more.toml")]) == 1
    said = capsys.readouterr()
    assert "1 arms failed" in said.err and "the encoder has layers 1 to 1" in said.err
    arms = {arm["name"]: arm for arm in json.loads((output / "objectives.json").read_text(encoding="utf-8"))["arms"]}
    assert "bad" not in arms
    again = [name for name in ("<units>", "apc") if arms[name]["seeds"] == [1, 2]]
    assert len(again) == 1
    assert arms["scratch"]["seeds"] == arms["scratch-causal"]["seeds"] == [1, 2]
    dev = {name: arms[name]["scores"][0]["dev_wer"]["seeds"][0] for name in ("<units>", "apc")}
    assert dev[again[0]] == min(dev.values())
    assert len(arms[again[0]]["learnt"]) == 2


def test_only_names_arms_that_are_there(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no cpc-seed-1; the arms are .*apc-seed-1"):
        compare_objectives(config(tmp_path / "run", shards, only=("cpc-seed-1",)))
