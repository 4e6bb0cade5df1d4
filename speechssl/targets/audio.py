"""Utterances for unit discovery: grouped by length, read ahead by threads, one bounded group at a time.

In: rows of a corpus. Out: lists of (id, waveform or the AudioError that reading it raised).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.store.reader import Corpus

__all__ = ["Read", "group_rows", "read_ahead"]

Read = list[tuple[str, np.ndarray | AudioError]]
"""A group of utterances as read."""
Result = TypeVar("Result")


def group_rows(corpus: Corpus, rows: Iterable[int], seconds: float) -> list[list[int]]:
    """Split rows, shortest first, into groups whose padded audio stays within ``seconds`` (or is one utterance)."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (int(corpus.samples[row]), corpus.ids[row])):
        padded = (len(groups[-1]) + 1) * int(corpus.samples[row]) if groups else 0
        if not groups or padded > seconds * SAMPLE_RATE:
            groups.append([])
        groups[-1].append(row)
    return groups


def read_ahead(
    corpus: Corpus, groups: Sequence[list[int]], threads: int, work: Callable[[Read], Result]
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


def _read(corpus: Corpus, row: int) -> np.ndarray | AudioError:
    try:
        return corpus.read(row)
    except AudioError as error:
        return error
