"""A transcription that is killed goes on where it stopped; on a full disk it says so and leaves no half file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from speechssl.asr.transcription.transcribe import transcribe
from speechssl.cli.main import main
from speechssl.config import TranscribeConfig
from tests.support.tones import make_sentence, speak, trained

COUNT = 40


@pytest.fixture(scope="module")
def model() -> str:
    return str(trained()[1] / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("in")
    for number in range(COUNT):
        (place / f"part{number % 3}").mkdir(exist_ok=True)
        wave = speak(make_sentence(f"kill-{number}", 6), f"kill-{number}")
        soundfile.write(place / f"part{number % 3}" / f"{number:02}.wav", wave, 16_000)
    return place


def contents(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix in {".json", ".srt"}
    }


def test_killed_it_goes_on(model: str, folder: Path, tmp_path: Path) -> None:
    cfg = TranscribeConfig(model=model, output=str(tmp_path / "whole"), format="json,srt", device="cpu")
    assert transcribe([folder], cfg).done == COUNT
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "speechssl", "transcribe", str(folder), "--model", model]
    command += ["--output", str(output), "--format", "json,srt", "--device", "cpu"]
    journal = output / "transcripts.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 300
        while running.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
                os.kill(running.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        assert running.wait() == -signal.SIGKILL
    whole = contents(tmp_path / "whole")
    left = contents(output)
    assert 6 <= len(left) < 2 * COUNT
    assert all(whole[name] == data for name, data in left.items())
    again = transcribe([folder], TranscribeConfig(**{**vars(cfg), "output": str(output)}))
    assert 3 <= again.known < COUNT
    assert again.known + again.done == COUNT
    assert contents(output) == whole
    rows = [json.loads(line)["name"] for line in journal.read_text().splitlines()]
    assert sorted(rows) == sorted(set(rows))
    assert len(rows) == COUNT


def test_a_disk_that_is_full(
    model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    command = ["transcribe", str(folder), "--model", model, "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert all(path.read_text().endswith("\n") for path in (tmp_path / "out").rglob("*.txt"))
    monkeypatch.setattr(os, "fsync", real)
    assert main(command) == 0
    assert len(list((tmp_path / "out").rglob("*.txt"))) == COUNT
