"""One GPU in one run: what a pretraining step reaches of the chip, against peers on the same batch.

usage: python -m benchmarks.gpu [--minutes 7.5] [--workers 4]       (on one GPU)
       python -m benchmarks.gpu --rehearse                         (toy sizes on any device; writes nothing)

Writes benchmarks/results/gpu.json after every row and prints one table. Rows that the time does not suffice for are
named as left out, so the most telling come first. The rehearsal is what the tests run where there is no GPU.

rate      bf16 products of random matrices (8192 cubed): the yardstick of ``of rate``
parity    loss and gradients of a small HuBERT here in float32 against the CPU; beyond 1e-4 and 1e-3 the script fails
step      wav2vec 2.0 and HuBERT BASE in bf16: forward, backward, gradient norm, fused AdamW, on batches that lie on
          the device (training/feed.py copies them ahead); as `pretrain` runs it, with ``training.compile``, and with
          the compiler's CUDA graphs. ``of rate`` counts the published model's arithmetic, 45.2 GFLOP for a second of
          audio in rows of 12 s, whatever is really computed
peers     transformers.Wav2Vec2ForPreTraining, and torchaudio's hubert_pretrain_base, which stands for minimal_hubert:
          that is not on PyPI and trains the same HuBERT BASE. Both get our fused AdamW, and masks (and negatives) that
          lie on the device ready made; torchaudio's computes no logits of unmasked frames, and a row has it compiled.
          minimal_hubert's own published rate, on another chip, is 0.54 hours of audio a second (H100)
pretrain  `pretrain` itself, end to end, on FLAC and PCM shards of noise: throughput, and the share of time spent
          waiting for the loader
"""

import argparse
import gc
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
from torch import nn

from benchmarks.contenders import UNITS, batch_of, hugging_face, ours, torchaudio_hubert
from benchmarks.machine import hardware, write
from speechssl.config import DataConfig, PretrainConfig, ShardConfig
from speechssl.config.load import load_config
from speechssl.core.precision import uses_bf16
from speechssl.data.ingest.manifest import Utterance, write_manifest
from speechssl.data.store.writer import shard_manifest
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.optim import build_optimizer, clip_gradients
from speechssl.training.pretrain import pretrain

GFLOP_A_SECOND = 45.2
"""Of BASE: forward and backward for a second of audio in rows of 12 s."""
BARS = {
    "share of the rate": 0.45, "against Hugging Face": 3.0, "against torchaudio's HuBERT": 3.0, "loader wait": 0.01,
    "parity, loss": 1e-4, "parity, gradients": 1e-3,
}  # fmt: skip
TOGETHER = 4
"""Steps between two looks at the clock: the device's queue does not run empty in between."""


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: torch.device, repeats: int, together: int = TOGETHER) -> float:
    """Return the median seconds of a call over ``repeats`` groups, after one group that warms up."""
    values = []
    together = together if device.type == "cuda" else 1
    for number in range(repeats + 1):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(together):
            run()
        synchronise(device)
        if number:
            values.append((time.perf_counter() - began) / together)
    return statistics.median(values)


def matrix_rate(device: torch.device, size: int) -> float:
    """Return the measured bf16 matrix rate in TFLOP/s."""
    dtype = torch.bfloat16 if uses_bf16("auto", device.type) else torch.float32  # of a rehearsal on an older CPU
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, device, 10) / 1e12


def parity(device: torch.device) -> dict[str, float]:
    """Return the relative difference of loss and of gradients between this device and the CPU."""
    results = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        task, own, _ = ours(2, 16_000, small=True, attention_dropout=0.0, hubert=True)
        task.eval().to(where)
        item = task.prepare(own).to(where)
        out = task(item)
        (out.sum / item.n_targets).backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None])
        results.append((out.sum.item() / item.n_targets, gradients))
    (a, ga), (b, gb) = results
    return {"loss": abs(a - b) / abs(a), "gradients": float((ga - gb).norm() / ga.norm())}


