"""Rounds of ``run``: units of the second round from the recogniser of the first, resuming, the report, refusals."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechssl.config import RelabelConfig, RunConfig
from speechssl.config.load import load_config, read_toml, write_toml
from speechssl.config.training import PretrainConfig
from speechssl.core.errors import ConfigError
from speechssl.data.store.reader import open_corpus
from speechssl.interop.any_model import load_any, load_any_encoder
from speechssl.targets.audio import read_ahead
from speechssl.targets.features import LayerFeatures
from speechssl.targets.kmeans import KMeans
from speechssl.targets.table import UnitTable
from speechssl.workflows import rounds
from speechssl.workflows.pipeline import _pretrain_stage, run
from speechssl.workflows.rounds import check_rounds, pretraining_of
from tests.support.whole import settings, write_folder

COUNTS = {"train": 16, "dev": 4, "test": 4}
LAYER, CLUSTERS, STEPS = 1, 5, 3


def two_rounds(output, **changes):
    """Return settings whose fine-tuning moves the encoder far enough to give other units."""
    cfg = settings(output)
    finetune = replace(cfg.finetune, optim=replace(cfg.finetune.optim, lr=0.03))
    relabel = RelabelConfig(layer=LAYER, clusters=CLUSTERS, steps=STEPS)
    return replace(cfg, finetune=finetune, rounds=2, relabel=relabel, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of tones with transcripts."""
    return write_folder(tmp_path_factory.mktemp("rounds") / "tones", COUNTS)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Both rounds and the scratch arm, in this process."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run(folder, two_rounds(output, scratch=True))
    return output


def same_units(output: Path, model: Path) -> float:
    """Return the share of round 2's units that are the nearest centroids of a model's layer."""
    units = output / "pretrain-2" / "iteration-1" / "units"
    table, kmeans = UnitTable.load(units / "units.npz"), KMeans.load(units / "kmeans.npz")
    features = LayerFeatures(load_any_encoder(model), LAYER, device="cpu", bf16=False)
    corpus = open_corpus(str(output / "shards"), splits=("train",))
    rows = [row for row, name in enumerate(corpus.ids) if name in set(table.ids)]
    (read,) = read_ahead(corpus, [rows], 1, lambda read: read)
    found = [kmeans.assign(features([wave])[0]).numpy() == table.get(name) for name, wave in read]
    assert len(found) == len(table) > 0
    return float(np.concatenate(found).mean())


def test_the_units_of_round_2_come_from_the_recogniser_of_round_1(finished):
    assert load_any(finished / "finetune" / "model").tokens is not None  # a recogniser, of which the encoder is used
    assert same_units(finished, finished / "finetune" / "model") == 1.0
    assert same_units(finished, finished / "pretrain" / "model") < 0.9
    made = json.loads((finished / "pretrain-2" / "iteration-1" / "units" / "units.json").read_text(encoding="utf-8"))
    assert made["features"] == f"layer {LAYER}"


def test_units_of_the_pretrained_model_by_mistake_are_noticed(folder, tmp_path, monkeypatch):
    """The same check on a run whose teacher is the pretrained model of round 1."""
    right = rounds.of_round
    monkeypatch.setattr(rounds, "of_round", lambda name, number: right(name.replace("finetune", "pretrain"), number))
    run(folder, two_rounds(tmp_path / "run"))
    assert same_units(tmp_path / "run", tmp_path / "run" / "finetune" / "model") < 0.9


def test_round_2_has_its_own_folders_and_its_own_settings(finished):
    pretrained = read_toml(PretrainConfig, finished / "pretrain-2" / "config.toml")
    targets = pretrained.objective.targets
    assert (targets.steps, targets.clusters, targets.layers) == ((STEPS,), (CLUSTERS,), (0,))
    assert (pretrained.init, pretrained.training.steps) == ("", STEPS)
    info = json.loads((finished / "finetune-2" / "model" / "config.json").read_text(encoding="utf-8"))["info"]
    assert info["init"] == str(finished / "pretrain-2" / "model")
    stages = sorted((finished / "stages").glob("*.json"), key=lambda path: json.loads(path.read_text())["finished"])
    arms = ["finetune", "pretrain-2", "finetune-2", "finetune-scratch", "evaluate", "evaluate-2", "evaluate-scratch"]
    assert [path.stem for path in stages] == ["manifest", "shard", "pretrain", *arms, "report"]


