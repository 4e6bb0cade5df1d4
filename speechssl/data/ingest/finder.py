"""Finds the recording that a key of a table names.

In: the paths of a corpus; a key from a table. Out: the paths that the key can name. A key is only ever compared with
paths that were scanned, so it cannot lead out of the corpus.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from speechssl.data.audio.formats import AUDIO_EXTENSIONS

__all__ = ["AudioIndex", "nfc", "stem_of"]


class AudioIndex:
    """Finds recordings by any key that a table may use: path, name, stem; an extension or case that changed."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = sorted(paths)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_folded: dict[str, list[str]] = defaultdict(list)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._folders: set[str] = set()
        for path in self._paths:
            name = nfc(PurePosixPath(path).name)
            for alias in {nfc(path), nfc(path).removesuffix(PurePosixPath(name).suffix)}:
                self._by_path[alias].append(path)
            for alias in {name, stem_of(name)}:
                self._by_name[alias].append(path)
            for alias in {name.casefold(), stem_of(name).casefold()}:
                self._by_folded[alias].append(path)
            self._folders.update(str(parent) for parent in PurePosixPath(path).parents)

    def scope(self, table: str) -> str:
        """Return the nearest folder above a table that holds recordings, itself or below; ``.`` is the root."""
        parents = (str(parent) for parent in PurePosixPath(table).parents)
        return next((parent for parent in parents if parent in self._folders), ".")

    def find(self, key: str, table: str) -> list[str]:
        """Return the recordings that a key in ``table`` can name; several when the key is ambiguous.

        A key never leaves the corpus: its path is only compared with the paths that were scanned.
        """
        found = self._find(key, table)
        return found if found or "%" not in key else self._find(unquote(key), table)

    def _find(self, key: str, table: str) -> list[str]:
        parts = [p for p in nfc(key).replace("\\", "/").split("/") if p not in ("", ".", "..")]
        if not parts:
            return []
        folder = str(PurePosixPath(table).parent)
        exact = self._by_path.get("/".join(parts) if folder == "." else "/".join([nfc(folder), *parts]))
        if exact:  # among names that differ only in Unicode normalisation, prefer the exact one
            return [path for path in exact if path.endswith(key)] or exact
        scope = self.scope(table)
        name = parts[-1]
        stem = stem_of(name) if PurePosixPath(name).suffix.lower() in AUDIO_EXTENSIONS else name
        aliases = [(self._by_name, name), (self._by_name, stem)]
        aliases += [(self._by_folded, name.casefold()), (self._by_folded, stem.casefold())]
        for names, alias in aliases:
            found = [p for p in names.get(alias, ()) if scope == "." or p.startswith(scope + "/")]
            if found:
                closeness = {p: (_shared_tail(p, parts), _shared_head(p, folder)) for p in found}
                best = max(closeness.values())
                return [p for p in found if closeness[p] == best]
        return []


def nfc(text: str) -> str:
    """Return text in NFC, so that names from different file systems compare."""
    return unicodedata.normalize("NFC", text)


def stem_of(name: str) -> str:
    """Return a file name without its last extension."""
    return PurePosixPath(name).stem


def _shared_tail(path: str, parts: list[str]) -> int:
    """Count the folders that a path and a key have in common, from the end, the file name left out."""
    ours = [nfc(part) for part in path.split("/")[:-1]][::-1]
    count = 0
    for one, other in zip(ours, parts[:-1][::-1], strict=False):
        if one != other:
            break
        count += 1
    return count


def _shared_head(path: str, folder: str) -> int:
    """Count the folders that a path and a table's folder have in common, from the root."""
    count = 0
    for one, other in zip(path.split("/")[:-1], folder.split("/"), strict=False):
        if one != other:
            break
        count += 1
    return count