def step_of(model: nn.Module, loss: Callable[[], Any], device: torch.device, *, norm: bool) -> Callable[[], None]:
    """Return one update; with ``norm`` the norm of the gradients, which the loop logs, is part of it."""
    parameters = list(model.parameters())
    optimizer = build_optimizer(parameters, load_config(PretrainConfig, "wav2vec2-base").optim)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16("auto", device.type)):
            value = loss()
        value.backward()
        if norm:
            clip_gradients(parameters, 0.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def our_step(
    device: torch.device, rows: int, samples: int, *, hubert: bool, small: bool, mode: str | None = None
) -> Callable[[], None]:
    """Return an update of ours in turns on four batches; ``mode`` is the compiler's, None for no compiler."""
    task, batch, _ = ours(rows, samples, small=small, attention_dropout=0.0, hubert=hubert)
    task.to(device)
    items = [task.prepare(replace(batch, epoch=epoch)).to(device) for epoch in range(4)]
    if mode is not None:
        task.compile(mode=mode)
    turn = iter(range(10**9))

    def loss() -> Any:
        item = items[next(turn) % len(items)]
        return task(item).sum / item.n_targets

    return step_of(task, loss, device, norm=True)


def hugging_face_step(device: torch.device, rows: int, samples: int, *, small: bool) -> Callable[[], None]:
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    model, _ = hugging_face(rows, samples, small=small)
    model.to(device)
    wave = batch_of(rows, samples).wave.to(device)
    shape = (rows, int(model._get_feat_extract_output_lengths(samples)))  # type: ignore[operator]
    mask = _compute_mask_indices(shape, 0.65, 10)
    negatives = torch.from_numpy(_sample_negative_indices(shape, 100, mask)).to(device)
    masked = torch.from_numpy(mask).to(device)

    def loss() -> Any:
        return model(wave, mask_time_indices=masked, sampled_negative_indices=negatives).loss

    return step_of(model, loss, device, norm=False)


class GivenMask(nn.Module):
    """In place of torchaudio's mask generator, which draws every mask anew on the host."""

    def __init__(self, mask: torch.Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.embedding = nn.Parameter(torch.rand(dim))

    def forward(self, x: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(self.mask[..., None], self.embedding.to(x.dtype), x), self.mask


def torchaudio_step(device: torch.device, rows: int, samples: int, *, compiled: bool) -> Callable[[], None]:
    task, batch, _ = ours(rows, samples, small=False, attention_dropout=0.0, hubert=True, layers=1)
    mask = task.prepare(batch).mask
    model: Any = torchaudio_hubert(rows, samples)[0]
    model.mask_generator = GivenMask(mask, 768)
    model.logit_generator.skip_nomask = True
    model.to(device)
    wave, labels = batch.wave.to(device), torch.randint(0, UNITS, mask.shape, device=device)
    first = torch.zeros(int(mask.sum()), dtype=torch.long, device=device)
    if compiled:
        model.compile()

    def loss() -> Any:
        logits, _, penalty = model(wave, labels)
        return nn.functional.cross_entropy(logits, first) + 10 * penalty

    return step_of(model, loss, device, norm=False)


def measure(make: Callable[[], Any], device: torch.device, seconds: float, rate: float, repeats: int) -> dict[str, Any]:
    """Return one row of the table; an error is a row, too."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    try:
        spent = timed(make(), device, repeats)
    except Exception as error:  # of a compiler or a device: the other rows must not be lost with it
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"}
    peak = torch.cuda.max_memory_reserved() / 1e9 if device.type == "cuda" else 0.0
    share = GFLOP_A_SECOND * seconds / spent / 1000 / rate
    return {"ms": 1000 * spent, "hours_a_second": seconds / spent / 3600, "share": share, "gb": peak}


def end_to_end(device: torch.device, encoding: str, *, steps: int, seconds: float, workers: int) -> dict[str, float]:
    """Return what `pretrain` says of its last third: hours of audio a second, share of the time it waits for data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        utterances = []
        for i in range(max(8, round(seconds / 3))):
            soundfile.write(folder / f"{i}.wav", (3000 * rng.standard_normal(192_000)).astype(np.int16), 16_000)
            utterances.append(Utterance(f"n{i:05d}", f"{i}.wav", 12.0, 16_000, 1, split="train"))
        write_manifest(folder / "manifest.jsonl", utterances)
        shard_manifest(folder / "manifest.jsonl", folder / "shards", ShardConfig(encoding=encoding))  # type: ignore[arg-type]
        cfg = load_config(PretrainConfig, "wav2vec2-base" if device.type == "cuda" else "tiny")
        encoder = replace(cfg.model.encoder, attention_dropout=0.0)
        data = DataConfig(shards=str(folder / "shards"), batch_seconds=seconds, workers=workers, max_seconds=12.0)
        training = replace(cfg.training, steps=steps, log_every=max(1, steps // 3), save_every=10**6)
        cfg = replace(cfg, output=str(folder / "run"), data=data, training=training)
        pretrain(replace(cfg, model=replace(cfg.model, encoder=encoder)))
        last = [line for line in read_metrics(folder / "run" / "metrics.jsonl") if line.get("phase") == "train"][-1]
    return {"hours_a_second": float(last["throughput"]) / 3600, "loader_wait": float(last["loader_wait"])}


def findings(result: dict[str, Any]) -> dict[str, float]:
    """Return what the bars are about: the best of ours against the peer's best."""

    def best(*names: str) -> float:
        return max((row["hours_a_second"] for name, row in result["steps"].items() if name in names and "ms" in row),
                   default=float("nan"))  # fmt: skip

    own = {kind: best(kind, f"{kind}, compiled", f"{kind}, CUDA graphs") for kind in ("wav2vec 2.0", "HuBERT")}
    peers = best("Hugging Face wav2vec 2.0"), best("torchaudio HuBERT", "torchaudio HuBERT, compiled")
    waits = [run["loader_wait"] for run in result["pretrain"].values()]
    return {
        "share of the rate": own["wav2vec 2.0"] * 3600 * GFLOP_A_SECOND / 1000 / result["matrix_tflops"],
        "against Hugging Face": own["wav2vec 2.0"] / peers[0],
        "against torchaudio's HuBERT": own["HuBERT"] / peers[1],
        "loader wait": max(waits, default=float("nan")),
        **{f"parity, {name}": value for name, value in result["parity"].items()},
    }


def show(result: dict[str, Any], *, judge: bool) -> None:
    print(f"{result['hardware']}: {result['matrix_tflops']:.1f} TFLOP/s in bf16 products; batch {result['batch']}")
    print(f"{'':<30}{'ms':>9}{'h/s':>8}{'of rate':>9}{'GB':>7}")
    for name, row in result["steps"].items():
        if "ms" in row:
            print(f"{name:<30}{row['ms']:>9.1f}{row['hours_a_second']:>8.2f}{row['share']:>9.1%}{row['gb']:>7.1f}")
        else:
            print(f"{name:<30}  {row.get('error') or row['left out']}")
    for name, run in result["pretrain"].items():
        share = run["hours_a_second"] * 3600 * GFLOP_A_SECOND / 1000 / result["matrix_tflops"]
        print(f"{f'pretrain, {name}':<39}{run['hours_a_second']:>8.2f}{share:>9.1%}   waits {run['loader_wait']:.2%}")
    for name, value in result["findings"].items():
        atmost = name.startswith(("loader", "parity"))
        verdict = "met" if (value <= BARS[name] if atmost else value >= BARS[name]) else "MISSED"
        bar = f"bar: {'at most' if atmost else 'at least'} {BARS[name]:g}"
        print(f"{name:<30}{value:>12.3g}   {bar}" + (f", {verdict}" if judge else ""))


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, any device, nothing written")
    parser.add_argument("--minutes", type=float, default=7.5, help="rows that would begin later are left out")
    parser.add_argument("--workers", type=int, default=4, help="loader processes of `pretrain`")
    arguments = parser.parse_args()
    toy = arguments.rehearse
    if not toy and not torch.cuda.is_available():
        sys.exit("no CUDA device; --rehearse runs the script at toy sizes on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, samples, repeats = (2, 8_000, 1) if toy else (32, 12 * 16_000, 5)
    seconds = rows * samples / 16_000
    result: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else hardware(),
        "cores": os.cpu_count(),
        "batch": f"{rows} x {samples / 16_000:g} s",
        "loaders": arguments.workers,
        "bars": BARS,
        "matrix_tflops": matrix_rate(device, 256 if toy else 8192),
        "parity": parity(device),
        "steps": {},
        "pretrain": {},
    }

    def step(*, hubert: bool, mode: str | None = None) -> Callable[[], Any]:
        return lambda: our_step(device, rows, samples, hubert=hubert, mode=mode, small=toy)

    plan = {
        "wav2vec 2.0": step(hubert=False),
        "Hugging Face wav2vec 2.0": lambda: hugging_face_step(device, rows, samples, small=toy),
        "HuBERT": step(hubert=True),
        "torchaudio HuBERT": lambda: torchaudio_step(device, rows, samples, compiled=False),
    }
    if not toy:
        plan |= {
            "wav2vec 2.0, compiled": step(hubert=False, mode="default"),
            "HuBERT, compiled": step(hubert=True, mode="default"),
            "torchaudio HuBERT, compiled": lambda: torchaudio_step(device, rows, samples, compiled=True),
            "wav2vec 2.0, CUDA graphs": step(hubert=False, mode="reduce-overhead"),
            "HuBERT, CUDA graphs": step(hubert=True, mode="reduce-overhead"),
        }

    def keep() -> None:
        """Write what there is so far: a machine that is taken away loses the row in work alone."""
        result["findings"] = findings(result)
        result["minutes"] = round((time.perf_counter() - began) / 60, 2)
        if not toy:
            write("gpu.json", result, "torchaudio", "transformers")

    def add(name: str) -> None:
        result["steps"][name] = measure(plan[name], device, seconds, result["matrix_tflops"], repeats)
        print(f"{name}: {result['steps'][name]}", flush=True)
        keep()

    names = list(plan)
    result["steps"] = {name: {"left out": "no time left"} for name in names}
    sure = 4  # rows and runs that the bars need; the others follow while there is time
    for name in names[:sure]:
        add(name)
    steps, audio, workers = (3, 20.0, 1) if toy else (60, 384.0, arguments.workers)
    for encoding in ("pcm16",) if toy else ("pcm16", "flac"):
        result["pretrain"][encoding] = end_to_end(device, encoding, steps=steps, seconds=audio, workers=workers)
        keep()
    for name in names[sure:]:
        if time.perf_counter() - began < 60 * arguments.minutes:
            add(name)
    keep()
    show(result, judge=not toy)
    if any(result["findings"][f"parity, {name}"] > BARS[f"parity, {name}"] for name in result["parity"]):
        sys.exit("this device does not compute what the CPU computes")


if __name__ == "__main__":
    main()
