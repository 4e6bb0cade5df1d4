"""Stages of a workflow: which are complete, and running those that are not.

In: a folder and a list of stages. Out: their outputs, and ``stages/NAME.json``: a stamp with the key of everything that
the stage depends on. A stage whose stamp holds the same key, and whose output is there, is skipped.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import find_json, write_json
from speechssl.core.progress import duration

__all__ = ["Stage", "check_stages", "digest", "run_stages"]

logger = logging.getLogger("speechssl.run")


@dataclass(frozen=True)
class Stage:
    """One step of the way."""

    name: str
    key: Any
    """Everything, besides the stages before it, that the result depends on (JSON-able)."""
    output: Path
    """The file whose presence says that the stage is complete."""
    make: Callable[[], object]
    work: tuple[Path, ...] = ()
    """Other folders in which it keeps work."""
    cheap: bool = False
    """Made again when its key has changed; any other stage then stops the run rather than throw work away."""

    @property
    def folders(self) -> list[Path]:
        """What to delete to make the stage again: the folder of the output (the run folder, of a model), and others."""
        folder = self.output.parent
        return [folder.parent if folder.name == "model" else folder, *self.work]


def digest(path: Path) -> str:
    """Return a hash of a file for the key of a stage; empty where there is none (the file lies elsewhere)."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.is_file() else ""


def check_stages(folder: Path, stages: list[Stage]) -> list[tuple[Stage, str, bool]]:
    """Return each stage with the key of all it depends on, and whether it is complete; nothing is run.

    Raises
    ------
    ConfigError
        A stage was completed with other settings, and making it again would throw work away.
    """
    found = []
    chain = ""
    for number, stage in enumerate(stages):
        text = json.dumps([chain, stage.name, stage.key], sort_keys=True, default=str)
        chain = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        stored = _stored(folder, stage)
        same = stored is not None and stored.get("key") == chain
        if stored is not None and not same and not stage.cheap:
            later = [path for each in stages[number:] if not each.cheap for path in each.folders if path.exists()]
            changes = _differences(stored.get("of"), json.loads(json.dumps(stage.key, default=str)))
            raise ConfigError(
                f"stage {stage.name!r} in {folder} was completed with other settings or from other files:\n  "
                + ("\n  ".join(changes) or "a stage before it has changed")
                + "\nGive a new --output, or rebuild this stage and all later ones: delete "
                + ", ".join(map(str, dict.fromkeys(later)))
            )
        found.append((stage, chain, same))
    return found


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return ``name: old -> new`` for every value that differs between two JSON-able keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(each for each in new if each not in old)]
        return [x for each in names for x in _differences(old.get(each), new.get(each), f"{name}.{each}".strip("."))]
    if isinstance(old, list) and isinstance(new, list) and any(isinstance(x, list | dict) for x in old + new):
        return [x for a, b in zip_longest(old, new) for x in _differences(a, b, name)]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}".removeprefix(": ")]


def _stamp(folder: Path, stage: Stage) -> Path:
    return folder / "stages" / f"{stage.name}.json"


def _stored(folder: Path, stage: Stage) -> dict[str, Any] | None:
    """Return the stamp of a stage, or None where the stage is to be made (again): what is torn counts as missing."""
    stamp = find_json(_stamp(folder, stage))
    if not isinstance(stamp, dict) or not stage.output.exists():
        return None
    now, then = _sizes(stage.output), stamp.get("files") or {}
    changed = [name for name, size in then.items() if now.get(name) != size]
    for name in changed:
        found = f"{now[name]:,} bytes, {then[name]:,} when it was finished" if name in now else "missing"
        logger.warning("%s: %s; stage %r is made again", stage.output.parent / name, found, stage.name)
    return None if changed else stamp


def _sizes(output: Path) -> dict[str, int]:
    """Return the size of each file beside the output of a stage: none may be cut later without being noticed."""
    found = (path for path in output.parent.iterdir() if path.is_file() and path.suffix not in (".lock", ".tmp"))
    return {path.name: path.stat().st_size for path in sorted(found)}


def run_stages(folder: Path, stages: list[Stage], begin: Callable[[str], object] = len, *, said: int = 0) -> None:
    """Run stages in order, skipping those that are complete; ``begin`` is called with the name of each that is run.

    Nothing is printed of the first ``said`` stages where they are complete.

    Raises
    ------
    ConfigError
        A stage was completed with other settings, and making it again would throw work away.
    DataError
        A stage ended without its output.
    """
    for number, (stage, chain, done) in enumerate(check_stages(folder, stages), 1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        if done:
            if number > said:
                print(f"{title}: done before", flush=True)
            continue
        print(title, flush=True)
        begin(stage.name)
        start = time.monotonic()
        stage.make()
        seconds = time.monotonic() - start
        if not stage.output.exists():
            raise DataError(f"stage {stage.name!r} ended without writing {stage.output}")
        record = {"key": chain, "of": stage.key, "seconds": seconds, "finished": time.time()}
        files = {} if stage.output.parent == folder else _sizes(stage.output)
        write_json(_stamp(folder, stage), {**record, "files": files}, default=str, indent=None)
        print(f"{title}: {duration(seconds)}", flush=True)
