"""A recording that kills the process that decodes it: it is named, and all others are measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.voices import voice, write

FAULTS = """
import os, signal
from speechssl.data.audit import measure
honest = measure.AudioFile
def faulty(path, *rest):
    if "kills" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(path, *rest)
measure.AudioFile = faulty
"""
"""What Python runs at its start in every process of the audit."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kills"])
def test_the_file_is_named_and_the_rest_goes_on(fault, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FAULTS, encoding="utf-8")
    rows = []
    for number in range(20):
        name = f"{fault if number == 3 else number}.wav"
        wave = voice(1.5, seed=number)
        write(tmp_path / name, wave)
        rows.append({"id": f"u{number}", "path": name, "duration": 1.5, "sample_rate": 16_000, "channels": 1})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = ["audit", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "out"), "--suspects", "0",
               "--workers", "2", "--hang-minutes", "0.5", "--ignore", "near_duplicate", "clipping"]  # fmt: skip
    place = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    run = subprocess.run(
        [sys.executable, "-m", "speechssl", *command], env={**os.environ, "PYTHONPATH": place}, capture_output=True,
        text=True, timeout=500, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    document = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert document["summary"]["usable"] == 19
    (error,) = [row for row in document["findings"] if row["severity"] == "error"]
    assert (error["check"], error["id"], error["value"]) == ("unusable", "u3", "decoder_crash")
    assert "died, or took more than 30 s" in error["detail"]
