"""Transcripts and speakers of recordings: finds the transcripts of a corpus and matches them with its recordings.

In: the paths of a corpus and the lengths of its recordings. Out: for each recording its transcript and speaker
(``Said``), and ledger entries for rows without a recording, recordings with two transcripts, and sidecars that are not
transcripts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.core.ledger import Entry
from speechssl.data.ingest.finder import AudioIndex, nfc, stem_of
from speechssl.data.ingest.layouts import canonical_split
from speechssl.data.ingest.leftovers import leftovers
from speechssl.data.ingest.rows import Row, clean_text
from speechssl.data.ingest.tables import TABLE_SUFFIXES, Table, parse_table, read_text
from speechssl.data.ingest.toolkits import read_toolkits

__all__ = ["Said", "find_transcripts"]

_RANK = {"kaldi": 0, "fairseq": 0, "jsonl": 0, "stm": 0, "columns": 1, "sphinx": 2, "list": 2, "sidecar": 3}
_SIDECAR_SUFFIXES = (".normalized.txt", ".original.txt", ".txt", ".lab", ".trn")
_SPLIT_CAUTION = {"test": 0, "dev": 1}
"""When tables disagree on a split, the one that keeps the recording out of training wins."""
_SAME_LENGTH = 0.15
_SHOWN = 60
_MOST_LATIN = 2**26


@dataclass(frozen=True)
class Said:
    """Transcript, speaker and split of a recording, or of a part of it."""

    span: tuple[float, float | None] | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    id: str | None = None
    group: str = ""
    """The table row or sidecar of the text: copies of one recording share it, and therefore share a split."""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Claim:
    rank: int
    source: str
    row: Row


def find_transcripts(
    root: Path, texts: Iterable[str], durations: Mapping[str, float | None]
) -> tuple[dict[str, list[Said]], list[Entry]]:
    """Read every transcript of a corpus: ``texts``, its files that are not audio, relative to ``root``, with ``/``.

    ``durations`` has the seconds of each recording by relative path; None for an unusable one. Each recording with a
    transcript or speaker comes back once for the whole, or once for each part that a table names; and ledger entries.
    """
    index = AudioIndex(durations)
    names = sorted(texts)
    toolkits = read_toolkits(names, lambda name: read_text(root / name))
    used, entries = set(toolkits.used), toolkits.entries
    claims: dict[str, list[_Claim]] = defaultdict(list)
    for joined in toolkits.tables:
        entries += _claim_rows(joined, index, durations, claims) or []
    for name in (name for name in names if name not in toolkits.used):
        owners = _sidecar_of(name, index)
        if PurePosixPath(name).suffix.lower() not in TABLE_SUFFIXES and not owners:
            continue

        def known(key: str, name: str = name) -> bool:
            return bool(index.find(key, name))

        try:
            text = read_text(root / name)
        except (OSError, ValueError) as error:
            if owners or isinstance(error, OSError) or _promises_table(root / name, name, known):
                entries.append(Entry("manifest", name, "unreadable_text", str(error)))
                used.add(name)
            continue
        table, bad = (None, []) if owners and not name.lower().endswith(".trn") else parse_table(name, text, known)
        claimed = None if table is None else _claim_rows(table, index, durations, claims)
        if claimed is None and owners:
            bad, claimed = [], _claim_sidecar(name, text, owners, claims)
        if claimed is not None:
            used.add(name)
            entries += bad + claimed
        elif bad and not owners:
            used.add(name)
            entries += bad
    entries += leftovers(name for name in names if name not in used)
    said = {path: _merge(path, claims[path], entries) for path in sorted(claims)}
    return said, entries


def _promises_table(path: Path, name: str, known: Callable[[str], bool]) -> bool:
    """Whether a file that is not in Unicode is a table of recordings, by its name or by its lines in Latin-1."""
    if path.suffix.lower() in (".jsonl", ".csv", ".tsv") or ".trans" in name:
        return True
    data = path.read_bytes() if path.stat().st_size <= _MOST_LATIN else b"\0"
    return b"\0" not in data and parse_table(name, data.decode("latin-1"), known)[0] is not None


def _sidecar_of(name: str, index: AudioIndex) -> list[str]:
    """Return the recordings whose sidecar a text file is, beside them or in a parallel folder (``txt/p225/x.txt``)."""
    lowered = name.lower()
    suffix = next((s for s in _SIDECAR_SUFFIXES if lowered.endswith(s)), "")
    if not suffix or lowered.endswith(".trans.txt"):
        return []
    path = PurePosixPath(name)
    stem = path.name[: -len(suffix)]
    found = [p for p in index.find(stem, name) if nfc(stem) in _names(p)]
    beside = [p for p in found if PurePosixPath(p).parent == path.parent]
    if beside:
        return beside
    folders = [part.lower() for part in path.parts[:-1]]
    parallel = {"txt", "text", "texts", "transcript", "transcripts", "transcription", "transcriptions", "lab", "labels"}
    return found if len(found) == 1 and parallel & set(folders) else []


def _names(path: str) -> tuple[str, str]:
    """Return the names that a sidecar of a recording may have: ``x.wav`` (for ``x.wav.txt``) and ``x``."""
    name = nfc(PurePosixPath(path).name)
    return name, stem_of(name)


def _claim_sidecar(name: str, text: str, owners: list[str], claims: dict[str, list[_Claim]]) -> list[Entry]:
    lines = [line for line in text.split("\n") if line.strip()]
    if any("://" in line or "www." in line for line in lines):
        detail = "it holds a web address: a description, not a transcript"
        return [Entry("manifest", name, "not_a_transcript", detail, "dropped")]
    if name.lower().endswith(".trn"):  # THCHS-30: words, then syllables and phones
        lines = lines[:1]
    if len(lines) == 1 and re.fullmatch(r"\S*/\S*\.\w{2,4}", lines[0].strip()):
        return [Entry("manifest", name, "not_a_transcript", "the path of another file", "dropped")]
    if len(lines) > 1 and all(re.match(r"^\d+(\.\d+)?\s+\d+(\.\d+)?\s", line) for line in lines):
        return [Entry("manifest", name, "not_a_transcript", "time-aligned labels, not words", "dropped")]
    words = clean_text(re.sub(r"^\d+ \d+ ", "", " ".join(lines)))  # TIMIT: first and last sample, then the words
    first, _, others = words.partition(" ")
    if others and first in _names(owners[0]) and len(first) > 3 and any(c.isdigit() for c in first):
        words = others  # the recording's own name, then the words
    if not words:
        return [Entry("manifest", name, "empty_transcript", "an empty sidecar is no transcript: unlabelled", "dropped")]
    for owner in owners:
        claims[owner].append(_Claim(_RANK["sidecar"], name, Row(name, 1, words)))
    return []


def _claim_rows(
    table: Table, index: AudioIndex, durations: Mapping[str, float | None], claims: dict[str, list[_Claim]]
) -> list[Entry] | None:
    """Assign the rows of a table to their recordings; None when it is not a table of this corpus."""
    found = [(row, index.find(row.key, table.path)) for row in table.rows]
    matched = sum(bool(paths) for _, paths in found)
    if not table.certain and matched < max(1, min(20, len(found) // 2)):
        return None
    entries = []
    several = [[durations[p] or 0.0 for p in paths] for _, paths in found if len(paths) > 1]
    copies = all(max(lengths) - min(lengths) <= _SAME_LENGTH * max(lengths) for lengths in several)
    main = "" if copies else _main_folder(found)
    for row, paths in found:
        item = f"{table.path}:{row.line}"
        mine = paths if copies or len(paths) < 2 else [p for p in paths if _folder(p) == main]
        if not paths:
            entries.append(Entry("manifest", item, "missing_audio", f"no recording in the folder is named {row.key!r}"))
        elif not mine:
            detail = f"{row.key!r} could be {paths[0]} or {paths[1]}; write the path, or put the table beside its audio"
            entries.append(Entry("manifest", item, "ambiguous_row", detail))
        elif len(mine) < len(paths):
            other = next(p for p in paths if p not in mine)
            detail = f"{mine[0]} gets it, because its folder has all of this table; {other} is used unlabelled"
            entries.append(Entry("manifest", item, "ambiguous_row", detail, "repaired"))
        for path in paths if mine else []:  # record that the others are copies of it, so that they share its split
            known = row if path in mine else Row(row.key, row.line, speaker=row.speaker, split=row.split)
            claims[path].append(_Claim(_RANK[table.kind], table.path, known))
    return entries


def _main_folder(found: list[tuple[Row, list[str]]]) -> str:
    """Return the one folder that has a recording for every row of a table (whose keys differ), or nothing."""
    if len({row.key for row, _ in found}) < len(found):
        return ""
    counts = Counter(folder for _, paths in found for folder in {_folder(p) for p in paths})
    ranked = counts.most_common(2)
    alone = len(ranked) < 2 or ranked[0][1] > ranked[1][1]
    return ranked[0][0] if alone and ranked[0][1] == sum(bool(paths) for _, paths in found) else ""


def _folder(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _merge(path: str, claims: list[_Claim], entries: list[Entry]) -> list[Said]:
    """Merge what several tables say of one recording; the better kind of table wins; a contradiction is listed."""
    claims.sort(key=lambda claim: (claim.rank, claim.source, claim.row.line))
    by_span: dict[tuple[float, float | None] | None, list[_Claim]] = defaultdict(list)
    for claim in claims:
        by_span[claim.row.span].append(claim)
    whole = by_span.pop(None, [])
    if not by_span:
        return [_join(path, whole, entries)]
    general = _join(path, [_Claim(c.rank, c.source, replace(c.row, text=None)) for c in whole], entries)
    parts = [
        _join(path, by_span[span], entries) for span in sorted(by_span, key=lambda s: (s[0], s[1] or 0.0) if s else ())
    ]
    if texts := [claim for claim in whole if claim.row.text]:
        detail = f"{texts[0].source} has a text for the whole, another table for its parts; the parts are used"
        entries.append(Entry("manifest", path, "conflicting_transcripts", detail, "dropped"))
    return [replace(p, speaker=p.speaker or general.speaker, split=p.split or general.split) for p in parts]


def _join(path: str, claims: list[_Claim], entries: list[Entry]) -> Said:
    texts = [claim for claim in claims if claim.row.text is not None]
    if texts and (other := next((c for c in texts[1:] if _letters(c.row.text) != _letters(texts[0].row.text)), None)):
        said = [f"{c.source}:{c.row.line} {_shown(c.row.text)}" for c in (texts[0], other)]
        detail = f"{said[0]} is used, {said[1]} is not"
        entries.append(Entry("manifest", path, "conflicting_transcripts", detail, "dropped"))
    splits = list(dict.fromkeys(claim.row.split for claim in claims if claim.row.split))
    if len(splits) > 1:
        splits = sorted(splits, key=lambda name: _SPLIT_CAUTION.get(canonical_split(name) or "", 2))
        detail = f"tables say {' and '.join(sorted(splits))}; {splits[0]} is used"
        entries.append(Entry("manifest", path, "conflicting_splits", detail, "repaired"))
    rows = [claim.row for claim in claims]
    meta: dict[str, Any] = {}
    for row in reversed(rows):
        meta |= row.meta
    group = texts[0] if texts else claims[0] if claims else None
    return Said(
        span=rows[0].span if rows else None,
        text=texts[0].row.text if texts else None,
        speaker=next((row.speaker for row in rows if row.speaker), None),
        language=next((row.language for row in rows if row.language), None),
        split=splits[0] if splits else None,
        id=next((row.id for row in rows if row.id), None),
        group=f"{group.source}:{group.row.line}" if group else "",
        meta=meta,
    )


def _shown(text: str | None) -> str:
    return repr(text if text is None or len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _letters(text: str | None) -> str:
    """Return the letters, marks and digits of a text without case, to compare spellings of the same words."""
    return "".join(c for c in (text or "").casefold() if c.isalnum() or unicodedata.category(c)[0] == "M")
