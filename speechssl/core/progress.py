"""Progress for people: a bar with time left on a terminal, a plain line now and then in a log.

``Whole`` is the progress of several stages together: one bar on a terminal, one line per stage in a log.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

__all__ = ["Whole", "bars", "duration", "progress"]

LOG_INTERVAL = 15.0
"""Seconds between plain lines when standard error is not a terminal."""
LEAST_LEFT = 0.05
"""Least time left that is shown for a stage that takes longer than expected, as a share of its expected time."""
TRUSTED = 0.2
"""Share of the whole after which measured times correct the expected times of the other stages."""
MOST_PACE = 2.0
"""Largest correction factor: a machine may have been busy only for a while."""

_whole: list["Whole"] = []


def bars() -> bool:
    """Say whether to draw a bar: on a terminal, unless one bar for the whole is drawn already."""
    return sys.stderr.isatty() and not _whole


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(title: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``advance(done, total)``; call it as often as you like."""
    if bars():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    start = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_INTERVAL and 0 < done < total:
            last = now
            left = (now - start) / done * (total - done)
            print(f"{title}: {done}/{total} {unit}, {duration(left)} left", file=sys.stderr, flush=True)

    yield line


class Whole:
    """Progress of stages, each with its expected seconds: call ``begin(name)`` at the start of each stage that is run.

    A stage that is never begun counts as done as soon as a later one begins. After a fifth of the whole, the measured
    time, relative to the expected time, corrects the expectation of the rest.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self.expected = dict(expected)
        self.total = sum(self.expected.values())
        self._clock = clock
        self._took: dict[str, float] = {}
        self._stage, self._since, self._start = "", clock(), clock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if bars():
            self._draw()
        _whole.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _whole.remove(self)
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._task, completed=1.0, total=1.0, left=duration(0))
            self._bar.stop()

    def begin(self, name: str) -> None:
        """Go on to a stage; in a log, print it with the time left. Stages without an expected time are not printed."""
        if name not in self.expected:
            return
        now = self._clock()
        if self._stage:
            self._took[self._stage] = now - self._since
        self._stage, self._since = name, now
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        else:
            past = now - self._start
            line = f"{name}: {duration(past)} gone, about {duration(self.left())} left in all"
            print(line, file=sys.stderr, flush=True)

    def left(self) -> float:
        """Return the seconds that are expected to be left."""
        names = list(self.expected)
        if not self._stage:
            return self.total
        later = sum(self.expected[name] for name in names[names.index(self._stage) + 1 :])
        seen = sum(self.expected[name] for name in self._took)
        pace = sum(self._took.values()) / seen if seen >= TRUSTED * self.total > 0 else 1.0
        pace = min(max(pace, 1 / MOST_PACE), MOST_PACE)
        here = pace * self.expected[self._stage]
        return max(here - (self._clock() - self._since), LEAST_LEFT * here) + pace * later

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        whole = self

        class Bar(Progress):
            def get_renderables(self) -> Any:
                whole.refresh()
                yield from super().get_renderables()

        self._bar = Bar(
            *(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()),
            TextColumn("about {task.fields[left]} left in all"),
            console=Console(stderr=True),
            refresh_per_second=2,
        )
        self._task = self._bar.add_task("", total=1.0, left=duration(self.total))
        self._bar.start()

    def refresh(self) -> None:
        """Set the bar from the time left."""
        if self._bar is None or self._task is None:
            return
        past, left = self._clock() - self._start, self.left()
        task = self._bar.tasks[self._task]
        task.completed, task.fields["left"] = past / max(past + left, 1e-9), duration(left)
