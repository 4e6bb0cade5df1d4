"""A few real updates on random audio, in a process of their own: how long they take and how much memory they need.

In: one JSON line on standard input (configuration, rows, samples, updates or seconds). Out: one JSON line.
``estimate`` starts it, once for each size; a process of its own, because peak memory is a property of a process.
``outlook`` asks for the time alone, for as many updates as fit into some seconds.
"""

import itertools
import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.asr.ctc import CtcObjective
from speechssl.asr.finetune import build_recogniser, ctc_settings
from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import from_dict
from speechssl.config.objectives import offline_targets
from speechssl.core.precision import uses_bf16
from speechssl.data.batches.batch import Batch
from speechssl.interop.any_model import load_any
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Objective
from speechssl.objectives.build import build_objective
from speechssl.targets.features import MfccFeatures
from speechssl.targets.kmeans import fit_kmeans
from speechssl.training.allocator import keep_freed_memory
from speechssl.training.ema import WeightAverage
from speechssl.training.loop import seed_micro_batch
from speechssl.training.optim import build_optimizer, clip_gradients
from speechssl.training.pretrain import resolved

__all__ = ["Probe", "main", "peak_memory", "run_probe"]

LABELS_A_SECOND = 14.0
"""Characters in a second of read English."""
VOCABULARY = 32
MOST_WARM = 2
"""Updates that are made whatever time they take."""
GAPS = 1.15
"""On a CPU, growth of what the updates take, from a probe to a run: masks differ, blocks freed in one step do not fit
those asked for in the next, and the heap that is kept (``allocator.keep_freed_memory``) gets gaps. Measured over seven
steps: 1.1 to 1.2 (benchmarks/estimate.py)."""


@dataclass(frozen=True)
class Probe:
    """What a few updates cost."""

    rows: int
    samples: int
    micro_seconds: float
    """Median time of one micro-batch: forward, backward."""
    update_seconds: float
    """Median time of clipping and optimiser."""
    peak_bytes: int
    """Highest memory of the process, the gaps that a run adds included (CPU), or of the device's allocator (GPU)."""
    parameters: int
    hop: int = 0
    """Samples from one encoder frame to the next."""
    fits: bool = True
    """False when the device ran out of memory; the other numbers are then meaningless."""


