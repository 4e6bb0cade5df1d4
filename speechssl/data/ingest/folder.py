"""Every file below a folder, in one fixed order.

In: a folder. Out: relative paths with ``/``, sorted, and ledger entries for links that were not followed. Hidden files
and folders (a leading dot, ``__MACOSX``) are not part of a corpus, nor are outputs of this program that lie inside it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from speechssl.core.ledger import Entry
from speechssl.data.audio.formats import AUDIO_EXTENSIONS

__all__ = ["list_files"]

_HIDDEN = ("__MACOSX", "__pycache__")


def list_files(root: Path, *, skip: Path, follow_links: bool) -> tuple[list[str], list[Entry]]:
    """Return the regular files below ``root``, sorted by path, without those in the folder ``skip`` (our own output).

    A symbolic link to a file of the corpus gives that file the link's name, unless its own name says more: blobs of a
    Hugging Face cache, ``train/1.wav`` in a folder of links. Broken links are in the entries. ``follow_links``: links
    that lead out of the corpus count, too; a folder is never entered twice.
    """
    walk = _Walk(root.resolve(), skip.resolve(), follow_links)
    walk.seen.add(_identity(root))
    files = set(walk.files(root, ""))
    while walk.links:  # links come last, so that files keep their names; a linked folder may hold more links
        links, walk.links = walk.links, []
        for path, place in links:
            files |= walk.behind(path, place, files)
    return sorted(files - walk.renamed), sorted(walk.entries, key=lambda entry: entry.item)


@dataclass
class _Walk:
    """The state of one walk."""

    root: Path
    skip: Path
    follow_links: bool
    seen: set[tuple[int, int]] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    links: list[tuple[str, Path]] = field(default_factory=list)
    """(relative path, place) of symbolic links that were found and not followed yet."""
    renamed: set[str] = field(default_factory=set)
    """Files that are used under the name of a link."""

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
            self.note(prefix, "own_output", "made by this program: it is not a corpus", "dropped")
            return
        for child in children:
            path = prefix + child.name
            if child.name.startswith(".") or child.name in _HIDDEN:
                continue
            if not _is_text(path):
                self.note(ascii(path), "undecodable_name", "the name is not UTF-8; rename the file")
            elif child.is_symlink():
                self.links.append((path, Path(child.path)))
            elif child.is_dir():
                inner = Path(child.path)
                if _identity(inner) not in self.seen and inner.resolve() != self.skip:
                    self.seen.add(_identity(inner))
                    yield from self.files(inner, path + "/")
            elif _is_regular(child):
                yield path
            elif Path(child.name).suffix.lower() in AUDIO_EXTENSIONS:
                self.note(path, "unreadable", "not a regular file")

    def behind(self, path: str, place: Path, files: set[str]) -> set[str]:
        """Return the files that a link adds, under its name."""
        try:
            target = place.resolve(strict=True)
            status = target.stat()
        except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
            self.note(path, "broken_link", "a symbolic link that leads to nothing, or to itself", "dropped")
            return set()
        inside = target.is_relative_to(self.root) and not target.is_relative_to(self.skip)
        own = target.relative_to(self.root).as_posix() if inside else ""
        if not inside and not self.follow_links:
            detail = "a symbolic link out of this folder; --follow-links (follow_links = true) uses it"
            self.note(path, "link_not_followed", detail, "dropped")
        elif stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in self.seen and target != self.skip:
                self.seen.add((status.st_dev, status.st_ino))
                return set(self.files(place, path + "/"))
            self.note(path, "link_not_followed", f"a symbolic link to {own or target}, which is used itself", "dropped")
        elif stat.S_ISREG(status.st_mode):
            known = PurePosixPath(own)
            if own in files and known.suffix and known.name != PurePosixPath(path).name:
                self.note(path, "link_not_followed", f"a symbolic link to {own}, which is used itself", "dropped")
                return set()
            self.renamed |= {own} if own else set()
            return {path}
        else:
            self.note(path, "unreadable", "a symbolic link to something that is not a regular file")
        return set()


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
