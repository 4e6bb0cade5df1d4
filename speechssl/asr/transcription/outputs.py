"""The output folder of transcripts: one file per recording and format, and a journal from which a job resumes.

In: transcripts as they are made. Out: files laid out like the input, each whole or not there; ``transcripts.jsonl``
with one line per recording; ``ledger.jsonl`` with what could not be transcribed. A recording whose file and settings
are those of the journal is not recognised again; only its files are updated.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.asr.transcription.inputs import Input
from speechssl.asr.transcription.transcript import Transcript, from_row, to_row
from speechssl.asr.transcription.wordfiles import SUFFIXES, render
from speechssl.config import CaptionConfig
from speechssl.core.files import atomic_file, exclusive, write_atomic
from speechssl.core.ledger import Entry, Ledger

__all__ = ["Outputs", "open_outputs"]

JOURNAL = "transcripts.jsonl"


class Outputs:
    """An output folder; made by :func:`open_outputs`.

    Attributes
    ----------
    ledger
        What could not be transcribed in this job.
    """

    def __init__(
        self, folder: Path, *, stage: str, formats: Sequence[str], captions: CaptionConfig, key: Mapping[str, Any]
    ) -> None:
        self.folder, self.stage, self.formats, self.captions = folder, stage, formats, captions
        self.key = json.dumps(key, sort_keys=True)
        self.ledger = Ledger(folder / "ledger.jsonl", fresh=True)
        self._journal = folder / JOURNAL
        self._places = _index(self._journal)

    def known(self, item: Input, *, of: str = "") -> Transcript | None:
        """Return what an earlier job made of the same file (and ``of`` the same part or text) and settings, or None."""
        place = self._places.get(item.name)
        if place is None:
            return None
        with self._journal.open("rb") as file:
            file.seek(place)
            row = json.loads(file.readline())
        same = row.get("key") == self.key and row.get("source") == _source(item.path) and row.get("of", "") == of
        return from_row(row) if same else None

    def write(self, item: Input, transcript: Transcript, *, known: bool = False, of: str = "") -> None:
        """Write a recording's files, then (unless it is ``known``) its line in the journal; or its ledger entry."""
        if transcript.error is not None:
            self.ledger.add(Entry(self.stage, str(item.path), transcript.error.reason, transcript.error.detail))
            self._remove(item)
            return
        for kind in self.formats:
            if kind == "jsonl":
                continue  # the journal itself
            target = self.folder / (item.name + SUFFIXES[kind])
            data = render(transcript, kind, name=item.name, cfg=self.captions).encode()
            if not (known and target.is_file() and target.read_bytes() == data):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, data)
        if not known:
            row = {**to_row(transcript), "name": item.name, "key": self.key, "source": _source(item.path)}
            if of:
                row["of"] = of
            with self._journal.open("ab") as file:
                self._places[item.name] = file.tell()
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())

    def _remove(self, item: Input) -> None:
        """Delete the outputs of an earlier version of a file: outputs must belong to the present version."""
        if self._places.pop(item.name, None) is None:
            return
        for suffix in SUFFIXES.values():
            (self.folder / (item.name + suffix)).unlink(missing_ok=True)

    def close(self) -> None:
        """Rewrite the journal with one line per recording."""
        if self._journal.exists() and len(self._places) < _count_lines(self._journal):
            with self._journal.open("rb") as old, atomic_file(self._journal) as new:
                for place in sorted(self._places.values()):
                    old.seek(place)
                    new.write(old.readline())
        else:
            self._journal.touch()


@contextmanager
def open_outputs(
    folder: Path, *, stage: str, formats: Sequence[str], captions: CaptionConfig, key: Mapping[str, Any]
) -> Iterator[Outputs]:
    """Open a folder for the results of one job; a second job there at the same time is refused (DataError).

    The ledger names ``stage`` (transcribe or align); ``formats`` are of ``wordfiles.SUFFIXES``. ``key`` holds, as JSON
    values, all that a transcript depends on beside the audio: model, settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock"):
        outputs = Outputs(folder, stage=stage, formats=formats, captions=captions, key=key)
        try:
            yield outputs
        finally:
            outputs.close()


def _source(path: Path) -> dict[str, Any] | None:
    """Return values that differ for a changed file: its path, size and modification time."""
    try:
        status = path.stat()
    except OSError:
        return None
    return {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _index(journal: Path) -> dict[str, int]:
    """Return where each recording's last line begins; a torn or foreign end (a crash while writing) is cut off."""
    places: dict[str, int] = {}
    if not journal.exists():
        return places
    good = 0
    with journal.open("r+b") as file:
        for line in file:
            name = _name(line)
            if name is None:
                break
            places[name] = good
            good += len(line)
        file.truncate(good)
    return places


def _name(line: bytes) -> str | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
        from_row(row)
        return str(row["name"])
    except (ValueError, KeyError, TypeError):
        return None


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
