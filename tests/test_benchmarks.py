"""Benchmarks that need other hardware or much time run here at toy sizes, so that they are ready when they can."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import machine


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def test_a_result_says_where_when_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--rows", "3", "--data", str(tmp_path)])
    path = machine.write(tmp_path / "new" / "x.json", {"what": "a figure", "load": "kept"}, "numpy", "no-such-package")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["what"], found["load"]) == ("a figure", "kept")
    assert found["versions"]["torch"].startswith("2.11")
    assert found["versions"]["no-such-package"] is None
    assert found["date"] == machine.today()
    assert found["command"].endswith("--rows 3 --data PATH")
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert f"{len(os.sched_getaffinity(0))} cores" in found["hardware"]


@pytest.mark.slow
def test_the_gpu_script_is_ready():
    done = run("benchmarks.gpu", "--rehearse")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("wav2vec 2.0", "HuBERT", "Hugging Face wav2vec 2.0", "parity with the CPU", "loader wait"):
        assert name in done.stdout
    assert "error" not in done.stdout.lower()


@pytest.mark.slow
def test_the_step_benchmark_alternates_its_contenders(tmp_path):
    names = ["preset-bf16", "plain-bf16"]
    done = run(
        "benchmarks.step",
        "--small",
        "--rounds",
        "2",
        "--rows",
        "1",
        "--seconds",
        "0.5",
        "--results",
        str(tmp_path),
        "--only",
        *names,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "step-wav2vec2-small.json").read_text())
    assert {name: len(times) for name, times in result["rounds"].items()} == dict.fromkeys(names, 2)
    ratio = result["seconds"]["plain-bf16"] / result["seconds"]["preset-bf16"]
    assert result["ratios"]["plain-bf16 / preset-bf16"] == pytest.approx(ratio, rel=0.1)
