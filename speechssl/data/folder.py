"""Every file below a folder, in one fixed order.

In: a folder. Out: relative paths with ``/``, sorted, and ledger entries for what was not followed. Hidden files and
folders (a leading dot, ``__MACOSX``) are not part of a corpus, nor are outputs of this program that lie inside it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.data.formats import AUDIO_EXTENSIONS
from speechssl.data.ledger import Entry

__all__ = ["list_files"]

_HIDDEN = ("__MACOSX", "__pycache__")


def list_files(root: Path, *, skip: Path, follow_links: bool) -> tuple[list[str], list[Entry]]:
    """Return the regular files below ``root``, sorted by path.

    Parameters
    ----------
    root
        The corpus.
    skip
        A folder to leave out (our own output).
    follow_links
        Whether symbolic links count; a folder is never entered twice.
    """
    walk = _Walk(skip.resolve(), follow_links)
    walk.seen.add(_identity(root))
    files = sorted(walk.files(root, ""))
    return files, sorted(walk.entries, key=lambda entry: entry.item)


@dataclass
class _Walk:
    """One walk and what it has met."""

    skip: Path
    follow_links: bool
    seen: set[tuple[int, int]] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)

    def note(self, path: str, reason: str, detail: str, action: str = "rejected") -> None:
        self.entries.append(Entry("manifest", path, reason, detail, action))

    def files(self, folder: Path, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as scan:
                children = sorted(scan, key=lambda child: child.name)
        except OSError as error:
            self.note(prefix or ".", "unreadable_folder", str(error))
            return
        if prefix and {"ledger.jsonl", "summary.json"} <= {child.name for child in children}:
            self.note(prefix, "own_output", "made by this program: it is no corpus", "dropped")
            return
        for child in children:
            path = prefix + child.name
            audio = Path(child.name).suffix.lower() in AUDIO_EXTENSIONS
            if child.name.startswith(".") or child.name in _HIDDEN:
                continue
            if not _is_text(path):
                self.note(ascii(path), "undecodable_name", "the name is not UTF-8; rename the file")
            elif child.is_symlink() and not self.follow_links:
                if audio or child.is_dir():
                    self.note(path, "link_not_followed", "a symbolic link; set follow_links to use it", "dropped")
            elif child.is_dir():
                inner = Path(child.path)
                if _identity(inner) not in self.seen and inner.resolve() != self.skip:
                    self.seen.add(_identity(inner))
                    yield from self.files(inner, path + "/")
            elif _is_regular(child):
                yield path
            elif audio:
                self.note(path, "unreadable", "not a regular file, or a link to nothing")


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_regular(child: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(child.stat().st_mode)
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
