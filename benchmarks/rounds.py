"""Contenders in processes of their own that take turns: what else the machine does hits all of them alike.

A contender is a command that calls ``serve``: for every line on its standard input it does one piece of work and
answers with the processor time that this took. ``alternate`` starts them all and lets each work once a round.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

__all__ = ["TUNED", "Contender", "alternate", "medians", "ratios", "serve", "this_python"]

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 26)}
"""Settings of glibc's allocator: large blocks come from the heap and stay there, so no page is cleared twice."""
ANSWER = "seconds "


@dataclass(frozen=True)
class Contender:
    """A command in this checkout, and what it needs in its environment."""

    words: tuple[str, ...]
    """Of the command, after the interpreter: ``-m``, a module, its options."""
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable


def serve(work: Callable[[], Any], *, at_least: float = 0.0, settle: bool = False) -> None:
    """Work whenever asked; answer with the CPU seconds of one ``work()``.

    Parameters
    ----------
    at_least
        CPU seconds to repeat short work for; the answer is then a mean.
    settle
        Work once uncounted before: a process that waited for the others finds its memory and caches cold, and what
        is asked about is one piece of work among many.
    """
    for _ in sys.stdin:
        if settle:
            work()
        began, count = time.process_time(), 0
        while not count or time.process_time() - began < at_least:
            work()
            count += 1
        print(f"{ANSWER}{(time.process_time() - began) / count}", flush=True)


def alternate(contenders: Mapping[str, Contender], rounds: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the CPU seconds of each contender in each round, after ``warm_up`` rounds that do not count.

    Raises
    ------
    RuntimeError
        A contender ended before it was told to.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = {
        name: subprocess.Popen(
            [contender.python, *contender.words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment | contender.environment,
        )
        for name, contender in contenders.items()
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for number in range(warm_up + rounds):
            for name, process in processes.items():
                spent = _ask(name, process)
                if number >= warm_up:
                    times[name].append(spent)
            print(f"round {number - warm_up + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        failed = sys.exc_info()[0] is not None
        for process in processes.values():
            if failed:
                process.kill()
            process.communicate()
    return times


def _ask(name: str, process: subprocess.Popen) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("work\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # its output has ended, too: below
    for line in process.stdout:
        if line.startswith(ANSWER):
            return float(line.removeprefix(ANSWER))
    raise RuntimeError(f"{name} ended with code {process.wait()}; its message is above")


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each contender."""
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(times: Mapping[str, list[float]], pairs: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Return the median over rounds of the ratios within a round, for the pairs (peer, ours) that took part."""
    return {
        f"{peer} / {us}": round(statistics.median(a / b for a, b in zip(times[peer], times[us], strict=True)), 2)
        for peer, us in pairs
        if peer in times and us in times
    }


def this_python(path: str | None) -> str:
    """Return the interpreter asked for, this one by default."""
    return str(Path(path).absolute()) if path else sys.executable
