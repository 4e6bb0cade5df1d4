"""The stages of ``run``: order, skipping, refusal, and the whole way on a tiny corpus."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.config import DecoderConfig, RunConfig
from speechssl.config.load import load_config, write_toml
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import read_manifest
from speechssl.evaluation.wer.hypotheses import read_hypotheses
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.workflows import pipeline
from speechssl.workflows.pipeline import _first_stages, run
from speechssl.workflows.stages import run_stages
from tests.support.objectives import with_targets
from tests.support.tones import make_sentence
from tests.support.whole import settings, write_folder

COUNTS = {"train": 24, "dev": 6, "test": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of tones with transcripts."""
    return write_folder(tmp_path_factory.mktemp("whole") / "tones", COUNTS)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The whole way, with the scratch arm, in this process."""
    output = tmp_path_factory.mktemp("finished") / "run"
    report = run(folder, settings(output, scratch=True))
    assert report == output / "report.html"
    return output


def stages_of(text):
    return {line.split("] ")[1] for line in text.splitlines() if line.startswith("[") and "] " in line}


def test_the_whole_way_leaves_everything_the_design_promises(finished):
    for path in (
        *("manifest/manifest.jsonl", "manifest/ledger.jsonl", "shards/manifest.jsonl", "config.toml", "report.json"),
        *("pretrain/iteration-1/units/units.npz", "pretrain/iteration-2/metrics.jsonl"),
        *("pretrain/model/model.safetensors", "finetune/model/model.safetensors"),
        *("finetune-scratch/model/config.json", "evaluate/hypotheses.jsonl", "evaluate-scratch/wer.json"),
    ):
        assert (finished / path).stat().st_size > 0, path
    rows = read_hypotheses(finished / "evaluate")
    assert [row["id"] for row in rows] == [f"test-{i:03d}" for i in range(COUNTS["test"])]
    assert all(row["ref"] == make_sentence(row["id"]) for row in rows)
    info = json.loads((finished / "finetune-scratch" / "model" / "config.json").read_text(encoding="utf-8"))["info"]
    assert info["init"] == ""
    assert not list(finished.rglob("*.tmp"))


def test_the_report_tells_of_both_arms_and_of_what_was_left_out(finished):
    text = (finished / "report.txt").read_text(encoding="utf-8")
    page = (finished / "report.html").read_text(encoding="utf-8")
    facts = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert {score["name"] for score in facts["evaluations"]} == {"evaluate", "evaluate-scratch"}
    for words in ("pretrain/iteration-1", "pretrain/iteration-2", "finetune-scratch", "broken.wav", "no_transcript"):
        assert words in text
        assert words in page
    wer = json.loads((finished / "evaluate" / "wer.json").read_text(encoding="utf-8"))["wer"]
    assert f"{100 * wer:.2f}" in text
    assert f"{100 * wer:.2f}" in page


def test_again_nothing_is_done_twice(folder, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    run(folder, settings(finished, scratch=True))
    said = stages_of(capsys.readouterr().out)
    names = ("manifest", "shard", "pretrain", "finetune", "finetune-scratch", "evaluate", "evaluate-scratch")
    assert {f"{name}: done before" for name in names} <= said
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}


def test_changed_settings_are_refused_by_name_and_change_nothing(folder, finished):
    stored = (finished / "config.toml").read_bytes()
    base = settings(finished, scratch=True)
    pretrain = replace(base.pretrain, optim=replace(base.pretrain.optim, lr=5e-3))
    with pytest.raises(ConfigError, match=r"(?s)stage 'pretrain'.*optim.lr: 0.001 -> 0.005.*delete .*/run/pretrain"):
        run(folder, replace(base, pretrain=pretrain))
    finetune = replace(base.finetune, seed=9)
    with pytest.raises(ConfigError, match=r"(?s)stage 'finetune' .*seed: 1 -> 9.*/finetune, .*/finetune-scratch"):
        run(folder, replace(base, finetune=finetune))
    assert (finished / "config.toml").read_bytes() == stored
    # Scoring is cheap: it follows its settings.
    other = replace(base.evaluate, decoder=DecoderConfig(kind="beam", beam=2))
    run(folder, replace(base, evaluate=other))
    score = json.loads((finished / "evaluate" / "wer.json").read_text(encoding="utf-8"))
    assert "beam 2" in score["info"]["decoder"]
    run(folder, base)  # the folder is shared: leave it as it was


def test_M3_settings_that_change_nothing_leave_finished_stages_alone(folder, finished, capsys):
    base = settings(finished, scratch=True)
    loop = {"profile": 2, "recompute": True, "log_every": 1, "threads": 1}
    pretraining, finetuning = base.pretrain.training, base.finetune.training
    other = replace(
        base,
        pretrain=replace(base.pretrain, training=replace(pretraining, validate_every=7, **loop)),
        finetune=replace(base.finetune, training=replace(finetuning, **loop)),
    )
    run(folder, other)
    said = stages_of(capsys.readouterr().out)
    assert {f"{name}: done before" for name in ("pretrain", "finetune", "finetune-scratch")} <= said
    assert "profile = 2" in (finished / "config.toml").read_text(encoding="utf-8")
    run(folder, base)


def test_new_audio_is_noticed(folder, finished, tmp_path):
    changed = tmp_path / "tones"
    shutil.copytree(folder, changed)
    output = tmp_path / "run"
    run_stages(output, _first_stages(changed, settings(output), output))
    shutil.copy(changed / "train-000.wav", changed / "new.wav")
    with pytest.raises(ConfigError, match=r"(?s)stage 'manifest' .*files: .* -> "):
        run(changed, settings(output))


def test_a_run_killed_in_training_goes_on_to_the_same_bits(folder, finished, tmp_path):
    """As a user would: the command line, killed twice, then left alone."""
    cfg = settings(tmp_path / "run", scratch=True)
    write_toml(cfg, tmp_path / "run.toml")
    command = [sys.executable, "-m", "speechssl", "run", str(folder), str(tmp_path / "run.toml")]
    root = Path(__file__).parents[2]
    for said, number in (("units: 6 from mfcc", signal.SIGKILL), ("[4/8] finetune", signal.SIGTERM)):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=root)
        deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
        while said not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(300) == (75 if number == signal.SIGTERM else -number), (tmp_path / "log").read_text()
    run(folder, cfg)
    for name in ("pretrain", "finetune", "finetune-scratch"):
        weights = [place / name / "model" / "model.safetensors" for place in (finished, tmp_path / "run")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    hypotheses = [place / "evaluate-scratch" / "hypotheses.jsonl" for place in (finished, tmp_path / "run")]
    assert hypotheses[0].read_bytes() == hypotheses[1].read_bytes()


def test_without_transcripts_only_pretraining_is_done(tmp_path, capsys):
    folder = write_folder(tmp_path / "tones", {"train": 12})
    (folder / "metadata.jsonl").unlink()
    report = run(folder, settings(tmp_path / "run", steps=2))
    assert "pretraining only" in capsys.readouterr().out
    assert report.exists()
    assert not (tmp_path / "run" / "finetune").exists()


def test_without_a_test_split_dev_is_scored_and_said(tmp_path, capsys):
    folder = write_folder(tmp_path / "tones", {"train": 12, "dev": 4})
    cfg = settings(tmp_path / "run", steps=2)  # (the manifest takes a test split out of train; ask for another one)
    run(folder, replace(cfg, evaluate=replace(cfg.evaluate, data=replace(cfg.evaluate.data, splits=("later",)))))
    assert "no transcribed test utterances: the score below is on dev" in capsys.readouterr().out
    score = json.loads((tmp_path / "run" / "evaluate" / "wer.json").read_text(encoding="utf-8"))
    assert (score["utterances"], score["info"]["split"]) == (4, "dev")


def test_the_output_must_not_hold_the_audio(folder):
    with pytest.raises(ConfigError, match="must not hold the audio folder"):
        run(folder, settings(folder.parent))


@pytest.mark.shared_data
def test_real_recordings_as_found(shared_data, tmp_path):
    """Files of every kind, as real folders hold them: what is broken is listed, all else goes through to a score."""
    raw = shared_data / "raw_mixed"
    tiny = load_config(RunConfig, "run-tiny", ["--output", str(tmp_path / "run")])
    pretraining = with_targets(tiny.pretrain, steps=(2, 2), kmeans_hours=0.02)
    finetune = replace(tiny.finetune, training=replace(tiny.finetune.training, steps=2, validate_every=2))
    run(raw, replace(tiny, pretrain=pretraining, finetune=finetune))
    rejected = {entry.item for entry in read_ledger(tmp_path / "run" / "manifest" / "ledger.jsonl")}
    used = {Path(u.path) for u in read_manifest(tmp_path / "run" / "manifest" / "manifest.jsonl")}
    broken = {"broken/awful.wav", "broken/bad.wav", "broken/evil.wav", "broken/null.wav"}
    broken |= {"wake words/alexa/128.flac", "wake words/alexa/272.flac"}
    audio = {".wav", ".flac", ".ogg", ".mp3", ".sph", ".webm"}
    found = {path for path in raw.rglob("*") if path.suffix in audio}
    assert {str(path.relative_to(raw)) for path in found - used} == broken
    assert broken <= rejected
    made = read_manifest(tmp_path / "run" / "shards" / "manifest.jsonl")
    assert len(made) == len(read_manifest(tmp_path / "run" / "manifest" / "manifest.jsonl"))
    assert json.loads((tmp_path / "run" / "evaluate" / "wer.json").read_text(encoding="utf-8"))["N"] > 100
    assert "broken/awful.wav" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_run_continues_from_a_model_with_its_sizes_in_both_arms(folder, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*args):
        raise Stop

    monkeypatch.setattr(pipeline, "run_stages", stop)
    cfg = settings(tmp_path / "run", scratch=True)
    wider = replace(cfg.pretrain.model, encoder=replace(cfg.pretrain.model.encoder, dim=48, layers=1))
    save_model(tmp_path / "model", encoder=SpeechEncoder(wider))
    with pytest.raises(Stop):
        run(folder, replace(cfg, init=str(tmp_path / "model")))
    found = load_config(RunConfig, str(tmp_path / "run" / "config.toml"), [])
    assert found.pretrain.init == str(tmp_path / "model")
    assert (found.pretrain.model.encoder.dim, found.pretrain.model.encoder.layers) == (48, 1)
    arms = pipeline._arms(found, tmp_path / "run")
    assert arms["finetune-scratch"].model.encoder.dim == 48
    with pytest.raises(CheckpointError, match="no such folder"):
        run(folder, replace(cfg, init=str(tmp_path / "none"), output=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()
