"""benchmarks.transcription runs at a toy size, and what it says of speed and likeness follows from what it kept."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from benchmarks import transcription
from speechssl.core.processor import processor

pytest.importorskip("transformers")


@pytest.mark.slow
def test_contenders_alternate_and_rounds_add_up(tmp_path):
    folder = tmp_path / "libri_dev"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number, samples in enumerate([9000, 20_000, 14_000, 5000]):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.normal(size=samples), 16_000)
        rows.append(json.dumps({"id": f"u{number}", "audio": f"{number}.wav"}))
    (folder / "manifest.jsonl").write_text("\n".join(rows), encoding="utf-8")

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.transcription", str(tmp_path), "--toy", "--count", "4",
             "--results", str(tmp_path), *words],
            capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((tmp_path / "transcription.json").read_text(encoding="utf-8"))

    result = run("--rounds", "2")
    assert len(result["rounds"]) == (13 if processor().bf16 else 7)  # the pipeline in bfloat16 only where it is fast
    assert all(len(times) == 2 for times in result["rounds"].values())
    assert result["texts equal, ours fp32 and pipeline fp32, batch 1"] == 4
    assert result["share of frames whose best symbol bf16 changes"] < 0.2
    assert "4 utterances of libri_dev, 3 s" in result["what"]
    names = ["ours fp32", "ours bf16"]
    result = run("--rounds", "1", "--add", "--only", *names)
    assert {name: len(times) for name, times in result["rounds"].items() if len(times) == 3} == dict.fromkeys(names, 3)
    assert len(run("--rounds", "1", "--only", "ours fp32")["rounds"]) == 1


def test_ratios_take_the_peers_best_batch_size():
    medians = {
        "pipeline fp32, batch 1": 10.0, "pipeline fp32, batch 4": 8.0, "pipeline autocast, batch 1": 5.0,
        "pipeline bf16, batch 8": 4.0, "ours fp32": 4.0, "ours bf16": 2.0,
    }  # fmt: skip
    assert transcription.ratios(medians) == {
        "pipeline fp32, batch 4 / ours fp32": 2.0,
        "pipeline fp32, batch 4 / ours bf16": 4.0,
        "pipeline bf16, batch 8 / ours fp32": 1.0,
        "pipeline bf16, batch 8 / ours bf16": 2.0,
    }


def test_likeness_counts_texts_and_frames():
    slow = (["a b", "c"], [np.array([1, 2, 3]), np.array([1])])
    fast = (["a b", "d"], [np.array([1, 2, 3]), np.array([2])])
    found = transcription.likeness(
        {"ours fp32": slow, "ours bf16": fast, "pipeline fp32, batch 1": (["a b", "x"], None)}
    )
    assert found["texts equal, ours fp32 and pipeline fp32, batch 1"] == 1
    assert found["share of frames whose best symbol bf16 changes"] == 0.25
