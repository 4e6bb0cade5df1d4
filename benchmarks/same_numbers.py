"""Do two versions of the code compute the same numbers? Run this on both, on one machine, and compare the output.

usage: python -m benchmarks.same_numbers > after.txt        (then: diff before.txt after.txt)

In: nothing; the corpus is made of tones. Out: a line for the bytes of the shards, one for each training loss of a few
updates, at full precision, and one for the weights and the transcripts at the end. One thread and float32, so that the
lines of one machine are reproducible; another processor may round differently.
"""

import hashlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import speechssl
from speechssl.training.monitoring.log import read_metrics
from tests.support.tones import speak, write_shards

__all__ = ["numbers"]

SETTINGS: dict[str, Any] = {"data.min_seconds": 0.1, "training.log_every": 1, "training.precision": "fp32"}
STEPS = 8
OBJECTIVES: dict[str, dict[str, Any]] = {
    "wav2vec2": {"training.steps": STEPS},
    "hubert": {
        "objective": {
            "kind": "hubert",
            "final_dim": 32,
            "mask": {"length": 5},
            "targets": {
                "steps": [STEPS // 2, STEPS // 2],
                "clusters": [10, 20],
                "layers": [0, 1],
                "kmeans_hours": 0.1,
            },
        }
    },
}


def digest(*paths: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of some files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def losses(run: Path) -> list[str]:
    """Return the logged losses of a run and of its iterations, at full precision."""
    lines = []
    for path in sorted(run.rglob("metrics.jsonl")):
        rows = [row for row in read_metrics(path) if row["phase"] == "train"]
        lines += [f"{path.parent.relative_to(run.parent)} step {row['step']}: loss {row['loss']!r}" for row in rows]
    return lines


def numbers(folder: Path) -> list[str]:
    """Return the lines; ``folder`` is filled with the runs."""
    shards = write_shards(folder / "corpus", {"train": 40, "dev": 8})
    lines = [f"shards {digest(*sorted(shards.glob('*.tar')))}"]
    common = SETTINGS | {"data.shards": shards}
    for name, own in OBJECTIVES.items():
        model = speechssl.pretrain("tiny", common | own | {"output": folder / name})
        lines += [*losses(folder / name), f"{name} weights {digest(model / 'model.safetensors')}"]
    tuned = {"output": folder / "ctc", "training.steps": STEPS, "training.validate_every": STEPS}
    model = speechssl.finetune("finetune-tiny", common | tuned)
    lines += [*losses(folder / "ctc"), f"ctc weights {digest(model / 'model.safetensors')}"]
    text = speechssl.load(model, device="cpu", precision="fp32").transcribe(speak("abc de"), 16_000).text
    return [*lines, f"transcript {text!r}"]


def main() -> None:
    """Print the lines; everything that training says goes to standard error."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            lines = numbers(Path(folder))
        print("\n".join(lines))


if __name__ == "__main__":
    main()
