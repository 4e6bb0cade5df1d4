"""The systems of a comparison: the evaluations that a command line names, and their names.

In: words such as ``runs/a``, ``runs/a/evaluate``, ``runs/a/evaluate/hypotheses.jsonl`` or ``NAME=PATH``. Out: `System`
records with unique names. A run folder stands for the evaluations in it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.core.errors import ConfigError, DataError
from speechssl.evaluation.wer.hypotheses import HYPOTHESES, Row, read_hypotheses

__all__ = ["System", "find_systems"]

_SKIPPED = frozenset({"checkpoints", "model", "events", "tensorboard", "sweep", "corpus", "audio", "stages", "shards"})
_DEPTH = 3
_PRETRAINED, _SCRATCH = "evaluate", "evaluate-scratch"
"""Folders of the two arms of a run."""


@dataclass(frozen=True)
class System:
    """One evaluation."""

    name: str
    path: str
    """Folder or file, as it was given or found."""
    info: dict[str, Any]
    """What ``wer.json`` says was scored (model, split, decoder, text); empty where there is none."""
    rows: list[Row]


def find_systems(words: Sequence[str]) -> tuple[list[System], list[str]]:
    """Find the evaluations that ``words`` name.

    A run folder that was scored on several splits gives the evaluations of its test split, and a note says so.

    Returns
    -------
    The systems in the order given, and notes for the reader.

    Raises
    ------
    ConfigError
        A name is given twice, or the same evaluation is.
    DataError
        A path does not exist, holds no evaluation, or its evaluation is damaged.
    """
    notes: list[str] = []
    found: list[tuple[str, Path, dict[str, Any]]] = []
    for word in words:
        name, path = _named(word)
        places = [(place, _info(place)) for place in _places(path)]
        if len({str(info.get("split")) for _, info in places}) > 1:
            places, note = _test_split(path, places)
            notes.append(note)
        if name and len(places) > 1:
            inside = ", ".join(place.name for place, _ in places)
            raise ConfigError(f"{word}: one name cannot stand for {len(places)} evaluations; name one of {inside}")
        found += [(name, place, info) for place, info in _scratch_first(places)]
    _refuse_repeats([place for _, place, _ in found])
    names = _names([(name, place) for name, place, _ in found])
    systems = [
        System(name, str(place), info, read_hypotheses(place))
        for name, (_, place, info) in zip(names, found, strict=True)
    ]
    return systems, notes


def _named(word: str) -> tuple[str, Path]:
    """Return (name or the empty string, path) of ``NAME=PATH`` or ``PATH``; a path that exists is never split."""
    name, equals, rest = word.partition("=")
    if equals and not Path(word).exists():
        if not name.strip() or not rest:
            raise ConfigError(f"{word!r}: expected NAME=PATH or PATH")
        return name.strip(), Path(rest)
    return "", Path(word)


def _places(path: Path) -> list[Path]:
    """Return the folders (or the file) with hypotheses: ``path`` itself, or what is below it."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give run folders, or folders that `speechssl evaluate` wrote")
    if path.is_file() or (path / HYPOTHESES).exists():
        return [path]
    places = []
    for root, folders, names in os.walk(path):
        place = Path(root)
        deep = len(place.relative_to(path).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(n for n in folders if n not in _SKIPPED and not n.startswith("."))
        if HYPOTHESES in names:
            places.append(place)
    if not places:
        raise DataError(f"{path}: no {HYPOTHESES} in it or below it; run `speechssl evaluate` (or `score`) first")
    return places


def _test_split(path: Path, places: list[tuple[Path, dict[str, Any]]]) -> tuple[list[tuple[Path, dict[str, Any]]], str]:
    """Keep the evaluations of the test split; of the first split, when none is called test."""
    splits = [str(info.get("split")) for _, info in places]
    chosen = next((split for split in splits if "test" in split), splits[0])
    kept = [item for item, split in zip(places, splits, strict=True) if split == chosen]
    others = ", ".join(place.name for (place, _), split in zip(places, splits, strict=True) if split != chosen)
    return kept, f"{path.name} was scored on several splits: {chosen!r} is compared; {others} not."


def _scratch_first(places: list[tuple[Path, dict[str, Any]]]) -> list[tuple[Path, dict[str, Any]]]:
    """Put ``evaluate-scratch`` of a run before ``evaluate``, since the baseline comes first."""
    names = [place.name for place, _ in places]
    if names == [_PRETRAINED, _SCRATCH]:
        return places[::-1]
    return places


def _info(place: Path) -> dict[str, Any]:
    path = (place if place.is_dir() else place.parent) / "wer.json"
    if not path.exists():
        return {}
    try:
        score = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error}); run the evaluation again to rewrite it") from None
    info = score.get("info") if isinstance(score, dict) else None
    return info if isinstance(info, dict) else {}


def _refuse_repeats(places: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for place in places:
        real = (place / HYPOTHESES if place.is_dir() else place).resolve()
        if real in seen:
            raise ConfigError(f"{place} and {seen[real]} are the same evaluation; give each system once")
        seen[real] = place


def _names(found: Sequence[tuple[str, Path]]) -> list[str]:
    """Name each system by the parts of its path that differ from the others, unless it has a name.

    Raises ConfigError when two systems have the same name.
    """
    paths = [path for name, path in found if not name]
    parts = [_parts(path, paths) for path in paths]
    if len(parts) > 1:
        while len({path[0] for path in parts}) == 1 and all(len(path) > 1 for path in parts):
            parts = [path[1:] for path in parts]
        while len({path[-1] for path in parts}) == 1 and all(len(path) > 1 for path in parts):
            parts = [path[:-1] for path in parts]
        short = [path[-2:] for path in parts]
        parts = short if len(set(short)) == len(short) else parts
    elif parts:
        parts = [parts[0][-1:]]
    unnamed = iter("/".join(path) for path in parts)
    names = [name or next(unnamed) for name, _ in found]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ConfigError(f"two systems are called {repeated!r}; give them names: NAME=PATH OTHER=PATH")
    return names


def _parts(path: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the parts of the resolved path that may be a name: no root, and of a file its stem unless it is usual.

    The two arms of one run are named by their difference.
    """
    if path.name in {_PRETRAINED, _SCRATCH} and {path.with_name(_PRETRAINED), path.with_name(_SCRATCH)} <= set(paths):
        return (*path.resolve().parent.parts[1:], "pretrained" if path.name == _PRETRAINED else "scratch")
    path = path.resolve()
    if path.is_file():
        path = path.parent if path.name == HYPOTHESES else path.with_suffix("")
    return path.parts[1:] or (path.name or "system",)
