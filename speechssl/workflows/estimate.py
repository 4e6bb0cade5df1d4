"""What a configuration will cost, before it is started: parameters, memory, time, and what to change.

In: a configuration. A few real updates are measured on the device at hand, with a quarter of the micro-batch's rows
and, where that says that they fit, with all of them. Time and memory are straight lines in the number of rows
(equal-length rows, so attention and convolutions cost the same for each): they say what larger and smaller
micro-batches take. Out: an `Estimate`, as text or JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from speechssl.config import FinetuneConfig, PretrainConfig
from speechssl.config.load import to_dict
from speechssl.config.objectives import offline_targets
from speechssl.core.errors import ConfigError, RunError
from speechssl.core.precision import Choice, choose, device_kind
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Estimate", "estimate", "estimate_json", "estimate_text", "run_probes"]

UPDATES = 6
"""Of a probe, after one that warms up."""
ROOM = 0.92
"""Share of the memory that a run may take: the loader, checkpoints and the system need the rest."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a configuration on one device of this kind; with ``world`` of them, each takes its share."""

    kind: str
    device: str
    processor: str
    """What computes matrix products, as this process may use it."""
    precision: str
    """That of the run; ``auto`` was resolved on this device."""
    world: int
    parameters: int
    rows: int
    """Rows of the longest micro-batch."""
    seconds: float
    """Audio in a row of it."""
    micro_batches: int
    """In a step, on each device."""
    peak_bytes: int
    memory_bytes: int
    """What there is."""
    largest_rows: int
    """Rows of the largest micro-batch that fits."""
    step_seconds: float
    audio_per_second: float
    """Hours of audio per hour, over all devices."""
    steps: int
    total_hours: float
    advice: tuple[str, ...]
    probes: tuple[dict[str, Any], ...]


