"""A copy of a run folder in an object store, for machines that may vanish.

In: a run folder and an address. Out: the same files there, uploaded in a thread after each checkpoint and once more at
the end. A machine that has not got the newest checkpoint begins with a download. Everything is on the local disk first:
a store that is away costs a warning, and is an error at the end alone.
"""

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from speechssl.core.errors import DataError
from speechssl.data.store.remote import download, files_below, put, remove

__all__ = ["Upload"]

STEP = re.compile(r"checkpoints/step-(\d{8,})/")
LOCAL = {".lock", ".tmp", ".previous"}
"""Endings of names that mean something on this disk alone."""

logger = logging.getLogger("speechssl.run")


class Upload:
    """Keeps the copy of one run folder; a context that brings it up to date at its end."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address.rstrip("/")
        there = files_below(self.address)
        if strange := next((name for name in there if ".." in name.split("/") or name.startswith("/")), ""):
            raise DataError(f"{self.address}/{strange}: not a file of a run folder; remove it")
        self._sent: dict[str, tuple[int, int]] = {}
        """What is under the address: size, and time of change (ns) of the local file at that time."""
        self._restore(there)
        for name, path in self._files().items():
            if STEP.match(name) and there.get(name) == path.stat().st_size:
                self._sent[name] = (path.stat().st_size, path.stat().st_mtime_ns)
        self._stale = {name for name in there if name.startswith("checkpoints/")}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._running: Future[None] | None = None

    def start(self) -> None:
        """Upload what is new, in a thread; the upload before it ends first."""
        self._wait()
        self._running = self._thread.submit(self._push)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait()
        self._thread.shutdown()
        try:
            self._push()
        except (DataError, OSError) as problem:
            if kind is None:
                raise DataError(
                    f"the run is whole in {self.folder}, and its copy is not: {problem}. "
                    "The same command uploads the rest"
                ) from problem
            logger.warning("the copy of %s is not up to date: %s", self.folder, problem)

    def _wait(self) -> None:
        if self._running is not None:
            try:
                self._running.result()
            except (DataError, OSError) as error:
                logger.warning("the upload of %s is tried again after the next checkpoint: %s", self.folder, error)
            self._running = None

    def _files(self) -> dict[str, Path]:
        """Return the files of the run folder by their name in the copy, checkpoints last."""
        found = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not any(part.endswith(tuple(LOCAL)) for part in path.relative_to(self.folder).parts)
        ]
        names = {path.relative_to(self.folder).as_posix(): path for path in found}
        return dict(sorted(names.items(), key=lambda item: item[0].startswith("checkpoints/")))

    def _push(self) -> None:
        here = self._files()
        for name, path in here.items():
            try:
                state = (path.stat().st_size, path.stat().st_mtime_ns)
                if self._sent.get(name) != state:
                    put(path, f"{self.address}/{name}")
                    self._sent[name] = state
            except (DataError, FileNotFoundError):
                if path.exists():  # else it was an old checkpoint, which has been removed meanwhile
                    raise
        self._stale |= {name for name in self._sent if name.startswith("checkpoints/")}
        for name in sorted(self._stale - here.keys()):
            remove(f"{self.address}/{name}")
            self._stale.discard(name)
            self._sent.pop(name, None)

    def _restore(self, there: dict[str, int]) -> None:
        """Download the copy where it has a newer checkpoint than the folder, or the folder has not begun."""
        begun = (self.folder / "config.toml").exists()
        if begun and _newest(there) <= _newest(self._files()):
            return
        for name, size in sorted(there.items(), key=lambda item: item[0].startswith("checkpoints/")):
            download(f"{self.address}/{name}", self.folder / name, size=size)
        if there:
            logger.warning("%s: downloaded from %s", self.folder, self.address)


def _newest(names: dict[str, int] | dict[str, Path]) -> int:
    return max((int(found[1]) for name in names if (found := STEP.match(name))), default=-1)
