"""Every stage is a verb of its own: the whole way through the command line, one verb after the other."""

import json
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.cli.main import main
from speechssl.config import HubertConfig, PretrainConfig
from speechssl.config.load import write_toml
from tests.support.tones import make_sentence, speak
from tests.support.whole import settings, write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Everything from manifest to fine-tuning, made by verbs."""
    place = tmp_path_factory.mktemp("verbs")
    folder = write_folder(place / "tones", {"train": 16, "dev": 4, "test": 4})
    cfg = settings(place, steps=2)
    for name in ("manifest", "shard", "pretrain", "finetune", "evaluate"):
        write_toml(getattr(cfg, name), place / f"{name}.toml")
    shards = ["--data.shards", str(place / "shards")]
    for command in (
        ["manifest", str(folder), str(place / "manifest"), str(place / "manifest.toml")],
        ["shard", str(place / "manifest"), str(place / "shards"), str(place / "shard.toml")],
        ["pretrain", str(place / "pretrain.toml"), *shards, "--output", str(place / "pretrain")],
        [
            *("finetune", str(place / "finetune.toml"), *shards, "--init", str(place / "pretrain" / "model")),
            *("--output", str(place / "finetune")),
        ],
    ):
        assert main(command) == 0, command
    return place


def test_manifest_and_shard_say_what_they_found(place, capsys):
    """Again, into other folders: the summary is printed, and the files are the same."""
    assert main(["manifest", str(place / "tones"), str(place / "again"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "24 utterances" in said
    assert "1 corrupt" in said
    assert main(["shard", str(place / "again" / "manifest.jsonl"), str(place / "shards2"), "--workers", "1"]) == 0
    assert "24 utterances" in capsys.readouterr().out
    assert (place / "again" / "config.toml").exists()
    names = sorted(path.name for path in (place / "shards").glob("*.tar"))
    for name in names:
        assert (place / "shards" / name).read_bytes() == (place / "shards2" / name).read_bytes()


def test_verify(place, tmp_path, capsys):
    assert main(["verify", str(place / "shards")]) == 0
    assert "0 problems" in capsys.readouterr().out
    shutil.copytree(place / "shards", tmp_path / "shards")
    (tar,) = (tmp_path / "shards").glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    assert main(["verify", str(tmp_path / "shards")]) == 1
    *listed, total = capsys.readouterr().out.splitlines()
    assert len(listed) >= 1
    assert "0 problems" not in total
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err


def test_a_run_folder_keeps_the_settings_of_the_chosen_objective_only(place):
    pretrained, fine_tuned = (
        tomllib.loads((place / stage / "config.toml").read_text(encoding="utf-8")) for stage in ("pretrain", "finetune")
    )
    assert pretrained["objective"]["kind"] == "hubert"
    assert pretrained["objective"].keys() == {item.name for item in fields(HubertConfig)}
    assert pretrained.keys() == {item.name for item in fields(PretrainConfig)}
    assert "objective" not in fine_tuned


def test_evaluate_and_report(place, capsys):
    command = ["evaluate", str(place / "evaluate.toml"), "--model", str(place / "finetune" / "model")]
    command += ["--data.shards", str(place / "shards"), "--output", str(place / "evaluate")]
    assert main(command) == 0
    said = capsys.readouterr().out
    score = json.loads((place / "evaluate" / "wer.json").read_text(encoding="utf-8"))
    assert f"WER {100 * score['wer']:.2f} %" in said
    assert score["utterances"] == 4
    for folder in (place, place / "pretrain", place / "finetune", place / "evaluate"):
        assert main(["report", str(folder)]) == 0
        assert capsys.readouterr().out.strip() == str(folder / "report.html")
        assert (folder / "report.html").stat().st_size > 1000
    page = (place / "report.html").read_text(encoding="utf-8")
    for words in ("broken.wav", "iteration-1", "iteration-2", f"{100 * score['wer']:.2f}"):
        assert words in page


def test_transcribe(place, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", speak(make_sentence("a"), "a"), 16_000)
    soundfile.write(tmp_path / "b.flac", np.stack([speak("abc de", "b", 44_100)] * 2, axis=1), 44_100)
    (tmp_path / "bad.mp3").write_bytes(b"<html>not found</html>")
    command = ["transcribe", str(tmp_path / "a.wav"), str(tmp_path / "bad.mp3"), str(tmp_path / "b.flac")]
    assert main([*command, "--model", str(place / "finetune" / "model"), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(tmp_path / "a.wav"), str(tmp_path / "b.flac")]
    (line,) = [line for line in err.splitlines() if not line.startswith("transcribe: precision")]
    assert "bad.mp3" in line
    assert "not_audio" in line
    assert main(["transcribe", str(tmp_path / "a.wav"), "--model", str(tmp_path), "--device", "cpu"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_a_finished_run_is_left_alone(place):
    before = {path: path.stat().st_mtime_ns for path in Path(place / "pretrain").rglob("*.safetensors")}
    command = ["pretrain", str(place / "pretrain.toml"), "--data.shards", str(place / "shards")]
    assert main([*command, "--output", str(place / "pretrain")]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in Path(place / "pretrain").rglob("*.safetensors")}
    assert main([*command, "--output", str(place / "pretrain"), "--optim.lr", "0.5"]) == 1