def estimate(cfg: PretrainConfig | FinetuneConfig, *, world: int = 1) -> Estimate:
    """Measure short probes and say what the run costs.

    Parameters
    ----------
    world
        Devices that will share each step.

    Raises
    ------
    ConfigError
        The micro-batches of a step cannot be shared out over ``world`` devices, or the run's length is set in epochs.
    RunError
        A probe failed; the message has its last line.
    """
    if cfg.training.epochs:
        raise ConfigError("the updates of training.epochs depend on the corpus; give training.steps for an estimate")
    if world < 1 or cfg.data.batches_per_step % world:
        raise ConfigError(f"data.batches_per_step = {cfg.data.batches_per_step} is not a multiple of {world} devices")
    samples = round(min(cfg.data.max_seconds, cfg.data.batch_seconds) * SAMPLE_RATE)
    rows = max(1, round(cfg.data.batch_seconds * SAMPLE_RATE) // samples)
    available, device = _device(cfg)
    choice = _precision(cfg)
    probes = _probes(cfg, rows, samples, ROOM * available)
    micro = _line([(probe["rows"], probe["micro_seconds"]) for probe in probes])
    memory = _line([(probe["rows"], probe["peak_bytes"]) for probe in probes])
    update = min(probe["update_seconds"] for probe in probes)
    accumulated = cfg.data.batches_per_step // world
    step_seconds = accumulated * micro(rows) + update
    targets = offline_targets(cfg.objective) if isinstance(cfg, PretrainConfig) else None
    steps = cfg.training.steps if targets is None else sum(targets.steps)
    peak = round(memory(rows))
    largest = _bisect(lambda n: memory(n) <= ROOM * available)
    audio = rows * samples / SAMPLE_RATE * cfg.data.batches_per_step
    return Estimate(
        kind="finetune" if isinstance(cfg, FinetuneConfig) else "pretrain",
        device=device,
        processor=choice.device,
        precision=choice.precision,
        world=world,
        parameters=probes[0]["parameters"],
        rows=rows,
        seconds=samples / SAMPLE_RATE,
        micro_batches=accumulated,
        peak_bytes=peak,
        memory_bytes=available,
        largest_rows=largest,
        step_seconds=step_seconds,
        audio_per_second=audio / step_seconds,
        steps=steps,
        total_hours=step_seconds * steps / 3600,
        advice=tuple(
            _advice(
                cfg,
                rows=rows,
                samples=samples,
                accumulated=accumulated,
                peak=peak,
                available=available,
                largest=largest,
            )
        ),
        probes=tuple(probes),
    )


def _probes(cfg: PretrainConfig | FinetuneConfig, rows: int, samples: int, room: float) -> list[dict[str, Any]]:
    """Measure a quarter of the rows, a half where a quarter cannot say whether all fit, and all where they fit.

    Memory has a constant part (weights, libraries), so ``rows`` need at most ``rows / quarter`` times the quarter's.
    """
    small = max(1, rows // 4)
    probes = [_probe(cfg, small, samples)]
    if not probes[0]["fits"]:
        raise RunError(
            f"not even {small} rows of {samples / SAMPLE_RATE:g} s fit into memory; lower data.max_seconds, set "
            "training.recompute = true, or take a smaller model"
        )
    if probes[0]["peak_bytes"] * rows / small > room and (half := max(small + 1, rows // 2)) < rows:
        probes.append(_probe(cfg, half, samples))
    probes = [probe for probe in probes if probe["fits"]]
    memory = _line([(probe["rows"], probe["peak_bytes"]) for probe in probes])
    if rows == 2 or (small < rows and memory(rows) <= room):
        probes.append(_probe(cfg, rows, samples))
    return [probe for probe in probes if probe["fits"]]


def _line(points: list[tuple[int, float]]) -> Any:
    """Return the straight line through the first and the last point (through one point: proportional)."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else y0 / x0
    slope = max(slope, 0.0)
    return lambda x: y1 + slope * (x - x1)


def _bisect(fits: Any) -> int:
    """Return the largest number in 0 ... 4,096 that fits, given that smaller ones do."""
    low, high = 0, 4097
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _probe(cfg: PretrainConfig | FinetuneConfig, rows: int, samples: int) -> dict[str, Any]:
    return run_probes([(cfg, {"rows": rows, "samples": samples, "updates": UPDATES})])[0]


def run_probes(
    asked: Sequence[tuple[PretrainConfig | FinetuneConfig, dict[str, Any]]],
    environments: Sequence[Mapping[str, str]] = (),
) -> list[dict[str, Any]]:
    """Run cost probes (cost_probe.py) side by side, each in a process of its own; return what they answer.

    One that runs out of memory answers ``fits`` false. ``environments`` add to the environment of each process.

    Raises
    ------
    RunError
        A probe failed; the message has its last line.
    """
    command = [sys.executable, "-m", "speechssl.workflows.cost_probe"]
    requests = [
        {"kind": "finetune" if isinstance(cfg, FinetuneConfig) else "pretrain", "config": to_dict(cfg), **sizes}
        for cfg, sizes in asked
    ]
    added: list[Mapping[str, str]] = [*environments] or [{}] * len(requests)
    with ThreadPoolExecutor(len(requests)) as pool:
        run = partial(subprocess.run, command, capture_output=True, text=True, check=False)
        finished = list(
            pool.map(lambda one, more: run(input=json.dumps(one), env={**os.environ, **more}), requests, added)
        )
    answers: list[dict[str, Any]] = []
    for request, done in zip(requests, finished, strict=True):
        if done.returncode in (-9, 137):
            answers.append({"fits": False, "rows": request["rows"]})
        elif done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"the probe of {request['rows']} rows failed: {last}")
        else:
            answers.append(json.loads(done.stdout.splitlines()[-1]))
    return answers


def _device(cfg: PretrainConfig | FinetuneConfig) -> tuple[int, str]:
    """Return the memory of the device in bytes, and its name."""
    import torch

    if cfg.training.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1], torch.cuda.get_device_name()
    return _memory(), f"CPU, {cfg.training.threads or torch.get_num_threads()} threads"


def _precision(cfg: PretrainConfig | FinetuneConfig) -> Choice:
    return choose(cfg.training.precision, device_kind(cfg.training.device))


def _memory() -> int:
    """Return the memory that this process may use: of the machine, or of its control group when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _advice(
    cfg: PretrainConfig | FinetuneConfig,
    *,
    rows: int,
    samples: int,
    accumulated: int,
    peak: int,
    available: int,
    largest: int,
) -> list[str]:
    seconds = samples / SAMPLE_RATE
    advice = []
    if peak > ROOM * available:
        factor = -(-rows // max(1, largest))
        advice.append(
            f"does not fit: set data.batch_seconds = {max(1, largest) * seconds:g} and data.batches_per_step = "
            f"{cfg.data.batches_per_step * factor} (the same audio in a step)"
        )
        if not cfg.training.recompute:
            advice.append("or training.recompute = true: less memory, about a third more time, the same numbers")
    elif accumulated > 1 and largest >= 2 * rows:
        factor = min(accumulated, largest // rows)
        while accumulated % factor:
            factor -= 1
        if factor > 1:
            advice.append(
                f"there is room: data.batch_seconds = {rows * factor * seconds:g} and data.batches_per_step = "
                f"{cfg.data.batches_per_step // factor} do the same step in fewer pieces"
            )
    if warning := _precision(cfg).warning:
        advice.append(f'training.precision = "{cfg.training.precision}": {warning}')
    return advice


def estimate_text(cost: Estimate) -> str:
    """Return the estimate as a page of text."""
    gigabyte = 1e9
    lines = [
        f"{cost.kind} on {cost.world} x {cost.device} ({cost.processor})",
        f"  precision          {cost.precision}",
        f"  parameters         {cost.parameters / 1e6:.1f} M",
        f"  micro-batch        {cost.rows} x {cost.seconds:g} s, {cost.micro_batches} in a step on each device",
        f"  peak memory        {cost.peak_bytes / gigabyte:.2f} GB of {cost.memory_bytes / gigabyte:.1f} GB; "
        f"the largest micro-batch that fits has {cost.largest_rows} rows",
        f"  step               {cost.step_seconds:.3g} s",
        f"  speed              {cost.audio_per_second:.1f} hours of audio an hour",
        f"  whole run          {cost.total_hours:.2f} h for {cost.steps:,} steps",
    ]
    lines += [f"  suggestion         {line}" for line in cost.advice]
    return "\n".join(lines)


def estimate_json(cost: Estimate) -> str:
    """Return the estimate, with what was measured, as JSON."""
    return json.dumps(asdict(cost), indent=1)
