"""The loader's benchmark at toy sizes: every contender delivers, and what it writes adds up."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import loader


def run(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loader", "--audio", "0.02", "--data", str(folder), "--results", str(folder),
         *words],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_contenders_are_measured_in_turns(tmp_path):
    names = ["soundfile-0", "threads-2-float"]
    run(tmp_path, "--encoding", "pcm16", "--rounds", "2", "--seconds", "0.2", "--quiet", "9", "--only", ",".join(names))
    result = json.loads((tmp_path / "loader-pcm16.json").read_text())
    assert {name: len(row["rounds"]) for name, row in result["contenders"].items()} == dict.fromkeys(names, 2)
    assert all(row["hours_per_second"] > 0 for row in result["contenders"].values())
    assert result["audio"]["kind"] == "synthetic"
    assert result["audio"]["hours"] >= 0.02
    assert {"hardware", "versions", "date", "command"} <= result.keys()


@pytest.mark.slow
def test_memory_is_that_of_all_processes(tmp_path):
    run(tmp_path, "--batches", "50", "--only", "processes-2,threads-2")
    found = json.loads((tmp_path / "loader-memory.json").read_text())["contenders"]
    assert {name: len(row["megabytes"]) for name, row in found.items()} == {"processes-2": 11, "threads-2": 11}
    assert found["processes-2"]["megabytes"][-1] > 1.3 * found["threads-2"]["megabytes"][-1]


@pytest.mark.slow
def test_decoders_take_turns(tmp_path):
    pytest.importorskip("miniaudio")
    run(tmp_path, "--decoders", "--rounds", "3")
    found = json.loads((tmp_path / "loader-decoders.json").read_text())["contenders"]
    assert {name: len(row["rounds"]) for name, row in found.items()} == {"dr_flac": 3, "libsndfile": 3}
    assert found["dr_flac"]["median"] > found["libsndfile"]["median"] > 0


def test_ratios_are_medians_of_rounds_against_the_best_peer():
    def runs(*speeds):
        return [{"hours": speed, "wall": 1.0, "cpu": 2.0, "others": 0.0} for speed in speeds]

    figures = {
        "soundfile-0": runs(1.0, 1.0, 1.0), "soundfile-2": runs(2.0, 1.5, 2.0), "readme-0": runs(0.5, 0.5, 0.4),
        "threads-1": runs(4.0, 4.0, 4.0), "threads-2": runs(8.0, 6.0, 7.0), "processes-2": runs(1.0, 1.0, 1.0),
    }  # fmt: skip
    found = loader.ratios(figures)
    assert found["best of ours with 2 against the best webdataset + soundfile, wall time"] == 4.0
    assert found["best of ours with 2 against the best webdataset README, cpu time"] == 16.0
    assert found["2 threads against 1, wall time"] == 1.75
    assert found["2 processes against 1, wall time"] is None
    assert found["the same as float32 against the best webdataset README, wall time"] is None
