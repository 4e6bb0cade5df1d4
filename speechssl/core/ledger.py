"""The ledger: one JSON line for each item that was rejected, repaired or dropped, and why.

In: entries as they happen. Out: ``ledger.jsonl`` beside a stage's output, and counts by reason.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Entry", "Ledger", "read_ledger"]


@dataclass(frozen=True)
class Entry:
    """One rejected or repaired item."""

    stage: str
    """manifest, shard, pretrain, finetune, evaluate, transcribe."""
    item: str
    """Utterance id or path."""
    reason: str
    """Machine-readable code in snake_case."""
    detail: str = ""
    action: str = "rejected"
    """rejected, repaired, dropped, or allowed (a change that the user let through)."""


class Ledger:
    """Collects entries and appends each to ``path`` at once (when given), so that a killed stage leaves its ledger."""

    def __init__(self, path: Path | None = None, *, fresh: bool = False) -> None:
        self.path = path
        self.entries: list[Entry] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if fresh:
                path.unlink(missing_ok=True)
            path.touch()

    def add(self, entry: Entry) -> None:
        """Record one entry."""
        self.extend([entry])

    def extend(self, entries: Iterable[Entry]) -> None:
        """Record several entries with one write."""
        new = list(entries)
        self.entries += new
        if self.path is not None and new:
            with self.path.open("ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # start a new line after an incomplete last one
                file.writelines(f"{json.dumps(asdict(entry), ensure_ascii=False)}\n".encode() for entry in new)

    def counts(self) -> dict[str, int]:
        """Return the number of entries by reason, most frequent first."""
        return dict(Counter(entry.reason for entry in self.entries).most_common())


def read_ledger(path: Path) -> list[Entry]:
    """Return the entries of a ledger file; an absent file is an empty ledger, a torn last line is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").split(
        "\n"
    ):  # splitlines() would also split at U+2028
        if not line:
            continue
        try:
            entries.append(Entry(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return entries
