"""Processes that build batches, with an interpreter lock each; they may die or hang without a word.

In: numbers of batches. Out: futures of the batches; of one whose process died, with a ``BrokenExecutor``. Large tensors
come through torch's shared memory, a file descriptor each, and small ones by value: few files are open at a time.

The processes come from a fork server: it is a clean process, so threads of this one (BLAS, CUDA, TensorBoard) cannot
leave a lock held in them as a plain fork can; and it imports torch once for all of them.
"""

import multiprocessing
import os
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from speechssl.core.processes import end_with_main
from speechssl.data.batches.supply import Item, Read

__all__ = ["Processes"]

PATIENCE = 5.0
"""Seconds that ``stop`` waits for a batch in progress before it kills."""
GRACE = 30
"""Seconds a process goes on after SIGTERM, so that the step in progress can end and be saved."""
LARGE = 1 << 14
"""Bytes from which a tensor goes through shared memory."""

_read: Read[Any]
"""In a worker: what builds its batches."""


class Processes(Generic[Item]):
    """Build batches, in the order in which they were submitted."""

    def __init__(self, read: Read[Item], workers: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["speechssl.data.batches.stream"])
        self._started = context.SimpleQueue()
        self._ids: set[int] = set()
        self._pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_settle, initargs=(read, self._started)
        )

    @property
    def ids(self) -> set[int]:
        """Ids of the processes that have begun to work."""
        while not self._started.empty():
            self._ids.add(self._started.get())
        return self._ids

    def submit(self, number: int, piece: np.ndarray | None) -> Future[Item]:
        """Return the future of a batch; ``piece`` is for threads."""
        del piece
        return self._pool.submit(_build, number)

    def stop(self, *, wait: bool) -> None:
        """End the processes, each after its batch where ``wait``, by force where that takes too long."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + (PATIENCE if wait else 0)
        while (living := [each for each in self.ids if _is_alive(each)]) and time.monotonic() < deadline:
            time.sleep(0.01)
        for each in living:
            os.kill(each, signal.SIGKILL)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _build(number: int) -> Any:
    return _read(number, None)


def _reduce(tensor: Tensor) -> tuple[Any, ...]:
    """Say how a tensor is sent: by torch, or small ones by value, which costs no file descriptor."""
    return reduce_tensor(tensor) if tensor.nbytes >= LARGE else (torch.from_numpy, (tensor.numpy(),))


def _settle(read: Read[Any], started: Any) -> None:
    """Live exactly as long as the main process needs: leave signals to it for a while, and die when it is gone."""
    global _read  # noqa: PLW0603  # a pool's processes have nothing else in common than their initializer's variables
    _read = read
    torch.set_num_threads(1)
    ForkingPickler.register(Tensor, _reduce)
    end_with_main()
    # Ctrl-C and preemption reach the whole process group, and the main process has a step to end and to save.
    for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    started.put(os.getpid())


def _end_later(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.alarm(GRACE)
