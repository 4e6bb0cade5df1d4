"""Worker processes: each ends with the run that started it, even if that was killed; one that dies costs one item.

In: work for a pool, or a call at the start of a program. Out: results in order; processes that end when their parent is
gone. Pipes alone do not show that: a pool's workers hold both ends of their queue. A fork server, the parent of its
workers, lives as long as they do.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

__all__ = ["cores", "end_with_main", "end_with_parent", "map_surviving", "process_pool"]

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""Time to finish a step and save, once the parent is gone."""
_PR_SET_PDEATHSIG = 1
_CHUNK = 16
"""Items that a process takes at a time."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_pool(workers: int, *, preload: Sequence[str] = (), **options: Any) -> ProcessPoolExecutor:
    """Return a pool whose processes have no threads or locks of this one, and end with it.

    ``preload`` names modules that the fork server, where there is one, imports for all of them.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if preload and "forkserver" in methods:
        context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_main, **options)


def map_surviving(
    do: Callable[[Item], Result], items: Sequence[Item], workers: int, died: Callable[[Item], Result]
) -> Iterator[Result]:
    """Yield ``do(item)`` for each item, in order, from several processes; ``died(item)`` for one that kills its own."""
    done = 0
    while done < len(items):
        try:
            with process_pool(min(workers, len(items) - done)) as pool:
                for result in pool.map(do, items[done:], chunksize=_CHUNK):
                    done += 1
                    yield result
        except BrokenProcessPool:  # one item of the first unfinished chunk, perhaps: take them one by one
            for result in _one_by_one(do, items[done : done + _CHUNK], died):
                done += 1
                yield result


def _one_by_one(
    do: Callable[[Item], Result], items: Sequence[Item], died: Callable[[Item], Result]
) -> Iterator[Result]:
    """Yield the result of each item from a process of its own, which is replaced when an item kills it."""
    done = 0
    while done < len(items):
        try:
            with process_pool(1) as pool:
                for item in items[done:]:
                    result = pool.submit(do, item).result()
                    done += 1
                    yield result
        except BrokenProcessPool:
            done += 1
            yield died(items[done - 1])


def end_with_main() -> None:
    """Watch the main process from a thread of this worker, and exit when it is gone."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)


def end_with_parent(parent: int) -> None:
    """Send SIGTERM to this process when its parent is gone, so that it saves; kill it when saving takes too long.

    On Linux the kernel sends the signal at once (prctl(2), PR_SET_PDEATHSIG). A thread checks as well, for other
    systems and for a parent, a process id, that was gone before this call.
    """
    _ask_kernel()
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _ask_kernel() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
