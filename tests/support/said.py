"""A corpus of names: texts on disk, recordings only in a list; what is said of them, and the ledger."""

from pathlib import Path

from speechssl.data.ingest.transcripts import Said, find_transcripts

__all__ = ["said_in", "texts_in"]


def said_in(
    root: Path, files: dict[str, str | bytes], recordings: list[str] | dict[str, float | None]
) -> tuple[dict[str, list[Said]], list[tuple[str, str]]]:
    """Write texts below ``root`` and return what is said of the recordings, and (item, reason) of the ledger."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    durations = recordings if isinstance(recordings, dict) else dict.fromkeys(recordings, 2.0)
    said, entries = find_transcripts(root, files, durations)
    return said, [(entry.item, entry.reason) for entry in entries]


def texts_in(
    root: Path, files: dict[str, str | bytes], recordings: list[str] | dict[str, float | None]
) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    """Return the text of each recording that a table or sidecar speaks of, and (item, reason) of the ledger."""
    said, ledger = said_in(root, files, recordings)
    return {path: parts[0].text for path, parts in said.items()}, ledger
