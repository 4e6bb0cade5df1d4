"""Progress for people: a bar with time left on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["duration", "progress"]

LOG_INTERVAL = 15.0
"""Seconds between plain lines when standard error is not a terminal."""


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(title: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``advance(done, total)``; call it as often as you like."""
    if sys.stderr.isatty():
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
