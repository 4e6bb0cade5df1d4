"""No worker process outlives the run that started it, not even one that was killed.

In: a call at the start of a worker. Out: the worker ends when the main process is gone. Pipes alone do not tell, for a
pool's workers hold both ends of their queue, and a fork server, the parent of its workers, lives as long as they do.
"""

import multiprocessing
import os
import threading

__all__ = ["end_with_main"]


def end_with_main() -> None:
    """Watch the main process from a thread of this worker, and exit when it is gone."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)