def test_the_report_shows_both_rounds_and_headlines_the_last(finished):
    facts = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert facts["headline"] == "evaluate-2"
    assert [score["name"] for score in facts["evaluations"]] == ["evaluate", "evaluate-2", "evaluate-scratch"]
    text = (finished / "report.txt").read_text(encoding="utf-8")
    page = (finished / "report.html").read_text(encoding="utf-8")
    for name in ("evaluate", "evaluate-2", "evaluate-scratch"):
        wer = json.loads((finished / name / "wer.json").read_text(encoding="utf-8"))["wer"]
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert f" {100 * wer:.2f} " in line
    for label in ("Round 1", "Round 2", "From scratch", "round 1, iteration 2", "round 2, iteration 1"):
        assert label in page, label


def test_a_second_round_is_added_to_a_finished_run(folder, tmp_path, capsys):
    output = tmp_path / "run"
    cfg = two_rounds(output)
    run(folder, replace(cfg, rounds=1))
    weights = (output / "finetune" / "model" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run(folder, cfg)
    said = capsys.readouterr().out
    assert "pretrain: done before" in said and "finetune: done before" in said
    assert (output / "finetune" / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert (output / "evaluate-2" / "wer.json").exists()


def test_a_run_killed_between_rounds_goes_on_to_the_same_bits(folder, finished, tmp_path):
    cfg = two_rounds(tmp_path / "run", scratch=True)
    write_toml(cfg, tmp_path / "run.toml")
    command = [sys.executable, "-m", "speechssl", "run", str(folder), str(tmp_path / "run.toml")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while "[5/11] pretrain-2" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(300) == -signal.SIGKILL
    assert not (tmp_path / "run" / "finetune-2").exists()
    run(folder, cfg)
    for name in ("finetune", "pretrain-2", "finetune-2"):
        weights = [place / name / "model" / "model.safetensors" for place in (finished, tmp_path / "run")]
        assert weights[0].read_bytes() == weights[1].read_bytes(), name


def test_what_a_later_round_would_find_out_is_refused_before_anything_is_made(folder, tmp_path):
    cfg = two_rounds(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"relabel.layer = 7: the encoder has layers 1 to 1"):
        run(folder, replace(cfg, relabel=replace(cfg.relabel, layer=7)))
    with pytest.raises(ConfigError, match="wav2vec2 predicts none"):
        check_rounds(load_config(RunConfig, None, ["--rounds", "2", "--pretrain.objective.kind", "wav2vec2"]))
    with pytest.raises(ConfigError, match="at least 1"):
        run(folder, replace(cfg, rounds=0))
    with pytest.raises(ConfigError, match="at least 2"):
        run(folder, replace(cfg, relabel=replace(cfg.relabel, clusters=1)))
    assert list((tmp_path / "run").glob("*")) == []


def test_a_third_round_learns_from_the_second_and_may_go_on_from_its_encoder(tmp_path):
    cfg = replace(two_rounds(tmp_path), rounds=3, relabel=RelabelConfig(carry_over=True))
    second, third = (pretraining_of(cfg, tmp_path, number) for number in (2, 3))
    assert third.objective.targets.teacher.model == str(tmp_path / "finetune-2" / "model")
    assert (second.init, third.init) == tuple(str(tmp_path / name / "model") for name in ("pretrain", "pretrain-2"))
    assert third.objective.targets.teacher.layer == cfg.pretrain.model.encoder.layers  # 0: the last
    assert third.objective.targets.steps == cfg.pretrain.objective.targets.steps[-1:]


def test_one_round_is_what_it_was(tmp_path):
    cfg = settings(tmp_path)
    pretrain = _pretrain_stage(cfg, tmp_path, 1)
    assert pretrain.key["objective"]["targets"]["teacher"]["model"] == ""
    assert list(pretrain.output.relative_to(tmp_path).parts) == ["pretrain", "model", "config.json"]


def test_the_preset_goes_all_the_way(folder, tmp_path):
    report = run(folder, load_config(RunConfig, "run-asr-units-tiny", ["--output", str(tmp_path / "run")]))
    facts = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert [score["name"] for score in facts["evaluations"]] == ["evaluate", "evaluate-2"]
