"""One training step on a CPU against its peers: ours and theirs alternate, each in a process of its own.

usage: python -m benchmarks.step [--set wav2vec2|hubert|paths] [--rounds 5] [--seconds 5] [--rows 4] [--small]

A step is forward, backward and AdamW on ``rows`` x ``seconds`` of noise, one thread; its cost is the process CPU time,
which other programs on the machine disturb less than the clock. Every round makes one step of each contender; the
medians and the ratios of medians are printed and written to benchmarks/results/step-SET.json (step-SET-small.json).

Contenders: ``hf-*`` is transformers.Wav2Vec2ForPreTraining with its own masks and negatives; ``ours-*`` the objective
with the same dropouts, ``preset-*`` the same without attention dropout, ``plain-*`` our textbook paths;
``hubert`` and ``torchaudio-hubert`` are HuBERT BASE (100 units) here and torchaudio.models.hubert_pretrain_base.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, write

SETS = {
    "wav2vec2": ("hf-fp32", "hf-bf16", "ours-fp32", "ours-bf16", "preset-bf16"),
    "hubert": ("torchaudio-hubert-bf16", "hubert-bf16"),
    "paths": ("plain-bf16", "preset-bf16", "preset-fp32"),
}
"""What runs at a time: five BASE models with their optimisers take about 20 GB."""
RATIOS = (
    ("hf-fp32", "ours-fp32"), ("hf-fp32", "ours-bf16"), ("hf-bf16", "ours-bf16"), ("hf-fp32", "preset-bf16"),
    ("hf-bf16", "preset-bf16"), ("plain-bf16", "preset-bf16"), ("torchaudio-hubert-bf16", "hubert-bf16"),
)  # fmt: skip


def batch_of(rows: int, samples: int) -> Any:
    import torch

    from speechssl.data.batch import Batch

    torch.manual_seed(1)
    return Batch(
        wave=0.1 * torch.randn(rows, samples),
        lengths=torch.full((rows,), samples),
        starts=torch.zeros(rows, dtype=torch.long),
        weights=torch.ones(rows),
        ids=tuple(str(i) for i in range(rows)),
        epoch=0,
    )


def hugging_face(rows: int, samples: int, *, small: bool) -> tuple[Any, Callable[[], Any]]:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4} if small else {}
    cfg = Wav2Vec2Config(
        mask_time_prob=0.65, mask_time_length=10, hidden_dropout=0.1, attention_dropout=0.1, feat_proj_dropout=0.1,
        activation_dropout=0.0, layerdrop=0.05, **sizes,
    )  # fmt: skip
    model = Wav2Vec2ForPreTraining(cfg).train()
    wave = batch_of(rows, samples).wave
    frames = int(model._get_feat_extract_output_lengths(samples))

    def loss() -> Any:
        mask = _compute_mask_indices((rows, frames), 0.65, 10)
        negatives = _sample_negative_indices((rows, frames), 100, mask)
        return model(
            wave, mask_time_indices=torch.from_numpy(mask), sampled_negative_indices=torch.from_numpy(negatives)
        ).loss

    return model, loss


def ours(rows: int, samples: int, *, small: bool, attention_dropout: float, hubert: bool) -> tuple[Any, Any, Any]:
    """Return (objective, batch, loss of the batch)."""
    import numpy as np

    from speechssl.config import PretrainConfig
    from speechssl.models.encoder import SpeechEncoder
    from speechssl.objectives.hubert import Hubert
    from speechssl.objectives.wav2vec2 import Wav2Vec2
    from speechssl.settings import load_config

    cfg = load_config(PretrainConfig, "hubert-base" if hubert else "wav2vec2-base")
    encoder = replace(cfg.model.encoder, attention_dropout=attention_dropout)
    if small:
        encoder = replace(encoder, dim=256, ffn_dim=1024, heads=4)
    model = SpeechEncoder(replace(cfg.model, encoder=encoder))

    class Units:
        hop, n_units = 320, 100

        def get(self, item: str, start: int = 0, frames: int | None = None) -> Any:
            return np.random.default_rng(0).integers(0, 100, frames)

        def entropy(self) -> float:
            return 4.6

        def largest_share(self) -> float:
            return 0.01

    task = Hubert(model, cfg.hubert, cfg.mask, Units(), 100, seed=1) if hubert else Wav2Vec2(
        model, cfg.wav2vec2, cfg.mask, seed=1
    )  # fmt: skip
    task.train()
    batch = batch_of(rows, samples)

    def loss() -> Any:
        prepared = task.prepare(batch)
        return task(prepared).sum / prepared.n_targets

    return task, batch, loss


def torchaudio_hubert(rows: int, samples: int) -> tuple[Any, Callable[[], Any]]:
    import torch
    import torchaudio

    model = torchaudio.models.hubert_pretrain_base(num_classes=100).train()
    wave = batch_of(rows, samples).wave
    lengths = torch.full((rows,), samples)
    labels = torch.randint(0, 100, (rows, (samples - 400) // 320 + 1))

    def loss() -> Any:
        masked, _, penalty = model(wave, labels, lengths)
        target = torch.zeros(len(masked), dtype=torch.long)  # the true unit's logit comes first
        return torch.nn.functional.cross_entropy(masked, target) + 10 * penalty

    return model, loss


def contend(name: str, rows: int, samples: int, *, small: bool) -> None:
    """Serve one contender: a line on standard input is a step, its CPU time is a line on standard output."""
    import torch

    torch.set_num_threads(1)
    kind, precision = name.rsplit("-", 1)
    plain = nullcontext()
    if kind == "hf":
        model, loss = hugging_face(rows, samples, small=small)
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-4)
    elif kind == "torchaudio-hubert":
        model, loss = torchaudio_hubert(rows, samples)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    else:
        from speechssl.config import OptimConfig
        from speechssl.models.paths import plain_paths
        from speechssl.training.optim import build_optimizer

        dropout = 0.1 if kind == "ours" else 0.0
        model, _, loss = ours(rows, samples, small=small, attention_dropout=dropout, hubert=kind == "hubert")
        optimizer = build_optimizer(list(model.parameters()), OptimConfig(lr=1e-4))
        plain = plain_paths() if kind == "plain" else nullcontext()
    with plain:
        for _ in sys.stdin:
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            print(time.process_time() - began, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--small", action="store_true", help="256 x 12 instead of BASE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", choices=SETS, default="wav2vec2")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    samples = round(arguments.seconds * 16_000)
    if arguments.contender:
        contend(arguments.contender, arguments.rows, samples, small=arguments.small)
        return
    size = ["--rows", str(arguments.rows), "--seconds", str(arguments.seconds)] + ["--small"] * arguments.small
    names = [name for name in arguments.only or SETS[arguments.set] if not (arguments.small and "hubert" in name)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.step", "--contender", name, *size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in names
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.rounds + 1):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("step\n")
            process.stdin.flush()
            spent = float(process.stdout.readline())
            if number:  # the first step of each warms up
                times[name].append(spent)
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
    for process in processes.values():
        process.communicate()
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {f"{peer} / {us}": medians[peer] / medians[us] for peer, us in RATIOS if {peer, us} <= medians.keys()}
    result = {
        "what": f"CPU seconds of one training step, {arguments.rows} x {arguments.seconds:g} s, one thread, medians",
        "model": "256 x 12" if arguments.small else "BASE",
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "rounds": times,
    }
    name = f"step-{arguments.set}{'-small' * arguments.small}.json"
    write(arguments.results.resolve() / name, result, "torchaudio", "transformers")
    for name, value in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"{name:<24}{value:>8.2f} s")
    for name, value in ratios.items():
        print(f"{name:<44}{value:>6.2f} x")


if __name__ == "__main__":
    main()
