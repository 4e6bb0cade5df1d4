"""One training step on a CPU against its peers: ours and theirs alternate, each in a process of its own.

usage: python -m benchmarks.step [--set wav2vec2|fp32|fairseq2|hubert|paths] [--rounds 5] [--seconds 5] [--rows 4]
                                 [--small] [--fairseq2-python INTERPRETER] [--malloc]

A step is forward, backward and AdamW on ``rows`` x ``seconds`` of noise, one thread; its cost is the process CPU time,
which other programs on the machine disturb less than the clock. In every round each contender makes two steps, of
which the second counts; the medians and the medians of the ratios within a round are printed and written to
benchmarks/results/step-SET.json (step-SET-small.json, step-SET-malloc.json).

Contenders: ``hf-*`` is transformers.Wav2Vec2ForPreTraining with its own masks and negatives; ``fairseq2-*`` that of
fairseq2, in the interpreter that has it (benchmarks/fairseq2_step.py); ``ours-*`` the objective with the same
dropouts, ``undropped-*`` the same without attention dropout, ``plain-*`` our textbook paths; ``hubert`` and
``torchaudio-hubert`` are HuBERT BASE (100 units) here and torchaudio.models.hubert_pretrain_base. ``floor-*`` computes
the matrix products of an ``ours-*`` step and nothing else (benchmarks/floor.py). Peers
have the system's allocator as it is, ours keeps freed memory as the training loop does
(speechssl/training/allocator.py); ``--malloc`` gives all of them, peers too, the settings of benchmarks/rounds.py.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, write
from benchmarks.rounds import TUNED, Contender, alternate, medians, ratios, serve, this_python

SETS = {
    "wav2vec2": ("hf-fp32", "hf-bf16", "ours-fp32", "ours-bf16", "undropped-bf16"),
    "fp32": ("hf-fp32", "ours-fp32", "undropped-fp32", "floor-fp32"),
    "fairseq2": ("fairseq2-fp32", "fairseq2-bf16", "ours-bf16", "undropped-bf16"),
    "hubert": ("torchaudio-hubert-bf16", "hubert-bf16"),
    "paths": ("plain-bf16", "undropped-bf16", "undropped-fp32"),
}
"""What runs at a time: five BASE models with their optimisers take about 20 GB."""
RATIOS = (
    ("hf-fp32", "ours-fp32"), ("hf-fp32", "ours-bf16"), ("hf-bf16", "ours-bf16"), ("hf-fp32", "undropped-bf16"),
    ("hf-bf16", "undropped-bf16"), ("fairseq2-fp32", "ours-bf16"), ("fairseq2-bf16", "ours-bf16"),
    ("hf-fp32", "undropped-fp32"), ("ours-fp32", "floor-fp32"), ("undropped-fp32", "floor-fp32"),
    ("fairseq2-bf16", "undropped-bf16"), ("plain-bf16", "undropped-bf16"), ("plain-fp32", "undropped-fp32"),
    ("torchaudio-hubert-bf16", "hubert-bf16"),
)  # fmt: skip


def contend(name: str, rows: int, samples: int, *, small: bool) -> None:
    """Serve one contender."""
    import torch

    from benchmarks import contenders
    from benchmarks.floor import replay
    from speechssl.config import OptimConfig
    from speechssl.models.kernels.choice import plain_paths
    from speechssl.training.allocator import keep_freed_memory
    from speechssl.training.optim import build_optimizer

    torch.set_num_threads(1)
    kind, precision = name.rsplit("-", 1)
    optimizer: Any
    if kind in {"hf", "torchaudio-hubert"}:
        if kind == "hf":
            model, loss = contenders.hugging_face(rows, samples, small=small)
        else:
            model, loss = contenders.torchaudio_hubert(rows, samples)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    else:
        dropout = 0.1 if kind in {"ours", "floor"} else 0.0
        model, _, loss = contenders.ours(rows, samples, small=small, attention_dropout=dropout, hubert=kind == "hubert")
        keep_freed_memory()  # as the training loop does
        optimizer = build_optimizer(list(model.parameters()), OptimConfig(lr=1e-4))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if kind == "floor":
        work, operations = replay(step)
        print(f"{operations / 1e9:.0f} GFLOP of products in a step", file=sys.stderr, flush=True)
        serve(work, settle=True)
        return
    with plain_paths() if kind == "plain" else nullcontext():
        serve(step, settle=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--small", action="store_true", help="256 x 12 instead of BASE")
    parser.add_argument("--malloc", action="store_true", help="the same allocator settings for all, not the defaults")
    parser.add_argument("--fairseq2-python", help="interpreter of an environment that has fairseq2 0.8.1")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", choices=SETS, default="wav2vec2")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    samples = round(arguments.seconds * 16_000)
    if arguments.contender:
        contend(arguments.contender, arguments.rows, samples, small=arguments.small)
        return
    names = [name for name in arguments.only or SETS[arguments.set] if not (arguments.small and "hubert" in name)]
    if any(name.startswith("fairseq2") for name in names) and not arguments.fairseq2_python:
        parser.error("fairseq2 needs an environment of its own: benchmarks/fairseq2_step.py says which; name its "
                     "interpreter with --fairseq2-python")  # fmt: skip
    size = ["--rows", str(arguments.rows), "--seconds", str(arguments.seconds)] + ["--small"] * arguments.small
    environment = TUNED if arguments.malloc else {}

    def contender(name: str) -> Contender:
        if name.startswith("fairseq2"):
            words = [str(arguments.rows), str(samples), name.rsplit("-", 1)[1], "small" if arguments.small else "base"]
            python = this_python(arguments.fairseq2_python)
            return Contender(("-m", "benchmarks.fairseq2_step", *words), environment, python)
        return Contender(("-m", "benchmarks.step", "--contender", name, *size), environment)

    times = alternate({name: contender(name) for name in names}, arguments.rounds)
    spent, faster = medians(times), ratios(times, RATIOS)
    result = {
        "what": f"CPU seconds of one training step, {arguments.rows} x {arguments.seconds:g} s, one thread, medians",
        "model": "256 x 12" if arguments.small else "BASE",
        "allocator": dict(TUNED) if arguments.malloc else "peers: defaults; ours: speechssl.training.allocator",
        "seconds": {name: round(value, 3) for name, value in spent.items()},
        "ratios": faster,
        "rounds": times,
    }
    suffix = "-small" * arguments.small + "-malloc" * arguments.malloc
    write(arguments.results.resolve() / f"step-{arguments.set}{suffix}.json", result, "torchaudio", "transformers")
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<34}{value:>8.2f} s")
    for name, value in faster.items():
        print(f"{name:<64}{value:>6.2f} x")


if __name__ == "__main__":
    main()
