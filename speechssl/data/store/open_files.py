"""Files that are read at random places again and again, kept open; any thread may read, also after a fork.

In: a name and where the file is. Out: its bytes at an offset.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

__all__ = ["OpenFiles"]

MOST = 64
"""Files that one process keeps open."""


class _Descriptor:
    """An open file that closes when its last user is done: another thread may use a file that was evicted."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class OpenFiles:
    """The most recently used files."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # a forked child must not inherit a lock that some thread held
        self._open: OrderedDict[Hashable, _Descriptor] = OrderedDict()

    def forget(self) -> None:
        """Close everything."""
        self._renew()

    def read_into(self, buffer: memoryview, name: Hashable, path: Callable[[], Path], offset: int) -> int:
        """Fill a buffer from ``offset`` on; return how many bytes there were, fewer only where the file ends.

        ``path`` is asked only when the file is not open.
        """
        if self._process != os.getpid():
            self._renew()
        with self._lock:
            descriptor = self._open.get(name)
            if descriptor is not None:
                self._open.move_to_end(name)
        if descriptor is None:
            descriptor = self._add(name, _Descriptor(path()))  # without the lock: a remote file is fetched here
        done = 0
        while done < len(buffer) and (more := os.preadv(descriptor.number, [buffer[done:]], offset + done)):
            done += more
        return done

    def _add(self, name: Hashable, descriptor: _Descriptor) -> _Descriptor:
        with self._lock:
            self._open[name] = descriptor
            while len(self._open) > MOST:
                self._open.popitem(last=False)
        return descriptor
