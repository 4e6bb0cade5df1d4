"""``speechssl compare RUN...``: evaluations in, compare.html, compare.json and compare.txt out.

Reads files only. The page is one self-contained file; everything in it is in compare.json, and can be computed again
from the ``hypotheses.jsonl`` of each system.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from speechssl.config import CompareConfig
from speechssl.core.errors import ConfigError
from speechssl.core.files import write_atomic, write_json
from speechssl.evaluation.compare.comparison import Comparison, compare
from speechssl.reports.comparison.compare_page import render_comparison
from speechssl.reports.comparison.compare_text import comparison_text
from speechssl.reports.comparison.systems import System, find_systems
from speechssl.reports.comparison.verdicts import caveats

__all__ = ["build_comparison"]


def build_comparison(words: Sequence[str], cfg: CompareConfig, *, made: datetime | None = None) -> Path:
    """Write the three files of a comparison and return the path of the page.

    Parameters
    ----------
    words
        Evaluation folders, ``hypotheses.jsonl`` files or run folders, each as ``PATH`` or ``NAME=PATH``.
    cfg
        Where to write, and how to compare.
    made
        The time that the files show; now when absent.

    Raises
    ------
    ConfigError
        Fewer than two systems, two of the same name, or no system of the baseline's name.
    DataError
        A path holds no evaluation, or the systems were scored on different utterances or references.
    """
    systems, notes = find_systems(words)
    names = [system.name for system in systems]
    if len(systems) < 2:
        raise ConfigError(f"a comparison needs two systems; {' '.join(words) or 'nothing'} gives only {len(systems)}")
    if cfg.baseline and cfg.baseline not in names:
        raise ConfigError(f"no system is called {cfg.baseline!r}; the systems are {', '.join(names)}")
    if cfg.bootstrap < 1 or cfg.shown < 0:
        raise ConfigError("bootstrap must be at least 1 and shown at least 0")
    comparison = compare(
        {system.name: system.rows for system in systems},
        baseline=cfg.baseline or None,
        common=cfg.common,
        n=cfg.bootstrap,
        seed=cfg.seed,
        shown=cfg.shown,
    )
    said = caveats(comparison, {system.name: system.info for system in systems}, notes)
    made = made or datetime.now().astimezone()
    command = _command(words, cfg)
    folder = Path(cfg.output)
    document = {
        "made": made.isoformat(timespec="seconds"), "command": command, "notes": said,
        **_plain(comparison, systems),
    }  # fmt: skip
    page = folder / "compare.html"
    write_json(folder / "compare.json", document, allow_nan=False, default=str)
    write_atomic(folder / "compare.txt", comparison_text(comparison, said, command, made))
    write_atomic(page, render_comparison(comparison, systems, said, command, made))
    return page


def _plain(comparison: Comparison, systems: Sequence[System]) -> dict[str, Any]:
    """Return the comparison as JSON values, with what is known of each system beside its scores."""
    given = {system.name: system for system in systems}
    document = comparison.to_dict()
    document["systems"] = [
        {"name": item.name, "path": given[item.name].path, "rank": item.rank, "info": given[item.name].info,
         **asdict(item.score)}
        for item in comparison.systems
    ]  # fmt: skip
    return document


def _command(words: Sequence[str], cfg: CompareConfig) -> str:
    """Return the command line that makes the comparison again."""
    default = CompareConfig()
    settings = [
        part
        for name in ("output", "baseline", "shown", "bootstrap", "seed")
        if getattr(cfg, name) != getattr(default, name)
        for part in (f"--{name}", str(getattr(cfg, name)))
    ]
    return shlex.join(["speechssl", "compare", *words, *settings, *(["--common"] if cfg.common else [])])
