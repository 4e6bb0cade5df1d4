"""Where the time of a step goes: a trace to look at and a table by component, from PyTorch's own profiler.

In: a few steps of the loop in progress. Out: ``profile/trace.json`` (chrome://tracing, Perfetto), ``profile.json`` and
``profile.txt`` in the run folder. Forward operations belong to the innermost component whose ``forward`` is running;
a backward operation belongs to the component of the forward operation that it is the gradient of (PyTorch numbers
both alike); what runs in neither is named by the loop: loader, optimiser.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity

from speechssl.core.files import atomic_path, write_atomic, write_json

__all__ = ["COMPONENTS", "Profile", "Profiler", "table"]

WARM_UP = 3
"""Steps before the first one that is looked at: caches, threads and the allocator settle."""
PREFIX = "part: "
COMPONENTS = {
    "encoder.frontend": "stem",
    "encoder.feature_norm": "projection",
    "encoder.projection": "projection",
    "encoder.position": "position",
    "encoder.relative_position": "position",
    "encoder.blocks.*": "blocks",
}
"""Modules by name; everything else inside the objective (quantiser, heads, loss) is ``head``."""


class Profiler(AbstractContextManager["Profiler"], Protocol):
    """What the loop tells of its progress; a context that is left when the loop ends."""

    def begin_step(self, step: int) -> None:
        """Note that a step begins, and that the one before it has ended."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Return the context in which a part of a step runs that is no module: ``loader`` or ``optimiser``."""


class Profile:
    """Watches ``steps`` steps of a run, beginning with the third after ``start``; with 0 every method does nothing.

    The parts of ``objective`` are told apart; its encoder is ``objective.encoder`` or ``objective.model.encoder``. The
    files go to ``folder``.
    """

    def __init__(self, objective: nn.Module, folder: Path, *, start: int, steps: int) -> None:
        self._objective, self._folder = objective, folder
        self._first, self._last = start + WARM_UP, start + WARM_UP + steps
        self._device = next(objective.parameters()).device.type
        self._profiler: Any = None
        self._handles: list[Any] = []
        self._on = steps > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_step(self, step: int) -> None:
        """Start watching when ``step`` is the first, stop and write when it is beyond the last."""
        if not self._on:
            return
        if step == self._first:
            self._start()
        elif step == self._last:
            self.close()

    def close(self) -> None:
        """Write what was seen, if anything was."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        self._on = False
        for handle in self._handles:
            handle.remove()
        profiler.__exit__(None, None, None)
        events = profiler.events()
        with atomic_path(self._folder / "trace.json") as temporary:
            profiler.export_chrome_trace(str(temporary))
        parts = components(events, self._device)
        result = {"steps": self._last - self._first, "milliseconds": parts}
        write_json(self._folder / "profile.json", result)
        write_atomic(self._folder / "profile.txt", table(parts, self._last - self._first))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Name what runs inside, while the profiler looks."""
        if self._profiler is None:
            yield
            return
        with record_function(PREFIX + name):
            yield

    def _start(self) -> None:
        names = {f"{prefix}{name}": part for name, part in COMPONENTS.items() for prefix in ("", "model.")}
        self._label(self._objective, "head")
        for name, module in self._objective.named_modules():
            stem = name.rsplit(".", 1)[0] + ".*"
            part = names.get(name) or (names.get(stem) if name[-1:].isdigit() else None)
            if part is not None:
                self._label(module, part)
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device == "cuda")
        self._profiler = torch.profiler.profile(activities=kinds, acc_events=True)
        self._profiler.__enter__()

    def _label(self, module: nn.Module, part: str) -> None:
        """Open a range when the module's forward begins and close it when it ends."""
        open_ranges: list[record_function] = []

        def before(*_: Any) -> None:
            open_ranges.append(record_function(PREFIX + part).__enter__())

        def after(*_: Any) -> None:
            open_ranges.pop().__exit__(None, None, None)

        self._handles += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, always_call=True),
        ]


def components(events: Any, device: str = "cpu") -> dict[str, dict[str, float]]:
    """Return milliseconds by component and pass: ``{part: {"forward": ..., "backward": ...}}``.

    Times are self times of the operators: on a CPU their own, on a GPU (``device = "cuda"``) those of the kernels that
    they launched. The profiler lists each kernel a second time as an event of the GPU; those events are left out.
    """
    events = [event for event in events if event.device_type == DeviceType.CPU]
    ranges: dict[int, list[tuple[float, float, str]]] = defaultdict(list)
    for event in events:
        if event.name.startswith(PREFIX):
            span = event.time_range
            ranges[event.thread].append((span.start, span.end, event.name.removeprefix(PREFIX)))
    for spans in ranges.values():
        spans.sort()
    starts = {thread: [span[0] for span in spans] for thread, spans in ranges.items()}

    def owner(event: Any) -> str | None:
        """Return the innermost range around an event of its own thread."""
        spans = ranges.get(event.thread, [])
        place = bisect.bisect_right(starts.get(event.thread, []), event.time_range.start)
        for start, end, part in reversed(spans[:place]):
            if end >= event.time_range.end and start <= event.time_range.start:
                return part
        return None

    made_by: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        # Operators without a gradient carry the number of the next one that has: the last with a number made it.
        if event.sequence_nr >= 0 and event.scope == 0 and (part := owner(event)) is not None:
            made_by[event.sequence_nr] = part
    sums: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for event in events:
        spent = max(event.self_cpu_time_total, 0.0)
        spent = max(event.self_device_time_total, 0.0) if device == "cuda" else spent
        if event.name.startswith(PREFIX) or not spent:
            continue
        part = owner(event)
        if part is not None:
            sums[part]["forward"] += spent / 1000
            continue
        parent = event
        while parent is not None and parent.sequence_nr < 0:
            parent = parent.cpu_parent
        found = made_by.get(parent.sequence_nr) if parent is not None else None
        sums[found or "other"]["backward"] += spent / 1000
    return {part: dict(times) for part, times in sums.items()}


def table(parts: dict[str, dict[str, float]], steps: int) -> str:
    """Return the components as text, the largest first."""
    total = sum(sum(times.values()) for times in parts.values()) or 1.0
    lines = [f"{'component':<12}{'forward':>12}{'backward':>12}{'share':>9}   milliseconds a step, mean of {steps}"]
    for part, times in sorted(parts.items(), key=lambda item: -sum(item[1].values())):
        share = sum(times.values()) / total
        lines.append(f"{part:<12}{times['forward'] / steps:>12.1f}{times['backward'] / steps:>12.1f}{share:>9.1%}")
    lines.append(f"{'all':<12}{total / steps:>24.1f}")
    return "\n".join(lines) + "\n"
