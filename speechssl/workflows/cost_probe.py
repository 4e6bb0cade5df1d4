"""A few real updates on random audio, in a process of their own: how long they take and how much memory they need.

In: one JSON line on standard input (configuration, rows, samples, updates, seconds). Out: one JSON line. The training
loop itself makes the updates, from a stream of noise. ``estimate`` starts a process for each size, because peak memory
is a property of a process. ``outlook`` asks for the time alone, for as many updates as fit into some seconds.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch

from speechssl.asr.ctc import CtcObjective
from speechssl.asr.finetune import adapt_settings, build_recogniser, ctc_settings
from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import from_dict
from speechssl.config.objectives import offline_targets
from speechssl.core.precision import choose
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.batches.batch import Batch, Prepared
from speechssl.interop.any_model import load_any
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Objective, Preparer
from speechssl.objectives.build import build_objective
from speechssl.targets.features import MfccFeatures
from speechssl.targets.kmeans import fit_kmeans
from speechssl.training.loop import train
from speechssl.training.parallel import start_parallel
from speechssl.training.pretrain import resolved
from speechssl.training.run_folder import RunFolder

__all__ = ["Probe", "main", "peak_memory", "run_probe"]

LABELS_A_SECOND = 14.0
"""Characters in a second of read English."""
VOCABULARY = 32
ENDLESS = 1_000_000_000
"""Steps of the loop, and steps between two lines of metrics or checkpoints: the stopwatch ends the loop before."""
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
        return CtcObjective(model, replace(ctc_settings(cfg), freeze_steps=0), seed=0, adapt=adapt_settings(cfg))
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
    seconds = 2 * clusters * encoder.hop // SAMPLE_RATE + 10
    noise = np.random.default_rng(0).standard_normal((seconds // 10 + 1, 160_000)).astype(np.float32)
    fit_kmeans(torch.cat(features(list(noise))).numpy(), clusters, seed=0, starts=1)


def _batch(rows: int, samples: int, seed: int, *, labelled: bool) -> Batch:
    """Return noise as the loader delivers it."""
    generator = torch.Generator().manual_seed(seed)
    labels = max(1, round(LABELS_A_SECOND * samples / SAMPLE_RATE))
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


@dataclass(frozen=True)
class _Noise:
    """A stream with one micro-batch of noise in each step, all of one size (``training.feed.Batches``)."""

    prepare: Preparer[Prepared]
    rows: int
    samples: int
    labelled: bool
    share: int = 1

    def step(self, step: int) -> Iterator[Prepared]:
        """Yield the micro-batch; masks, and so the sizes of the tensors after them, differ from step to step."""
        yield self.prepare(_batch(self.rows, self.samples, step, labelled=self.labelled))


class _Enough(Exception):  # noqa: N818
    """Raised by the stopwatch after the last update: it ends the loop before anything is saved."""


class _Stopwatch:
    """Times the micro-batches and updates of the loop, loading left out (``training.monitoring.profile.Profiler``).

    Parameters
    ----------
    updates, seconds
        How many updates to measure after the first, which warms up: these, and further ones that begin in ``seconds``.
    """

    def __init__(self, device: torch.device, updates: int, seconds: float) -> None:
        self.device, self.updates, self.seconds = device, updates, seconds
        self.micro: list[float] = []
        """Seconds of each forward and backward pass."""
        self.update: list[float] = []
        """Seconds of the rest of each step: clipping, optimiser, what the loop writes down."""
        self.start = self.peak = 0
        """Memory before the first step and after the last, as ``peak_memory`` gives it."""
        self._limit = self._mark = self._loading = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = peak_memory(self.device)

    def begin_step(self, step: int) -> None:
        """End the step before, or with ``_Enough`` the loop."""
        now = self._now()
        if step == 0:
            self.start, self._limit = peak_memory(self.device), now + self.seconds
        else:
            self.update.append(now - self._mark)
        if step > self.updates and now > self._limit:
            raise _Enough
        self._mark, self._loading = now, 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the step."""
        began = self._now()
        if name == "optimiser":
            self.micro.append(began - self._mark - self._loading)
            self._mark = began
        yield
        if name == "loader":
            self._loading += time.perf_counter() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def run_probe(
    cfg: PretrainConfig | FinetuneConfig, rows: int, samples: int, updates: int, *, seconds: float = 0.0
) -> Probe:
    """Let the loop make updates of one micro-batch of ``rows`` x ``samples`` random samples.

    One warms up, ``updates`` are measured, and as many more as begin in ``seconds``; then memory is not looked at.
    """
    parallel = start_parallel(cfg.training.device)
    device = parallel.device
    objective = _objective(cfg, memory=not seconds).train()
    stopwatch = _Stopwatch(device, updates, seconds)
    precision = choose(cfg.training.precision, device.type).precision
    loop = replace(cfg.training, precision=precision, steps=ENDLESS, log_every=ENDLESS, save_every=ENDLESS, pause_at=0)
    try:
        with TemporaryDirectory() as folder, suppress(_Enough):
            train(
                objective,
                _Noise(objective.preparer(), rows, samples, labelled=isinstance(cfg, FinetuneConfig)),
                run=RunFolder(folder),
                parallel=parallel,
                training=loop,
                optim=cfg.optim,
                seed=0,
                param_groups=objective.param_groups() if isinstance(objective, CtcObjective) else None,
                profiler=stopwatch,
            )
    except torch.OutOfMemoryError:
        return Probe(rows, samples, 0.0, 0.0, 0, 0, fits=False)
    start, peak = stopwatch.start, stopwatch.peak
    return Probe(
        rows=rows,
        samples=samples,
        micro_seconds=statistics.median(stopwatch.micro[1:]),
        update_seconds=statistics.median(stopwatch.update[1:]),
        peak_bytes=peak if device.type == "cuda" else round(start + GAPS * (peak - start)),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        hop=next(module.hop for module in objective.modules() if isinstance(module, SpeechEncoder)),
    )


def main() -> None:
    """Read a request from standard input, answer it on standard output."""
    request: dict[str, Any] = json.loads(sys.stdin.read())
    finetuning, settings = request.pop("kind") == "finetune", request.pop("config")
    cfg = from_dict(FinetuneConfig, settings) if finetuning else from_dict(PretrainConfig, settings)
    print(json.dumps(asdict(run_probe(cfg, **request))))


if __name__ == "__main__":
    main()
