"""Command lines of this package, several at a time, each in a process of its own.

In: tasks and how to start one. Out: each has ended, and its exit code was looked at. A process whose parent is gone
saves itself and ends (``cli/candidate.py``).
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from speechssl.core.errors import RunError

__all__ = ["EXIT_INTERRUPTED", "run_all", "start", "tail"]

T = TypeVar("T")

EXIT_INTERRUPTED = 75


def start(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``speechssl WORDS...``; what it prints is appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "speechssl.cli.candidate", str(os.getpid()), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def run_all(
    tasks: Sequence[T],
    begin: Callable[[T, int], subprocess.Popen[bytes]],
    end: Callable[[T, int], None],
    *,
    jobs: int,
    stop: threading.Event | None = None,
) -> None:
    """Run tasks in order, ``jobs`` at a time, until all are done or ``stop`` is set.

    Parameters
    ----------
    begin
        Starts a task in one of ``jobs`` slots, counted from 0.
    end
        Gets a task that has ended, and its exit code. When it raises, the others are asked to save themselves and end.
    """
    waiting, free = list(tasks), list(range(jobs))
    running: dict[int, tuple[T, subprocess.Popen[bytes]]] = {}
    try:
        while (waiting or running) and not (stop is not None and stop.is_set()):
            while waiting and free:
                slot, task = free.pop(0), waiting.pop(0)
                running[slot] = task, begin(task, slot)
            time.sleep(0.2)
            for slot, (task, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    free.append(slot)
                    end(task, code)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def tail(log: Path, what: str, code: int) -> RunError:
    """Return the error of a process that failed, with the last lines that it printed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return RunError(f"{what} failed (exit code {code}):\n" + "\n".join(text.splitlines()[-8:]))
