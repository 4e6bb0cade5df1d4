"""Utterances for unit discovery: grouped by length, read ahead by threads, one bounded group at a time.

In: rows of a corpus. Out: lists of (id, waveform or the AudioError that reading it raised).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["Read", "Recordings", "group_rows", "read_ahead"]

Read = list[tuple[str, np.ndarray | AudioError]]
"""A group of utterances as read."""
Result = TypeVar("Result")


class Recordings(Protocol):
    """Utterances by row: a corpus, or anything that reads like one."""

    @property
    def ids(self) -> list[str]:
        """Ids of all utterances."""
        ...

    @property
    def samples(self) -> np.ndarray:
        """Length of every utterance in samples at 16 kHz."""
        ...

    def read(self, i: int, /) -> np.ndarray:
        """Return the waveform of utterance ``i``, float32 [T] with full scale 1; AudioError if it cannot be read."""
        ...


def group_rows(corpus: Recordings, rows: Iterable[int], seconds: float) -> list[list[int]]:
    """Split rows, shortest first, into groups whose padded audio stays within ``seconds`` (or is one utterance)."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (int(corpus.samples[row]), corpus.ids[row])):
        padded = (len(groups[-1]) + 1) * int(corpus.samples[row]) if groups else 0
        if not groups or padded > seconds * SAMPLE_RATE:
            groups.append([])
        groups[-1].append(row)
    return groups


def read_ahead(
    corpus: Recordings, groups: Sequence[list[int]], threads: int, work: Callable[[Read], Result]
) -> Iterator[Result]:
    """Yield ``work(group as read)`` for each group, in order; reading and work run in ``threads`` threads.

    At most two groups a thread are held at a time.
    """

    def run(group: list[int]) -> Result:
        return work([(corpus.ids[row], _read(corpus, row)) for row in group])

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for group in groups:
            waiting.append(pool.submit(run, group))
            if len(waiting) >= 2 * max(1, threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(corpus: Recordings, row: int) -> np.ndarray | AudioError:
    try:
        return corpus.read(row)
    except AudioError as error:
        return error
