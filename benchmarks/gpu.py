"""One GPU in one run: what a pretraining step reaches of the chip, against Hugging Face on the same batch.

usage: python -m benchmarks.gpu [--rehearse]       (under eight minutes on one GPU)

Prints one table and writes benchmarks/results/gpu.json. ``--rehearse`` runs the same script at toy sizes on whatever
device there is and writes nothing: that is what the tests do where there is no GPU.

rate      bf16 matrix products (8192 cubed), the yardstick
parity    outputs and gradients of a small model here against the CPU in float32
step      wav2vec 2.0 and HuBERT BASE in bf16, with and without torch.compile: hours of audio a second, the share of the
          measured rate (45.2 GFLOP for a second of audio, 12 s rows), peak memory
peer      transformers.Wav2Vec2ForPreTraining, bf16 autocast, the same batch
loader    share of the time that `pretrain` waits for data, FLAC and PCM shards of noise, two worker processes
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.contenders import hugging_face, ours
from benchmarks.machine import hardware, write
from speechssl.config import DataConfig, PretrainConfig, ShardConfig
from speechssl.data.manifest import Utterance, write_manifest
from speechssl.data.shards import shard_manifest
from speechssl.settings import load_config
from speechssl.training.log import read_metrics
from speechssl.training.optim import build_optimizer
from speechssl.training.pretrain import pretrain

GFLOP_A_SECOND = 45.2
"""Of BASE: forward and backward for a second of audio in rows of 12 s."""


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median seconds of a call, after two that warm up."""
    values = []
    for number in range(repeats + 2):
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        if number > 1:
            values.append(time.perf_counter() - began)
    return statistics.median(values)


def matrix_rate(device: torch.device, size: int) -> float:
    """Return the measured bf16 matrix rate in TFLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, device, 10) / 1e12


def parity(device: torch.device) -> dict[str, float]:
    """Return the largest difference of outputs and of gradients (relative) between this device and the CPU."""
    results = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        task, own, _ = ours(2, 16_000, small=True, attention_dropout=0.0, hubert=True)
        task.eval().to(where)
        batch = task.prepare(own).to(where)
        out = task(batch)
        (out.sum / batch.n_targets).backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None])
        results.append((out.sum.item() / batch.n_targets, gradients))
    (a, ga), (b, gb) = results
    return {"loss": abs(a - b) / abs(a), "gradients": float((ga - gb).norm() / ga.norm())}


def step_of(task: Any, loss: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    optimizer = build_optimizer(list(task.parameters()), load_config(PretrainConfig, "wav2vec2-base").optim)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def our_step(device: torch.device, rows: int, samples: int, *, hubert: bool, compiled: bool, small: bool) -> Any:
    task, batch, _ = ours(rows, samples, small=small, attention_dropout=0.0, hubert=hubert)
    task.to(device)
    prepared = [task.prepare(replace(batch, epoch=epoch)) for epoch in range(4)]
    module = torch.compile(task) if compiled else task
    turn = iter(range(10**9))

    def value() -> Any:
        item = prepared[next(turn) % len(prepared)]
        return module(item.to(device)).sum / item.n_targets

    return step_of(task, value, device)


def peer_step(device: torch.device, rows: int, samples: int, *, small: bool) -> Any:
    model, _ = hugging_face(rows, samples, small=small)
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    model.to(device)
    wave = 0.1 * torch.randn(rows, samples, device=device)
    frames = int(model._get_feat_extract_output_lengths(samples))
    mask = _compute_mask_indices((rows, frames), 0.65, 10)
    negatives = torch.from_numpy(_sample_negative_indices((rows, frames), 100, mask)).to(device)
    masked = torch.from_numpy(mask).to(device)
    return step_of(
        model, lambda: model(wave, mask_time_indices=masked, sampled_negative_indices=negatives).loss, device
    )


def measure(name: str, make: Callable[[], Any], device: torch.device, seconds: float, rate: float, n: int) -> Any:
    """Return one row of the table; an error is a row, too."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        spent = timed(make(), device, n)
    except (RuntimeError, torch.OutOfMemoryError) as error:
        return {"name": name, "error": str(error).splitlines()[0][:120]}
    peak = torch.cuda.max_memory_reserved() / 1e9 if device.type == "cuda" else 0.0
    share = GFLOP_A_SECOND * seconds / spent / 1000 / rate
    return {"name": name, "ms": 1000 * spent, "hours_a_second": seconds / spent / 3600, "share": share, "gb": peak}


