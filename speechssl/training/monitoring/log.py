"""What a run says while it trains: metrics.jsonl (always), trackers (which are asked for), and progress for people.

In: dictionaries of numbers. Out: one JSON line each, on the disk at once, so that a killed run leaves whole lines; no
step appears twice after a resume, because the lines past the resumed step are cut off.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from speechssl.core.files import write_atomic
from speechssl.core.progress import bars, duration
from speechssl.training.monitoring.trackers import Trackers

__all__ = ["MetricsLog", "Progress", "read_metrics"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; an absent file is empty, a torn last line is left out."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return [line for line in lines if isinstance(line, dict)]


class MetricsLog:
    """Appends to ``metrics.jsonl``, and to trackers: by default to TensorBoard's files in ``events/`` beside it.

    ``active`` is false on ranks other than 0: every method then does nothing. ``config`` is what trackers show of the
    run.
    """

    def __init__(
        self,
        path: Path,
        *,
        active: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.active = active
        self._file: TextIO | None = None
        self._names, self._config = trackers, config or {}
        self._trackers: Trackers | None = None
        self._purge: int | None = None

    def cut(self, step: int) -> None:
        """Drop every line after ``step`` (and a torn last one): the steps that are about to be done again."""
        if not self.active or not self.path.exists():
            return
        self.close()
        kept = [line for line in read_metrics(self.path) if line.get("step", 0) <= step]
        write_atomic(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        self._purge = step + 1

    def append(self, step: int, phase: str, values: dict[str, Any]) -> None:
        """Write one line: ``step``, ``phase``, ``time`` and the values.

        Phases are targets, chance, train, valid, health, stopped and average.
        """
        if not self.active:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        plain = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}
        line = {"step": step, "phase": phase, "time": round(time.time(), 3), **plain}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._trackers is None:
            self._trackers = Trackers(self._names, self.path.parent, self._config, purge=self._purge)
        self._trackers.log(step, phase, values)

    def close(self) -> None:
        """Close the files; a later ``append`` opens them again."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._trackers is not None:
            self._trackers.close()
            self._trackers = None


class Progress:
    """Steps done and time left: a bar on a terminal, one plain line per log interval otherwise (standard error).

    ``start`` steps of the run's ``total`` were done before this process began. ``active`` is false on ranks other than
    0.
    """

    def __init__(self, total: int, start: int = 0, *, active: bool = True) -> None:
        self.total, self.start, self.active = total, start, active
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.active and bars():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def report(self, done: int, values: dict[str, Any]) -> None:
        """Show the newest numbers: beside the bar, or as one line with the time left."""
        if not self.active:
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, description=text)
            return
        left = (time.monotonic() - self._began) / max(1, done - self.start) * (self.total - done)
        print(f"step {done}/{self.total}  {text}  left {duration(left)}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
