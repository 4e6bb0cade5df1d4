"""Lists of utterance ids: text files with one id a line, for protocols that name their utterances."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.data.manifest import safe_id
from speechssl.errors import DataError

__all__ = ["read_ids"]


def read_ids(paths: Sequence[str | Path]) -> set[str]:
    """Return the ids of all lists, in the form that manifests use (``safe_id``); blank and ``#`` lines are skipped.

    Raises
    ------
    DataError
        A list cannot be read or is empty.
    """
    ids: set[str] = set()
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"id list {path}: {error}") from error
        found = {safe_id(line.strip()) for line in lines if line.strip() and not line.startswith("#")}
        if not found:
            raise DataError(f"id list {path}: no ids in it; expected one utterance id a line")
        ids |= found
    return ids