def loader_wait(device: torch.device, encoding: str, steps: int, seconds: float) -> float:
    """Return the share of the time that a real pretraining run waits for its loader."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        count = max(8, round(seconds / 3))
        utterances = []
        for i in range(count):
            soundfile.write(folder / f"{i}.wav", (3000 * rng.standard_normal(160_000)).astype(np.int16), 16_000)
            utterances.append(Utterance(f"n{i:05d}", f"{i}.wav", 10.0, 16_000, 1, split="train"))
        write_manifest(folder / "manifest.jsonl", utterances)
        shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(encoding=encoding))  # type: ignore[arg-type]
        cfg = load_config(PretrainConfig, "wav2vec2-base" if device.type == "cuda" else "tiny")
        data = DataConfig(shards=str(folder / "shards"), batch_seconds=seconds, workers=2, max_seconds=15.6)
        training = replace(cfg.training, steps=steps, log_every=max(1, steps // 3), save_every=10**6)
        pretrain(replace(cfg, output=str(folder / "run"), data=data, training=training, objective="wav2vec2"))
        last = [line for line in read_metrics(folder / "run" / "metrics.jsonl") if line.get("phase") == "train"][-1]
        return float(last["loader_wait"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, any device, nothing written")
    arguments = parser.parse_args()
    toy = arguments.rehearse
    if not toy and not torch.cuda.is_available():
        sys.exit("no CUDA device; --rehearse runs the script at toy sizes on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, samples, repeats = (2, 8_000, 1) if toy else (32, 12 * 16_000, 10)
    seconds = rows * samples / 16_000
    rate = matrix_rate(device, 256 if toy else 8192)
    table = []
    for name, make in (
        ("wav2vec 2.0", lambda: our_step(device, rows, samples, hubert=False, compiled=False, small=toy)),
        ("HuBERT", lambda: our_step(device, rows, samples, hubert=True, compiled=False, small=toy)),
        *(
            []
            if toy
            else [
                (
                    "wav2vec 2.0, compiled",
                    lambda: our_step(device, rows, samples, hubert=False, compiled=True, small=toy),
                ),
                ("HuBERT, compiled", lambda: our_step(device, rows, samples, hubert=True, compiled=True, small=toy)),
            ]
        ),
        ("Hugging Face wav2vec 2.0", lambda: peer_step(device, rows, samples, small=toy)),
    ):
        table.append(measure(name, make, device, seconds, rate, repeats))
    result = {
        "matrix_tflops": rate,
        "parity": parity(device),
        "batch": f"{rows} x {samples / 16_000:g} s",
        "steps": table,
        "loader_wait": {
            kind: loader_wait(device, kind, 3 if toy else 60, 20.0 if toy else 300.0)
            for kind in (("pcm16",) if toy else ("flac", "pcm16"))
        },
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else hardware(),
        "cores": os.cpu_count(),
    }
    print(f"{result['hardware']}: {rate:.1f} TFLOP/s in bf16 matrix products; batch {result['batch']}")
    print(f"{'':<28}{'ms':>9}{'h/s':>8}{'of rate':>9}{'GB':>7}")
    for row in table:
        if "error" in row:
            print(f"{row['name']:<28}{row['error']}")
        else:
            print(
                f"{row['name']:<28}{row['ms']:>9.1f}{row['hours_a_second']:>8.2f}{row['share']:>9.1%}{row['gb']:>7.1f}"
            )
    print("parity with the CPU:", ", ".join(f"{name} {value:.1e}" for name, value in result["parity"].items()))
    print("loader wait:", ", ".join(f"{name} {value:.1%}" for name, value in result["loader_wait"].items()))
    if not toy:
        write("gpu.json", result, "torchaudio", "transformers")


if __name__ == "__main__":
    main()
