"""Two parts of a training step alone, forward and backward, against the part of the peer that does the same.

usage: python -m benchmarks.parts [--part head|stem] [--rounds 7] [--rows 4] [--seconds 5]

head  logits of HuBERT and their cross-entropy over masked frames: torchaudio's LogitGenerator as hubert_pretrain_base
      has it (100 units, BASE widths), and ours; the same context vectors, weights, labels and masks
stem  the waveform stem of BASE: the feature encoder of transformers' wav2vec 2.0, and ours; the same weights and noise,
      the same gradient at its output

Before anything is timed the values are compared in float32, outputs and every gradient; the script stops when they
differ. Then contenders take turns in processes of their own: process CPU time, one thread, bf16 autocast and float32,
once with the defaults of the system's allocator and once with the settings of benchmarks/rounds.py, the same for both.
Beside them the floor: the part's multiplications over the rate that large square products reach on the same core.
Writes benchmarks/results/parts.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, write
from benchmarks.rounds import TUNED, Contender, alternate, medians, ratios, serve

PEERS = {"head": "torchaudio", "stem": "hf"}
ALLOCATORS = {"defaults": {}, "tuned": TUNED}
CLOSE = {"output": 1e-5, "gradient": 1e-4}
"""Largest difference in float32, relative to the norm."""
STEM = [(512, 10, 5)] + 4 * [(512, 3, 2)] + 2 * [(512, 2, 2)]
"""Channels, kernel, stride of BASE's layers."""


@dataclass(frozen=True)
class Part:
    """Something to run forward and backward."""

    forward: Callable[[], tuple[Any, Any]]
    """Returns (output to compare, scalar to differentiate)."""
    weights: dict[str, Any]
    """Tensors that receive gradients, by a name that ours and the peer's share."""


def head(who: str, rows: int, samples: int) -> Part:
    """Return HuBERT's logits and their loss on given context vectors."""
    import torch
    from torch.nn import functional
    from torchaudio.models.wav2vec2.components import LogitGenerator

    from benchmarks.contenders import UNITS, ours

    torch.manual_seed(0)
    task, batch, _ = ours(rows, samples, small=False, attention_dropout=0.0, hubert=True, layers=1)
    prepared = task.prepare(batch)
    mask = prepared.mask
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(*mask.shape, task.encoder.dim, generator=generator, requires_grad=True)
    labels = torch.zeros(mask.shape, dtype=torch.long)
    labels[mask] = prepared.units
    if who == "ours":
        units = prepared.units

        def forward() -> tuple[Any, Any]:
            logits = task.logits(prepared.masked.pick(context))
            return logits, functional.cross_entropy(logits, units)

        return Part(forward, {"context": context, "embeddings": task.embeddings} | named(task.projection))
    peer = LogitGenerator(768, num_classes=UNITS, final_dim=256, skip_masked=False, skip_nomask=False)
    peer.final_proj.load_state_dict(task.projection.state_dict())
    peer.label_embeddings.data.copy_(task.embeddings.data)

    def forward_of_peer() -> tuple[Any, Any]:
        masked, _ = peer(context, labels, mask, ~mask)
        # The true unit's logit comes first; its place among the others holds minus infinity.
        loss = functional.cross_entropy(masked, torch.zeros(len(masked), dtype=torch.long))
        others = masked[:, 1:].detach().float()
        return others.where(others.isfinite(), masked[:, :1].detach().float()), loss

    return Part(forward_of_peer, {"context": context, "embeddings": peer.label_embeddings} | named(peer.final_proj))


def stem(who: str, rows: int, samples: int) -> Part:
    """Return the waveform stem on noise."""
    import torch
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

    from benchmarks.contenders import batch_of
    from speechssl.config import PretrainConfig
    from speechssl.config.load import load_config
    from speechssl.models.frontend import build_frontend

    torch.manual_seed(0)
    own: Any = build_frontend(load_config(PretrainConfig, "wav2vec2-base").model.frontend)
    wave = batch_of(rows, samples).wave
    seed = torch.Generator().manual_seed(2)
    gradient = torch.randn(rows, own.frames(samples), own.dim, generator=seed)
    if who == "ours":

        def forward() -> tuple[Any, Any]:
            out = own(wave)
            return out, (out * gradient).sum()

        weights = {f"layer {i}": layer.conv.weight for i, layer in enumerate(own.layers)}
        return Part(forward, weights | named(own.layers[0].norm))
    peer = Wav2Vec2FeatureEncoder(Wav2Vec2Config()).train()
    for mine, theirs in zip(own.layers, peer.conv_layers, strict=True):
        theirs.conv.load_state_dict(mine.conv.state_dict())
        if mine.norm is not None:
            theirs.layer_norm.load_state_dict(mine.norm.state_dict())

    def forward_of_peer() -> tuple[Any, Any]:
        out = peer(wave).transpose(1, 2)
        return out, (out * gradient).sum()

    weights = {f"layer {i}": layer.conv.weight for i, layer in enumerate(peer.conv_layers)}
    return Part(forward_of_peer, weights | named(peer.conv_layers[0].layer_norm))


def named(module: Any) -> dict[str, Any]:
    return dict(module.named_parameters())


BUILD = {"head": head, "stem": stem}


def run(part: Part, *, bf16: bool) -> Any:
    """Make one forward and backward pass; return the output."""
    import torch

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output, scalar = part.forward()
    for weight in part.weights.values():
        weight.grad = None
    scalar.backward()
    return output


