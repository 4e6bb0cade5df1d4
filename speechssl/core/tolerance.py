"""The limit on bad items, past which a stage stops instead of going on without its data.

In: one verdict per item, in order. Out: a DataError that names the counts by reason.
"""

from collections import Counter, deque
from collections.abc import Iterable

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry

__all__ = ["Tolerance", "TooManyBadError"]

WINDOW = 1_000
IN_A_ROW = 100


class TooManyBadError(DataError):
    """Too many items are bad; ``entries`` are those that never reached the caller, and are not in the ledger yet."""

    def __init__(self, message: str, entries: Iterable[Entry] = ()) -> None:
        super().__init__(message)
        self.entries = tuple(entries)


class Tolerance:
    """Stops when more than ``fraction`` of the last 1,000 items, or 100 items in a row, were bad; from 1 on, never.

    The message begins with ``what``: the stage and the place, such as ``shards in /data/shards``.
    """

    def __init__(self, fraction: float, *, what: str) -> None:
        self.fraction = fraction
        self.what = what
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._window: deque[bool] = deque(maxlen=WINDOW)
        self._bad_in_window = 0
        self._in_a_row = 0

    def good(self, count: int = 1) -> None:
        """Record ``count`` good items."""
        for _ in range(count):
            self._push(bad=False)

    def bad(self, reason: str) -> None:
        """Record a bad item; DataError when the limit is passed."""
        self.reasons[reason] += 1
        self._push(bad=True)
        if self.fraction >= 1:
            return
        if self._bad_in_window > max(1.0, self.fraction * WINDOW):
            self._stop(f"{self._bad_in_window} of the last {len(self._window)} utterances could not be read")
        if self._in_a_row >= IN_A_ROW:
            self._stop(f"{self._in_a_row} utterances in a row could not be read")

    def finish(self) -> None:
        """Close a stage: DataError when half of a small corpus, or all of any corpus, was bad."""
        bad = self.reasons.total()
        if bad and (bad == self.seen or (self.fraction < 1 and bad >= max(0.5, self.fraction) * self.seen)):
            self._stop(f"{bad} of {self.seen} utterances could not be read")

    def _push(self, *, bad: bool) -> None:
        if len(self._window) == WINDOW:
            self._bad_in_window -= self._window[0]
        self._window.append(bad)
        self._bad_in_window += bad
        self._in_a_row = self._in_a_row + 1 if bad else 0
        self.seen += 1

    def _stop(self, finding: str) -> None:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        raise TooManyBadError(
            f"{self.what}: {finding} ({reasons}). Each is listed in ledger.jsonl; "
            "repair the data, or raise max_bad_fraction if you accept the loss"
        )
