"""Lists of utterance ids: text files with one id per line, for protocols that name their utterances."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.manifest import safe_id

__all__ = ["ABSENT", "absent_ids", "read_ids", "say_absent"]

ABSENT = "id_not_in_corpus"
"""Reason in the ledger of a listed id that no utterance has."""
_SHOWN = 3


def read_ids(paths: Sequence[str | Path]) -> set[str]:
    """Return the ids of all lists, in the form that manifests use (``safe_id``); blank and ``#`` lines are skipped.

    Raises DataError when a list cannot be read or is empty.
    """
    ids: set[str] = set()
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"id list {path}: {error}") from error
        found = {safe_id(line.strip()) for line in lines if line.strip() and not line.startswith("#")}
        if not found:
            raise DataError(f"id list {path}: no ids in it; expected one utterance id per line")
        ids |= found
    return ids


def absent_ids(paths: Sequence[str | Path], there: Iterable[str], *, stage: str, where: str) -> list[Entry]:
    """Return a ledger entry for each listed id that is not ``there``, among the utterances of ``where``.

    Without these entries the rate of half a test set would look like that of the whole set.

    Raises DataError as `read_ids`, and when none of the ids is there; the message has examples of both.
    """
    if not paths:
        return []
    wanted, known = read_ids(paths), set(there)
    absent = sorted(wanted - known)
    if len(absent) == len(wanted):
        example = f", whose ids are like {min(known)!r}" if known else ""
        raise DataError(
            f"none of the {len(wanted)} ids of {', '.join(map(str, paths))} (such as {absent[0]!r}) is in "
            f"{where}{example}; is it the list of another corpus?"
        )
    listed = ", ".join(map(str, paths))
    return [Entry(stage, name, ABSENT, f"listed in {listed}, not in {where}", "dropped") for name in absent]


def say_absent(entries: Iterable[Entry]) -> str:
    """Return a warning with the number of listed ids that are missing and examples; empty if none is."""
    names = [entry.item for entry in entries if entry.reason == ABSENT]
    if not names:
        return ""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"warning: {len(names)} listed ids are not in the corpus: {shown}"
