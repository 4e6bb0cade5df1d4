"""Input and output of a corpus reader: the tree of files, and the metadata of each recording.

In: a folder and the names of its files. Out: a ``Reading`` (data/ingest/manifest.py makes utterances of it) with a
ledger of what is missing, and lists of utterance ids that the corpus publishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.core.ledger import Entry
from speechssl.data.audio.formats import AUDIO_EXTENSIONS
from speechssl.data.ingest.rows import clean_text
from speechssl.data.ingest.tables import read_text
from speechssl.data.ingest.transcripts import Said

__all__ = ["Reading", "Tree", "is_audio"]

LARGEST_TABLE = 2**33
"""Most bytes of a table with a header, which is read at once; tables of Common Voice exceed half a gigabyte."""


def is_audio(name: str) -> bool:
    """Return whether a name has an audio extension."""
    return PurePosixPath(name).suffix.lower() in AUDIO_EXTENSIONS


@dataclass(frozen=True)
class Tree:
    """The files below a folder; the folder's own name counts, so that it may be given at any depth of a corpus."""

    root: Path
    files: tuple[str, ...]
    """Relative, with ``/``, sorted."""
    subsets: frozenset[str]
    """Parts that are wanted."""

    def full(self, name: str) -> str:
        """Return a path that begins with the name of the folder."""
        return f"{self.root.name}/{name}"

    def match(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Yield files whose full path ends with ``pattern`` at a folder boundary, and their matches."""
        compiled = re.compile(rf"(?:^|/){pattern}$")
        for name in self.files:
            if found := compiled.search(self.full(name)):
                yield name, found


@dataclass
class Reading:
    """Metadata of the wanted recordings; other recordings are ignored."""

    language: str | None = None
    official: bool = True
    said: dict[str, list[Said]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    """Parts of which files were found; an empty name where the folder does not name the part."""
    lists: dict[str, list[str]] = field(default_factory=dict)
    """Published lists: name -> utterance ids."""

    def note(self, item: str, reason: str, detail: str, action: str = "rejected") -> None:
        """Add a ledger entry."""
        self.entries.append(Entry("manifest", item, reason, detail, action))

    def text(self, tree: Tree, name: str) -> str:
        """Return a text; one that cannot be read goes to the ledger."""
        try:
            return read_text(tree.root / name, LARGEST_TABLE)
        except (OSError, ValueError) as error:
            self.note(name, "unreadable_text", str(error))
            return ""

    def lines(self, tree: Tree, name: str) -> Iterator[tuple[int, str]]:
        """Yield the numbered lines of a UTF-8 text of any size that are not blank."""
        try:
            with (tree.root / name).open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, line.rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            self.note(name, "unreadable_text", str(error))

    def pairs(self, tree: Tree, name: str) -> dict[str, str]:
        """Return ``key words`` lines as a dictionary; a line without words goes to the ledger."""
        found: dict[str, str] = {}
        for number, line in self.lines(tree, name):
            key, *rest = line.split(None, 1)
            words = clean_text(rest[0]) if rest else ""
            if words:
                found[key] = words
            else:
                self.note(f"{name}:{number}", "bad_row", f"{key!r} has no transcript")
        return found

    def say(
        self,
        name: str,
        *,
        id: str | None = None,  # noqa: A002  (the manifest's word)
        text: str | None,
        speaker: str | None = None,
        split: str | None = None,
        language: str | None = None,
        span: tuple[float, float | None] | None = None,
        meta: dict[str, Any] | None = None,
        labelled: bool = True,
        subset: str | None = None,
        group: str = "",
    ) -> None:
        """Record the metadata of a recording, or of a part of it; a missing transcript is listed.

        Recordings of one ``group`` (the same utterance, recorded more than once) share a split.
        """
        if subset is not None:
            self.seen.add(subset)
        if text is None and labelled:
            self.note(name, "missing_transcript", "no transcript in the corpus: used unlabelled", "dropped")
        known = Said(
            span, text, speaker, language or self.language, split, id, group=group or id or name,
            meta={key: value for key, value in (meta or {}).items() if value not in (None, "")},
        )  # fmt: skip
        self.said.setdefault(name, []).append(known)

    def absent(self, item: str, key: str) -> None:
        """List a row whose recording is missing."""
        self.note(item, "missing_audio", f"no recording {key!r} in the folder")

    def count(self, subset: str, found: int, published: int | None) -> None:
        """List a part that is incomplete."""
        if published is not None and found < published:
            detail = f"{found:,} of the {published:,} utterances that the corpus has"
            self.note(subset, "incomplete_subset", detail, "dropped")
