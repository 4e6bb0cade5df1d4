"""Every process ends with the run that started it, even if that run was killed.

In: a call at the start of a worker or of a program. Out: it ends when its parent is gone. Pipes alone do not show it: a
pool's workers hold both ends of their queue. A fork server, the parent of its workers, lives as long as they do.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

__all__ = ["end_with_main", "end_with_parent"]

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""Time to finish a step and save, once the parent is gone."""
_PR_SET_PDEATHSIG = 1


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
    systems and for a parent that was gone before this call.

    Parameters
    ----------
    parent
        Process id of the one that started this program.
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
