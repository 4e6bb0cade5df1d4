"""A few real updates on random audio, in a process of their own: how long they take and how much memory they need.

In: one JSON line on standard input (configuration, rows, samples, updates). Out: one JSON line. ``estimate`` starts it,
once for each size; a process of its own, because peak memory is a property of a process.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from speechssl.asr.ctc import CtcModel, CtcObjective
from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.data.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Objective
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.settings import from_dict
from speechssl.training.loop import seed_micro_batch
from speechssl.training.optim import build_optimizer, clip_gradients

__all__ = ["Probe", "main", "run_probe"]

LABELS_A_SECOND = 14.0
"""Characters in a second of read English."""
VOCABULARY = 32


@dataclass(frozen=True)
class Probe:
    """What a few updates cost."""

    rows: int
    samples: int
    micro_seconds: float
    """Median time of one micro-batch: prepare, forward, backward."""
    update_seconds: float
    """Median time of clipping and optimiser."""
    peak_bytes: int
    """Highest memory of the process (CPU) or of the allocator on the device (GPU)."""
    parameters: int
    fits: bool = True
    """False when the device ran out of memory; the other numbers are then meaningless."""


class _RandomUnits:
    """A table of units for any utterance (``objectives.hubert.Units``)."""

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


def _objective(cfg: PretrainConfig | FinetuneConfig) -> Objective:
    if isinstance(cfg, FinetuneConfig):
        encoder = replace(
            cfg.model.encoder, activation_dropout=cfg.ctc.activation_dropout, layer_drop=cfg.ctc.layer_drop
        )
        model = CtcModel(SpeechEncoder(replace(cfg.model, encoder=encoder)), VOCABULARY)
        return CtcObjective(model, replace(cfg.ctc, freeze_steps=0), seed=0)
    encoder_ = SpeechEncoder(cfg.model)
    if cfg.objective == "hubert":
        units = cfg.hubert.clusters[-1]
        return Hubert(encoder_, cfg.hubert, cfg.mask, _RandomUnits(encoder_.hop, units), units, seed=0)
    return Wav2Vec2(encoder_, cfg.wav2vec2, cfg.mask, seed=0)


def _batch(rows: int, samples: int, *, labelled: bool) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    labels = max(1, round(LABELS_A_SECOND * samples / 16_000))
    return Batch(
        wave=0.1 * torch.randn(rows, samples, generator=generator),
        lengths=torch.full((rows,), samples),
        starts=torch.zeros(rows, dtype=torch.long),
        weights=torch.ones(rows),
        ids=tuple(str(row) for row in range(rows)),
        epoch=0,
        targets=torch.randint(1, VOCABULARY, (rows, labels), generator=generator) if labelled else None,
        target_lengths=torch.full((rows,), labels) if labelled else None,
    )


def _peak(device: torch.device) -> int:
    """Return the highest memory so far: of this process, or of the allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_probe(cfg: PretrainConfig | FinetuneConfig, rows: int, samples: int, updates: int) -> Probe:
    """Make ``updates`` updates of one micro-batch of ``rows`` x ``samples`` random samples, after one that warms up."""
    training = cfg.training
    cuda = training.device == "cuda" or (training.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if cuda else "cpu")
    if training.threads:
        torch.set_num_threads(training.threads)
    objective = _objective(cfg).to(device).train()
    for module in objective.modules():
        if isinstance(module, SpeechEncoder):
            module.recompute = training.recompute
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, cfg.optim)
    if training.compile:
        objective.compile()
    batch = _batch(rows, samples, labelled=isinstance(cfg, FinetuneConfig))
    micro, update = [], []
    try:
        for step in range(updates + 1):
            objective.begin_step(step)
            began = time.perf_counter()
            seed_micro_batch(0, step, 0)
            prepared = objective.prepare(batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                loss = objective(prepared.to(device))
            (loss.sum / max(1, loss.n_targets)).backward()
            _wait(device)
            between = time.perf_counter()
            clip_gradients(parameters, cfg.optim.clip)
            optimizer.step()
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
        peak_bytes=_peak(device),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
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
    print(json.dumps(asdict(run_probe(cfg, request["rows"], request["samples"], request["updates"]))))


if __name__ == "__main__":
    main()
