"""What a measured figure is worth nothing without: processor, versions, date, command; and the file that keeps it.

Results are JSON under ``benchmarks/results/``, one file a script; ``write`` stamps them.
"""

import datetime
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from speechssl.core.processor import processor

__all__ = ["RESULTS", "ROOT", "command", "hardware", "today", "versions", "write"]

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """Return the processor's name, how many of its cores this process may use, and its vector unit, as it is used."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name}, {cores} cores, {processor()}"


def versions(*packages: str) -> dict[str, str | None]:
    """Return the version of each package; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def today() -> str:
    """Return the date, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def command() -> str:
    """Return how this process was started; of a path only its kind, because it means nothing elsewhere."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"-m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    words = ["PATH" if os.sep in word else word for word in sys.argv[1:]]
    return " ".join(["python", name, *words])


def write(path: Path | str, result: dict[str, Any], *packages: str) -> Path:
    """Write ``result`` as JSON with hardware, load, versions of torch and ``packages``, date and command.

    Parameters
    ----------
    path
        A name is taken under ``benchmarks/results/``; a path as it is.
    result
        What it already says of these facts stays.
    """
    target = RESULTS / path
    stamp = {
        "hardware": hardware(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": versions("speechssl", "torch", *packages),
        "python": platform.python_version(),
        "date": today(),
        "command": command(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, **{name: value for name, value in stamp.items() if name not in result}}, indent=1)
    target.write_text(text + "\n", encoding="utf-8")
    return target
