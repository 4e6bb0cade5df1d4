"""Reads JSON lines that are still being written, or were cut by a kill: damaged lines are counted, not fatal."""

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["read_lines"]


def read_lines(path: Path, notes: list[str], top: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; ``notes`` says what was left out (paths relative to ``top``)."""
    rows, bad, torn = [], 0, False
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError:  # JSONDecodeError and UnicodeDecodeError
            torn, bad = torn or number == len(lines), bad + (number != len(lines))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    name = os.path.relpath(path, top)
    if torn:
        notes.append(f"{name}: its last line is incomplete (the run was writing it, or was killed) and is left out")
    if bad:
        notes.append(f"{name}: {bad} damaged line{'s' * (bad != 1)} left out")
    return rows
