"""Reads tables that toolkits write as several files: Kaldi (ESPnet) data folders, fairseq manifests with labels.

In: the names of a corpus' texts and a reader. Out: one table for each folder or manifest, the files that it was made
from, and ledger entries for lines that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from speechssl.core.ledger import Entry
from speechssl.data.ingest.layouts import split_of
from speechssl.data.ingest.rows import Row, clean_text
from speechssl.data.ingest.tables import Table, split_of_table

__all__ = ["Toolkits", "read_toolkits"]

_KALDI = ("wav.scp", "segments", "utt2spk")
_KALDI_OTHERS = re.compile(r"text|(utt|spk|reco|rec)2\w+|(feats|cmvn|vad)\.scp")
"""Files of a Kaldi folder that are no transcripts by themselves, ESPnet's ``utt2num_samples`` among them."""
_LABELS = (".wrd", ".ltr")
Read = Callable[[str], str]


@dataclass
class Toolkits:
    """The tables found."""

    tables: list[Table] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Files that were read, which no other reader may interpret."""
    entries: list[Entry] = field(default_factory=list)

    def note(self, item: str, reason: str, detail: str, action: str = "rejected") -> None:
        """Add a ledger entry."""
        self.entries.append(Entry("manifest", item, reason, detail, action))


def read_toolkits(names: Collection[str], read: Read) -> Toolkits:
    """Return the tables of every Kaldi folder and fairseq manifest among ``names``, files that are not audio.

    ``read`` returns the text of one, or raises ValueError or OSError: other readers may then try it.
    """
    result = Toolkits()
    present = set(names)
    folders = sorted({str(PurePosixPath(name).parent) for name in present if PurePosixPath(name).name in _KALDI})
    for folder in folders:
        _kaldi(folder, present, read, result)
    for name in sorted(present):
        if name.lower().endswith(".tsv"):
            _fairseq(name, present, read, result)
    return result


def _lines(name: str, read: Read) -> list[tuple[int, str, str]]:
    """Return (line number, first word, the rest) of a file; nothing for a file that is missing or not text."""
    try:
        lines = read(name).split("\n")
    except (OSError, ValueError):
        return []
    split = ((number, *line.strip().partition(" ")) for number, line in enumerate(_untabbed(lines), 1))
    return [(number, key, rest.strip()) for number, key, _, rest in split if key]


def _untabbed(lines: Sequence[str]) -> list[str]:
    return [line.replace("\t", " ") for line in lines]


def _kaldi(folder: str, present: Collection[str], read: Read, result: Toolkits) -> None:
    """Join wav.scp, segments, text and utt2spk of one folder."""
    prefix = "" if folder == "." else folder + "/"
    files = {name: prefix + name for name in _KALDI if prefix + name in present}
    here = (PurePosixPath(name) for name in present if name.startswith(prefix))
    files |= {p.name: str(p) for p in here if str(p.parent) == folder and _KALDI_OTHERS.fullmatch(p.name)}
    tables = {name: _lines(path, read) for name, path in files.items() if name in (*_KALDI, "text", "spk2utt")}
    words: dict[str, tuple[int, str]] = {}
    for number, key, rest in tables.get("text", []):
        if key in words and clean_text(rest) != clean_text(words[key][1]):
            detail = f"line {words[key][0]} has another text for {key!r} and is used: {words[key][1]!r}, not {rest!r}"
            result.note(f"{prefix}text:{number}", "conflicting_transcripts", detail, "dropped")
        words.setdefault(key, (number, rest))
    speakers = {key: rest for _, key, rest in tables.get("utt2spk", [])}
    if not speakers:
        speakers = {key: speaker for _, speaker, rest in tables.get("spk2utt", []) for key in rest.split()}
    if all(key == speaker for key, speaker in speakers.items()):  # Kaldi's convention for unknown speakers
        speakers = {}
    recordings = _recordings(f"{prefix}wav.scp", tables.get("wav.scp", []), result)
    rows = _segmented(prefix, tables.get("segments", []), recordings, result)
    source = f"{prefix}segments" if rows else f"{prefix}wav.scp"
    if not rows and "segments" not in tables:
        rows = [Row(path, number, id=key) for key, (number, path) in recordings.items() if path]
    if not rows and "wav.scp" not in tables:  # keys are then names of recordings
        source, rows = f"{prefix}utt2spk", [Row(key, number, id=key) for number, key, _ in tables.get("utt2spk", [])]
    split = split_of(f"{prefix}x")
    known = {row.id for row in rows} | {key for key, (_, path) in recordings.items() if not path}
    for key, (number, rest) in words.items():
        if key not in known and "wav.scp" in tables:
            where = "segments" if "segments" in tables else "wav.scp"
            result.note(f"{prefix}text:{number}", "missing_audio", f"{key!r} is not in {where}: {rest[:60]!r}")
        elif key in recordings and not recordings[key][1]:
            result.note(f"{prefix}text:{number}", "piped_audio", f"its recording is no file: {rest[:60]!r}", "dropped")
    result.used |= set(files.values())
    said = [_with_words(row, words, speakers, split) for row in rows]
    if said:
        result.tables.append(Table(source, "kaldi", tuple(said), certain=True))


def _with_words(row: Row, words: dict[str, tuple[int, str]], speakers: dict[str, str], split: str | None) -> Row:
    assert row.id is not None
    text = clean_text(words[row.id][1]) or None if row.id in words else None
    return Row(row.key, row.line, text, speakers.get(row.id), split=split, id=row.id, span=row.span)


def _recordings(name: str, lines: Sequence[tuple[int, str, str]], result: Toolkits) -> dict[str, tuple[int, str]]:
    """Return (line, path) by recording; the path is empty where the samples come from a command or an archive."""
    recordings: dict[str, tuple[int, str]] = {}
    for number, key, path in lines:
        if path.endswith("|"):
            detail = f"{key!r} comes from a command, and no command is run: {path[:120]}; convert it to a file"
            result.note(f"{name}:{number}", "piped_audio", detail)
            path = ""
        elif path.startswith(("ark:", "scp:")) or ".ark:" in path or not path:
            result.note(f"{name}:{number}", "bad_row", f"{key!r} names no audio file: {path[:120]!r}")
            path = ""
        if key in recordings:
            detail = f"{key!r} is also in line {recordings[key][0]} ({recordings[key][1]}), which is used, not {path}"
            result.note(f"{name}:{number}", "bad_row", detail)
        recordings.setdefault(key, (number, path))
    return recordings


def _segmented(
    prefix: str, lines: Sequence[tuple[int, str, str]], recordings: dict[str, tuple[int, str]], result: Toolkits
) -> list[Row]:
    """Return a row for each line of ``segments``: utterance, recording, start, end (-1: the end of the recording)."""
    rows = []
    for number, key, rest in lines:
        item = f"{prefix}segments:{number}"
        parts = rest.split()
        try:
            start, end = float(parts[1]), float(parts[2])
            if not 0 <= start < 1e7 or not (end == -1 or start < end < 1e7):
                raise ValueError
        except (ValueError, IndexError):
            result.note(item, "bad_row", f"not utterance, recording, start, end: {rest[:80]!r}")
            continue
        _, path = recordings.get(parts[0], (0, "" if recordings else parts[0]))
        if path:
            rows.append(Row(path, number, id=key, span=(start, None if end == -1 else end - start)))
        elif parts[0] in recordings:
            result.note(item, "piped_audio", f"its recording {parts[0]!r} is no file", "dropped")
        else:
            result.note(item, "missing_audio", f"its recording {parts[0]!r} is not in wav.scp")
    return rows


def _fairseq(name: str, present: Collection[str], read: Read, result: Toolkits) -> None:
    """Read a root line and ``path TAB frames`` lines, with the words of NAME.wrd or the letters of NAME.ltr."""
    try:
        lines = [(number, line) for number, line in enumerate(read(name).split("\n"), 1) if line.strip()]
    except (OSError, ValueError):
        return
    if len(lines) < 2 or "\t" in lines[0][1].strip():
        return
    cells = [line.split("\t") for _, line in lines[1:]]
    if not all(len(values) == 2 and values[1].strip().isdigit() for values in cells):
        return
    root = lines[0][1].strip().rstrip("/")
    texts: list[str | None] = [None] * len(cells)
    for suffix in _LABELS:
        labels = name[: -len(".tsv")] + suffix
        if labels not in present:
            continue
        result.used.add(labels)
        said = _label_lines(labels, read)
        if len(said) != len(cells):
            detail = f"{len(said)} lines for the {len(cells)} recordings of {name}: they cannot be assigned"
            result.note(labels, "label_mismatch", detail)
        elif not any(texts):
            texts = [_letters_joined(line) if suffix == ".ltr" else clean_text(line) for line in said]
    split = split_of_table(name)
    rows = (
        Row(f"{root}/{values[0].strip()}", number, text, split=split)
        for (number, _), values, text in zip(lines[1:], cells, texts, strict=True)
    )
    result.used.add(name)
    result.tables.append(Table(name, "fairseq", tuple(rows), certain=True))


def _label_lines(name: str, read: Read) -> list[str]:
    try:
        return read(name).removesuffix("\n").split("\n")
    except (OSError, ValueError):
        return []


def _letters_joined(line: str) -> str:
    """Return the words of ``H E | S A I D |``."""
    return clean_text("".join(line.split()).replace("|", " "))
