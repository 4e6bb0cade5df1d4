"""The notebook of the docs: its cells run, at toy size, on real recordings; its stored outputs are whole."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.shared_data
def test_every_cell_runs_on_real_speech(shared_data, tmp_path):
    pytest.importorskip("matplotlib", reason="the notebook draws with matplotlib: pip install 'speechssl[notebook]'")
    lines = (shared_data / "an4" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    chosen = [row for split in ("train", "dev", "test") for row in [row for row in rows if row["split"] == split][:24]]
    for row in chosen:
        (tmp_path / "an4" / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / "an4" / row["audio"], tmp_path / "an4" / row["audio"])
    (tmp_path / "an4" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    script = tmp_path / "tour.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in CODE), encoding="utf-8")
    names = {"SPEECHSSL_WORK": "tour", "SPEECHSSL_SMALL": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-W", "ignore", str(script)]
    environment = {**os.environ, **names}
    ended = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "test WER, greedy:" in ended.stdout
    assert "layers, frames, dimensions:" in ended.stdout


def test_the_stored_outputs_are_whole_and_name_no_machine():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert all(output["output_type"] in ("stream", "display_data") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    said = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    assert "test WER, greedy:" in said
    assert not re.search(r"(^|[\s'\"=(])/\w", said), "an absolute path of the machine that ran the notebook"
