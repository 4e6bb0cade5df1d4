"""Checkpoints that are either whole or not there (docs/design.md, promise 4).

In: a state of tensors, numbers, strings, lists and dicts. Out: ``checkpoints/step-00010000/state.pt``, and
``best/state.pt`` for the weights that validated best. A state is written beside its place, flushed to the disk, read
back against the CRC-32 of every tensor, and only then renamed; loading checks the CRCs again, because ``torch.load``
does not.
"""

import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from speechssl.core.errors import CheckpointError
from speechssl.core.files import atomic_file, atomic_folder

__all__ = ["Checkpoints", "State"]

State = dict[str, Any]
"""What a checkpoint holds; ``state["step"]`` is the number of steps done."""

logger = logging.getLogger("speechssl.checkpoint")


def _damage(path: Path) -> str | None:
    """Return what is wrong with a saved file, or None: sizes and the CRC-32 of every member are checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        return "missing"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        return f"not a whole file: {error}"
    return None if bad is None else f"checksum of {bad} is wrong"


def _write(path: Path, state: State) -> None:
    with atomic_file(path) as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
        if damage := _damage(Path(file.name)):
            raise OSError(f"the file read back is damaged: {damage}")


class Checkpoints:
    """The checkpoints of one run folder (``RUN/checkpoints``). Only rank 0 saves; every rank may load.

    After a save the newest ``keep`` valid checkpoints stay, at least 2. Weights in other folders are not removed.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.keep = max(2, keep)
        self.after_save: Callable[[], None] = lambda: None
        """Called when a checkpoint is on the disk."""
        self._known_good: set[int] = set()

    def steps(self) -> list[int]:
        """Return the steps of all checkpoint folders, oldest first, damaged ones included."""
        if not self.folder.is_dir():
            return []
        names = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """Return the folder of one step."""
        return self.folder / f"step-{step:08d}"

    def clean(self) -> None:
        """Remove what a killed save left behind; call it while no other process writes here."""
        for pattern in ("*.tmp", "*/*.tmp"):
            for leftover in self.folder.glob(pattern):
                logger.warning("removing %s: its writing was interrupted", leftover)
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()

    def save(self, step: int, state: State, *, best: bool = False, place: Path | None = None) -> Path:
        """Write a checkpoint of ``step`` and remove the oldest ones; with ``best`` or ``place`` write there instead.

        Raises CheckpointError when it could not be written whole (mostly: disk full); what was there before still is.
        """
        final = place or (self.folder / "best" if best else self.path(step))
        try:
            if final.exists():
                _write(final / "state.pt", {**state, "step": step})
            else:
                with atomic_folder(final) as folder:
                    _write(folder / "state.pt", {**state, "step": step})
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise CheckpointError(
                f"cannot save {final}: {error}. Earlier checkpoints are untouched; is the disk full or read-only?"
            ) from error
        if final == self.path(step):
            self._known_good.add(step)
            self.prune()
        self.after_save()
        return final

    def prune(self) -> None:
        """Keep the newest ``keep`` valid checkpoints and whatever is newer than the oldest of them; remove the rest."""
        good = 0
        for step in reversed(self.steps()):
            if good >= self.keep:
                self._known_good.discard(step)
                shutil.rmtree(self.path(step), ignore_errors=True)
            elif step in self._known_good or _damage(self.path(step) / "state.pt") is None:
                self._known_good.add(step)
                good += 1

    def load(self, path: Path) -> State:
        """Return the state in one checkpoint folder; a damaged one is an error, never a reason to take another.

        Raises CheckpointError when the folder holds no whole state.
        """
        file = path / "state.pt"
        if damage := _damage(file):
            raise CheckpointError(f"{file}: {damage}")
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises errors of many types for a foreign archive
            raise CheckpointError(f"{file}: not a checkpoint of speechssl: {error}") from error
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise CheckpointError(f"{file}: not a checkpoint of speechssl: it holds no step")
        return state

    def newest(self) -> tuple[int, State] | None:
        """Return the newest valid checkpoint as (step, state), or None where the run has none at all.

        Damaged ones are skipped, each with a warning that says why.

        Raises
        ------
        CheckpointError
            There are checkpoints, but not one of them is whole: starting over silently would lose the run.
        """
        steps = self.steps()
        reasons = []
        for step in reversed(steps):
            try:
                state = self.load(self.path(step))
            except CheckpointError as error:
                reasons.append(str(error))
                logger.warning("skipping a damaged checkpoint: %s", error)
                continue
            if reasons:
                logger.warning("resuming from %s instead: the steps after it are done again", self.path(step))
            return step, state
        if steps:
            raise CheckpointError(
                "no checkpoint of this run is whole: " + "; ".join(reasons) + ". Nothing was touched. "
                f"Restore one from a backup, or delete {self.folder.parent} to start over"
            )
        return None

    def best(self) -> tuple[int, State] | None:
        """Return (step, state) of the weights that validated best, or None; ``state["objective"]`` holds them.

        Raises CheckpointError when ``best/`` is there but damaged.
        """
        if not (self.folder / "best").is_dir():
            return None
        state = self.load(self.folder / "best")
        return state["step"], state