def differences(
    name: str, rows: int, samples: int, precisions: Sequence[str] = ("fp32", "bf16")
) -> dict[str, dict[str, float]]:
    """Return how far ours and the peer's in float32 and in bf16 are from the peer's in float32: |a - b| / |b|.

    Ours in float32 is always among them; bf16 only where ``precisions`` has it.

    Raises
    ------
    RuntimeError
        In float32 they do not compute the same.
    """

    def values(who: str, *, bf16: bool) -> Iterator[tuple[str, Any]]:
        part = BUILD[name](who, rows, samples)
        yield "output", run(part, bf16=bf16).detach().float()
        yield from ((key, weight.grad.float()) for key, weight in part.weights.items())

    peer = PEERS[name]
    reference = dict(values(peer, bf16=False))
    found = {}
    for who, bf16 in (("ours", False), ("ours", True), (peer, True))[: 3 if "bf16" in precisions else 1]:
        apart = {
            key: float((value - reference[key]).norm() / reference[key].norm()) for key, value in values(who, bf16=bf16)
        }
        gradients = [value for key, value in apart.items() if key != "output"]
        found[f"{who}-{'bf16' if bf16 else 'fp32'}"] = {"output": apart["output"], "gradient": max(gradients)}
    for kind, most in CLOSE.items():
        if not found["ours-fp32"][kind] <= most:
            raise RuntimeError(
                f"{name}: {kind} differs by {found['ours-fp32'][kind]:.1e} in float32; {most} is allowed"
            )
    return found


def matrix_rate(dtype: Any, size: int = 2048) -> float:
    """Return GFLOP per CPU second of a square product on one thread: the best of ten, or of what five seconds allow."""
    import torch

    torch.set_num_threads(1)
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    spent = []
    for _ in range(10):
        began = time.process_time()
        a @ b
        spent.append(time.process_time() - began)
        if sum(spent) > 5:
            break
    return 2 * size**3 / min(spent) / 1e9


def arithmetic(name: str, rows: int, samples: int) -> float:
    """Return the GFLOP of the part's products, forward and backward; of layer 0 only its kernel has a gradient."""
    if name == "stem":
        total, width, frames = 0.0, 1, samples
        for index, (dim, kernel, stride) in enumerate(STEM):
            frames = (frames - kernel) // stride + 1
            total += 2 * rows * frames * width * kernel * dim * (3 if index else 2)
            width = dim
        return total / 1e9
    masked = len(head("ours", rows, samples).forward()[0])
    return 3 * 2 * masked * (768 * 256 + 256 * 100) / 1e9


def contend(name: str, rows: int, samples: int, pace: float) -> None:
    """Serve one contender, PART-WHO-PRECISION."""
    import torch

    torch.set_num_threads(1)
    part, who, precision = name.split("-")
    built = BUILD[part](who, rows, samples)
    serve(lambda: run(built, bf16=precision == "bf16"), at_least=pace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PEERS, nargs="*", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--pace", type=float, default=0.3, help="CPU seconds that short parts are repeated for")
    parser.add_argument("--square", type=int, default=2048, help="side of the matrices that give the floor's rate")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows, samples = arguments.rows, round(arguments.seconds * 16_000)
    if arguments.contender:
        contend(arguments.contender, rows, samples, arguments.pace)
        return
    size = ("--rows", str(rows), "--seconds", str(arguments.seconds), "--pace", str(arguments.pace))
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {name: matrix_rate(dtypes[name], arguments.square) for name in arguments.precision}
    parts: dict[str, Any] = {}
    for part in arguments.part:
        apart = differences(part, rows, samples, arguments.precision)
        contenders = {
            f"{who}-{precision}-{kind}": Contender(
                ("-m", "benchmarks.parts", "--contender", f"{part}-{who}-{precision}", *size), settings
            )
            for kind, settings in ALLOCATORS.items()
            for precision in arguments.precision
            for who in (PEERS[part], "ours")
        }
        times = alternate(contenders, arguments.rounds)
        pairs = tuple(
            (f"{PEERS[part]}-{kind}", f"ours-{kind}")
            for kind in (f"{precision}-{allocator}" for precision in arguments.precision for allocator in ALLOCATORS)
        )
        spent, faster = medians(times), ratios(times, pairs)
        work = arithmetic(part, rows, samples)
        floor = {f"floor-{name}": work / rate for name, rate in rates.items()}
        parts[part] = {
            "peer": PEERS[part],
            "gflop": round(work, 2),
            "milliseconds": {name: round(1000 * value, 2) for name, value in (spent | floor).items()},
            "ratios": faster,
            "differences_from_peer_fp32": apart,
            "rounds": times,
        }
        print(part, json.dumps(apart))
        for name, value in sorted((spent | floor).items(), key=lambda item: -item[1]):
            print(f"  {name:<28}{1000 * value:>10.1f} ms")
        for name, value in faster.items():
            print(f"  {name:<52}{value:>7.1f} x")
    result = {
        "what": f"CPU time of one forward and backward pass, {rows} x {arguments.seconds:g} s, one thread, medians",
        "allocators": ALLOCATORS,
        "matrix_gflops": {name: round(rate, 1) for name, rate in rates.items()},
        "parts": parts,
    }
    write(arguments.results.resolve() / "parts.json", result, "torchaudio", "transformers")


if __name__ == "__main__":
    main()