class _RandomUnits:
    """A table of units for any utterance (``objectives.base.OfflineTargets``)."""

    def __init__(self, hop: int, n_units: int) -> None:
        self.hop, self.n_units = hop, n_units

    def get(self, item: str, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Return random units."""
        del item, start
        return np.random.default_rng(0).integers(0, self.n_units, frames or 0)

    def entropy(self) -> float:
        """Return that of equal shares."""
        return float(np.log(self.n_units))

    def largest_share(self) -> float:
        """Return that of equal shares."""
        return 1 / self.n_units


def _objective(cfg: PretrainConfig | FinetuneConfig, *, memory: bool) -> Objective[Any]:
    """Return what the run would train, in its most expensive phase (nothing frozen).

    For ``memory`` also do what takes memory before.
    """
    if isinstance(cfg, FinetuneConfig):
        model = build_recogniser(cfg, load_any(Path(cfg.init)) if cfg.init else None, VOCABULARY)
        return CtcObjective(model, replace(ctc_settings(cfg), freeze_steps=0), seed=0)
    cfg = resolved(cfg)
    encoder = SpeechEncoder(cfg.model)
    targets = offline_targets(cfg.objective)
    units = None if targets is None else _RandomUnits(encoder.hop, targets.clusters[-1])
    if units is not None and memory:
        _make_units(encoder, units.n_units)
    return build_objective(cfg.objective, encoder, units, 0)


def _make_units(encoder: SpeechEncoder, clusters: int) -> None:
    """Cluster MFCC of noise: a run makes its units in the same process, and what that loads stays in memory."""
    features = MfccFeatures(encoder)
    seconds = 2 * clusters * encoder.hop // 16_000 + 10
    noise = np.random.default_rng(0).standard_normal((seconds // 10 + 1, 160_000)).astype(np.float32)
    fit_kmeans(torch.cat(features(list(noise))).numpy(), clusters, seed=0, starts=1)


def _batch(rows: int, samples: int, seed: int, *, labelled: bool) -> Batch:
    """Return noise as the loader delivers it."""
    generator = torch.Generator().manual_seed(seed)
    labels = max(1, round(LABELS_A_SECOND * samples / 16_000))
    return Batch(
        wave=(3000 * torch.randn(rows, samples, generator=generator)).to(torch.int16),
        lengths=torch.full((rows,), samples),
        starts=torch.zeros(rows, dtype=torch.long),
        weights=torch.ones(rows),
        ids=tuple(str(row) for row in range(rows)),
        epoch=seed,
        targets=torch.randint(1, VOCABULARY, (rows, labels), generator=generator) if labelled else None,
        target_lengths=torch.full((rows,), labels) if labelled else None,
    )


def peak_memory(device: torch.device) -> int:
    """Return the highest memory so far in bytes: of this process, or of the allocator on a GPU.

    On Linux not ``ru_maxrss``: that begins with the memory of the process that started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_probe(
    cfg: PretrainConfig | FinetuneConfig, rows: int, samples: int, updates: int, *, seconds: float = 0.0
) -> Probe:
    """Make ``updates`` updates of one micro-batch of ``rows`` x ``samples`` random samples, after one that warms up.

    With ``seconds`` as many (at least two) as begin in that time, and memory is not looked at.
    """
    training = cfg.training
    cuda = training.device == "cuda" or (training.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    if training.threads:
        torch.set_num_threads(training.threads)
    objective = _objective(cfg, memory=not seconds)
    if not cuda:
        keep_freed_memory()
    objective.to(device).train()
    for module in objective.modules():
        if isinstance(module, SpeechEncoder):
            module.recompute = training.recompute
    parameters = list(objective.parameters())
    groups = objective.param_groups() if isinstance(objective, CtcObjective) else parameters
    optimizer = build_optimizer(groups, cfg.optim)
    average = WeightAverage(objective, training.ema_decay) if training.ema_decay > 0 else None
    if training.compile:
        objective.compile()
    prepare = objective.preparer()
    labelled = isinstance(cfg, FinetuneConfig)
    micro, update, start = [], [], peak_memory(device)
    try:
        limit = time.perf_counter() + seconds
        for step in range(updates + 1) if not seconds else itertools.count():
            if seconds and step > MOST_WARM and time.perf_counter() > limit:
                break
            objective.begin_step(step)
            batch = _batch(rows, samples, step, labelled=labelled)  # masks, and so all sizes after them, differ
            prepared = prepare(batch)  # in a run, by the loader
            began = time.perf_counter()
            seed_micro_batch(0, step, 0)
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(training.precision, device.type)):
                loss = objective(prepared.to(device))
            (loss.sum / max(1, loss.n_targets)).backward()
            _wait(device)
            between = time.perf_counter()
            clip_gradients(parameters, cfg.optim.clip)
            optimizer.step()
            if average is not None:
                average.update()
            optimizer.zero_grad(set_to_none=True)
            _wait(device)
            micro.append(between - began)
            update.append(time.perf_counter() - between)
            del loss, prepared
    except torch.OutOfMemoryError:
        return Probe(rows, samples, 0.0, 0.0, 0, 0, fits=False)
    return Probe(
        rows=rows,
        samples=samples,
        micro_seconds=statistics.median(micro[1:]),
        update_seconds=statistics.median(update[1:]),
        peak_bytes=peak_memory(device) if cuda else round(start + GAPS * (peak_memory(device) - start)),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        hop=next(module.hop for module in objective.modules() if isinstance(module, SpeechEncoder)),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Read a request from standard input, answer it on standard output."""
    request: dict[str, Any] = json.loads(sys.stdin.read())
    cfg: PretrainConfig | FinetuneConfig
    if request["kind"] == "finetune":
        cfg = from_dict(FinetuneConfig, request["config"])
    else:
        cfg = from_dict(PretrainConfig, request["config"])
    print(
        json.dumps(
            asdict(
                run_probe(
                    cfg,
                    request["rows"],
                    request["samples"],
                    request.get("updates", 0),
                    seconds=request.get("seconds", 0.0),
                )
            )
        )
    )


if __name__ == "__main__":
    main()
