"""Which utterances a plan uses, by their length and transcript, and what is said of those it leaves out.

In: limits, and the lengths of a corpus by shards. Out: who is kept; counts and ledger entries of who is not.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.store.catalogue import spans
from speechssl.data.store.index import IndexRow
from speechssl.data.store.reader import Corpus

__all__ = ["Selection"]

LISTED_SHARDS = 1_000
"""Indexes that may be read only to name what is left out."""


@dataclass(frozen=True)
class Selection:
    """Limits of a stage."""

    stage: str
    shortest: float
    """Seconds."""
    longest: float | None
    """Seconds; None for no limit."""
    labelled: np.ndarray | None = None
    """bool, for each row of the corpus; None when a transcript is not needed."""
    without: np.ndarray | None = None
    """int64, increasing: rows of sufficient length that are kept for something else; they are not said to be left
    out."""

    def kept(self, lengths: np.ndarray, start: int) -> np.ndarray:
        """Return who is used of the rows from ``start`` on, bool, as long as ``lengths`` (samples)."""
        kept = lengths >= round(self.shortest * SAMPLE_RATE)
        if self.longest is not None:
            kept &= lengths <= round(self.longest * SAMPLE_RATE)
        if self.labelled is not None:
            kept &= self.labelled[start : start + len(lengths)]
        if self.without is not None:
            first, last = np.searchsorted(self.without, [start, start + len(lengths)])
            kept[self.without[first:last] - start] = False
        return kept

    def reasons(self, lengths: np.ndarray, kept: np.ndarray) -> dict[str, int]:
        """Return how many of the utterances that are not kept are so for each reason."""
        if kept.all():
            return {}
        parts = self._parts(lengths, kept)
        return {reason: count for reason, mask in parts.items() if (count := int(mask.sum()))}

    def entries(self, corpus: Corpus) -> list[Entry]:
        """Return an entry for each utterance left out: first those of a wrong length, then those without a transcript.

        To name one its index must be read. Where indexes are read as they are needed and more than ``LISTED_SHARDS``
        of them hold such utterances, there is one entry for each reason instead, with their number.
        """
        if (summary := self._summary(corpus)) is not None:
            return summary
        found: list[tuple[bool, int, str]] = []
        for first, last in spans(corpus.first_rows):
            start, lengths = int(corpus.first_rows[first]), corpus.lengths(first, last)
            for reason, mask in self._parts(lengths, self.kept(lengths, start)).items():
                found += [(reason == "no_transcript", start + int(i), reason) for i in np.flatnonzero(mask)]
        return [self._entry(corpus.row(number), reason) for _, number, reason in sorted(found)]

    def _entry(self, row: IndexRow, reason: str) -> Entry:
        limit = self._limit(reason)
        detail = f"{row.samples / SAMPLE_RATE:.2f} s{limit}" if limit else ""
        return Entry(self.stage, row.id, reason, detail, "dropped")

    def _limit(self, reason: str) -> str:
        limit = {"too_short": self.shortest, "too_long": self.longest}.get(reason)
        return "" if limit is None else f", the limit is {limit:g} s"

    def _parts(self, lengths: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is left out for each reason, bool; no utterance has two reasons."""
        short = lengths < round(self.shortest * SAMPLE_RATE)
        long = np.zeros_like(short) if self.longest is None else lengths > round(self.longest * SAMPLE_RATE)
        silent = np.zeros_like(short) if self.labelled is None else ~(short | long | kept)
        return {"too_short": short, "too_long": long & ~short, "no_transcript": silent}

    def _summary(self, corpus: Corpus) -> list[Entry] | None:
        """Return an entry for each reason, where one for each utterance would need too many indexes."""
        if not corpus.lazy:
            return None
        counts: Counter[str] = Counter()
        shards = 0
        for first, last in spans(corpus.first_rows):
            start, lengths = int(corpus.first_rows[first]), corpus.lengths(first, last)
            kept = self.kept(lengths, start)
            counts.update(self.reasons(lengths, kept))
            rows = start + np.flatnonzero(~kept)
            shards += len(np.unique(np.searchsorted(corpus.first_rows, rows, side="right")))
        if shards <= LISTED_SHARDS:
            return None
        details = {reason: f"{count:,} utterances{self._limit(reason)}" for reason, count in counts.items()}
        return [Entry(self.stage, corpus.source.name, reason, text, "dropped") for reason, text in details.items()]
