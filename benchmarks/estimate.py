"""`speechssl estimate` against the real thing: peak memory and step time that it promises, and what a run then takes.

usage: python -m benchmarks.estimate [--only NAME ...] [--steps 7]       (about ten minutes; --only does a part)

For each configuration ``estimate`` is asked first: it measures a few updates in processes of their own. Then
`pretrain` or `finetune` itself makes a few updates on PCM shards of noise, rows of equal length, one loader process, in
a process of its own. Its step time is the median of what its metrics say of every step but the first two; its peak
memory is the highest resident memory of that process (loader processes not counted), checkpoint and model folder
included. One thread each. Bars: 10 % of the memory, 20 % of the time. Results, one configuration after the other:
benchmarks/results/estimate.json; those measured before stay in it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.machine import RESULTS, ROOT, write
from speechssl.config import FinetuneConfig, PretrainConfig, ShardConfig
from speechssl.config.load import from_dict, load_config, to_dict
from speechssl.config.objectives import offline_targets
from speechssl.data.ingest.manifest import Utterance, write_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.workflows.estimate import estimate

RATE = 16_000
BARS = {"memory": 0.10, "time": 0.20}
SETTLE = 2
"""Steps that do not count: caches, loader processes and the allocator settle."""


@dataclass(frozen=True)
class Case:
    """A configuration, and the micro-batch it is asked about: ``rows`` x ``seconds``."""

    preset: str
    rows: int
    seconds: float
    overrides: tuple[str, ...] = ()
    kind: type = PretrainConfig


CASES = {
    "wav2vec 2.0 BASE, 4 x 5 s": Case("wav2vec2-base", 4, 5.0),
    "wav2vec 2.0 BASE, 8 x 5 s": Case("wav2vec2-base", 8, 5.0),
    "wav2vec 2.0 BASE, 4 x 12 s, recompute": Case("wav2vec2-base", 4, 12.0, ("--training.recompute",)),
    "wav2vec 2.0 small, 8 x 10 s": Case("wav2vec2-small", 8, 10.0),
    "wav2vec 2.0 small, 4 x 10 s, float32, average": Case(
        "wav2vec2-small", 4, 10.0, ("--training.precision", "fp32", "--training.ema-decay", "0.999")
    ),
    "HuBERT BASE, 6 x 6 s": Case("hubert-base", 6, 6.0),
    "HuBERT, log-mel, 16 x 12 s": Case("hubert-cpu", 16, 12.0),
    "tiny, 8 x 4 s": Case("tiny", 8, 4.0),
    "fine-tuning of BASE, 6 x 8 s": Case("finetune-10h", 6, 8.0, kind=FinetuneConfig),
    "fine-tuning, log-mel, 16 x 12 s": Case("finetune-cpu", 16, 12.0, kind=FinetuneConfig),
}


def configuration(case: Case, shards: Path, output: Path, steps: int) -> Any:
    """Return the configuration of a run of ``steps`` updates, the same that is asked about."""
    words = ["--training.threads", "1", "--training.device", "cpu", *case.overrides]
    cfg = load_config(case.kind, case.preset, words)
    data = replace(
        cfg.data, shards=str(shards), batch_seconds=case.rows * case.seconds, max_seconds=case.seconds,
        min_seconds=0.1, batches_per_step=1, workers=1, splits=("train",),
    )  # fmt: skip
    training = replace(
        cfg.training, steps=steps, log_every=1, save_every=steps, validate_every=0, patience=0, average=0
    )
    cfg = replace(cfg, data=data, output=str(output), training=training)
    if isinstance(cfg, FinetuneConfig):
        return replace(cfg, augment=replace(cfg.augment, speeds=()), ctc=replace(cfg.ctc, freeze_steps=0))
    # One iteration of HuBERT on clusters of MFCC: making units is another program than training.
    if (targets := offline_targets(cfg.objective)) is None:
        return cfg
    targets = replace(targets, steps=(steps,), clusters=targets.clusters[:1], layers=(0,))
    return replace(cfg, objective=replace(cfg.objective, targets=targets))


def make_shards(case: Case, folder: Path) -> None:
    """Write PCM shards of noise: three micro-batches of rows of one length, with fourteen letters a second."""
    rng = np.random.default_rng(0)
    utterances = []
    (folder / "audio").mkdir(parents=True)
    for i in range(3 * case.rows):
        path = folder / "audio" / f"{i}.wav"
        soundfile.write(path, (3000 * rng.standard_normal(round(case.seconds * RATE))).astype(np.int16), RATE)
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), round(14 * case.seconds))
        utterances.append(
            Utterance(f"n{i:05d}", str(path), case.seconds, RATE, 1, split="train", text="".join(letters))
        )
    write_manifest(folder / "manifest.jsonl", utterances)
    shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(encoding="pcm16", workers=1))


def real() -> None:
    """Run the configuration that standard input gives; print its peak memory in bytes."""
    import torch

    from speechssl.workflows.cost_probe import peak_memory

    request = json.loads(sys.stdin.read())
    if request["kind"] == "FinetuneConfig":
        from speechssl.asr.finetune import finetune

        finetune(from_dict(FinetuneConfig, request["config"]))
    else:
        from speechssl.training.pretrain import pretrain

        pretrain(from_dict(PretrainConfig, request["config"]))
    print(json.dumps({"peak_bytes": peak_memory(torch.device("cpu"))}))


def run(cfg: Any) -> tuple[int, list[float], float]:
    """Run ``cfg`` in a process of its own; return its peak memory, seconds of its steps, largest share of waiting."""
    from speechssl.training.monitoring.log import read_metrics

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.estimate", "--real"],
        input=json.dumps({"kind": type(cfg).__name__, "config": to_dict(cfg)}),
        check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    places = (Path(cfg.output) / "iteration-1" / "metrics.jsonl", Path(cfg.output) / "metrics.jsonl")
    metrics = next(path for path in places if path.exists())
    lines = [line for line in read_metrics(metrics) if line.get("phase") == "train"][SETTLE:]
    return peak, [float(line["step_seconds"]) for line in lines], max(float(line["loader_wait"]) for line in lines)


def compare(case: Case, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = configuration(case, folder / "shards", folder / "run", steps)
        cost = estimate(cfg)
        make_shards(case, folder)
        peak, seconds, wait = run(cfg)
    step = statistics.median(seconds)
    return {
        "memory_gb": {"estimate": round(cost.peak_bytes / 1e9, 3), "run": round(peak / 1e9, 3)},
        "step_seconds": {"estimate": round(cost.step_seconds, 4), "run": round(step, 4)},
        "error": {"memory": round(cost.peak_bytes / peak - 1, 4), "time": round(cost.step_seconds / step - 1, 4)},
        "loader_wait": round(wait, 4),
        "steps_of_the_run": [round(value, 4) for value in seconds],
        "probes": [
            {key: probe[key] for key in ("rows", "micro_seconds", "update_seconds", "peak_bytes")}
            for probe in cost.probes
        ],
    }


def table(cases: dict[str, Any]) -> str:
    lines = [f"{'':<46}{'memory, GB':>22}{'':>9}{'step, s':>20}"]
    for name, row in cases.items():
        memory, seconds, error = row["memory_gb"], row["step_seconds"], row["error"]
        lines.append(
            f"{name:<46}{memory['estimate']:>10.2f} ({memory['run']:>6.2f}) {error['memory']:>+9.1%}"
            f"{seconds['estimate']:>11.3f} ({seconds['run']:>7.3f}) {error['time']:>+8.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one of these")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--real", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.real:
        real()
        return
    path = arguments.results.resolve() / "estimate.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    for name, case in CASES.items():
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        found[name] = compare(case, arguments.steps)
        print(table({name: found[name]}), flush=True)
        within = {kind: sum(abs(row["error"][kind]) <= bar for row in found.values()) for kind, bar in BARS.items()}
        result = {
            "what": "estimate (its probes) against a real run: peak memory of the process, median step, one thread",
            "bars": BARS, "within": within | {"of": len(found)},
            "cases": {name: found[name] for name in CASES if name in found},
        }  # fmt: skip
        write(path, result, "numpy")
    print(table({name: found[name] for name in CASES if name in found}))


if __name__ == "__main__":
    main()
