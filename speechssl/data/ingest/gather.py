"""Combines recordings and transcripts into utterances.

In: scans and transcripts by path. Out: utterances in the order of their paths, without splits, and ledger entries for
recordings that are too short, too long to keep their transcript, out of range, or duplicates.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from speechssl.core.ledger import Entry
from speechssl.data.ingest.layouts import speaker_of, split_of
from speechssl.data.ingest.scan import Scan
from speechssl.data.ingest.text.corpus_tags import only_tags
from speechssl.data.ingest.transcripts import Said
from speechssl.data.ingest.utterance import Utterance, safe_id

__all__ = ["Gathered", "drop_duplicates", "gather"]

_ROUNDING = 0.05
"""Seconds by which the end of a part may lie after the end of its file in a table."""


@dataclass
class Gathered:
    """Utterances (paths still relative to the corpus), the group of each, and ledger entries."""

    utterances: list[Utterance] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    dropped_seconds: float = 0.0
    """Long pauses between segments."""
    _ids: set[str] = field(default_factory=set)

    def note(self, item: str, reason: str, detail: str, action: str = "rejected") -> None:
        """Add a ledger entry."""
        self.entries.append(Entry("manifest", item, reason, detail, action))

    def add(self, raw_id: str, utterance: Utterance, group: str) -> None:
        """Add an utterance under a safe and unique form of ``raw_id``."""
        name = safe_id(raw_id)
        if name in self._ids:
            place = f"{utterance.path}@{utterance.start:.6f}"
            name = safe_id(f"{name[:100]}-{hashlib.blake2b(place.encode(), digest_size=6).hexdigest()}")
            self.note(utterance.path, "duplicate_id", f"{raw_id!r} is taken; this one is {name}", "repaired")
        self._ids.add(name)
        self.utterances.append(replace(utterance, id=name))
        self.groups.append(group)


def drop_duplicates(
    scans: Sequence[Scan], said: Mapping[str, list[Said]], *, official: bool = False
) -> tuple[list[Scan], list[Entry]]:
    """Keep one of each set of files with equal bytes: one with a transcript, else with a split, else the first path.

    Where splits are ``official``, dev and test keep all their files, as published; train keeps no copy of them.
    """
    same: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        same[scan.digest].append(scan)
    kept, entries = set(), []
    for copies in same.values():
        held = {scan.path for scan in copies if official and _held_out(said.get(scan.path, ()))}
        copies.sort(key=lambda scan: (scan.path not in held, *_worth(said.get(scan.path, ())), scan.path))
        kept |= {copies[0].path} | held
        first = _texts(said.get(copies[0].path, ()))
        for copy in copies[1:]:
            if copy.path in held:
                continue
            texts = _texts(said.get(copy.path, ()))
            differs = f", but its transcript differs: {_start(texts)}, not {_start(first)}" if texts != first else ""
            differs = differs if texts else ""
            entries.append(
                Entry("manifest", copy.path, "duplicate_audio", f"the same bytes as {copies[0].path}{differs}")
            )
    return [scan for scan in scans if scan.path in kept], sorted(entries, key=lambda entry: entry.item)


def _start(texts: Sequence[str]) -> str:
    return repr(" ".join(texts)[:60])


def _held_out(said: Sequence[Said]) -> bool:
    return any(part.split in ("dev", "test") for part in said)


def _worth(said: Sequence[Said]) -> tuple[bool, bool]:
    return all(part.text is None for part in said), all(part.split is None for part in said)


def _texts(said: Sequence[Said]) -> list[str]:
    return [part.text for part in said if part.text is not None]


def gather(
    scans: Sequence[Scan],
    said: Mapping[str, list[Said]],
    *,
    min_seconds: float,
    max_seconds: float,
    long_transcripts: bool = False,
) -> Gathered:
    """Return an utterance for each recording, each part that a table names, and each segment of a long recording.

    With ``long_transcripts`` a long recording with a transcript is one utterance.
    """
    result = Gathered()
    for scan in sorted(scans, key=lambda scan: scan.path):
        for known in said.get(scan.path) or [Said()]:
            longest = math.inf if long_transcripts and known.text and not only_tags(known.text) else max_seconds
            _add(result, scan, known, min_seconds, longest)
    return result


def _add(result: Gathered, scan: Scan, known: Said, min_seconds: float, max_seconds: float) -> None:
    assert scan.info is not None
    whole = scan.info.duration
    start, length = known.span or (0.0, None)
    length = whole - start if length is None else length
    item = scan.path if known.span is None else f"{scan.path}@{start:g}"
    if start >= whole or start + length > whole + _ROUNDING:
        detail = f"a table names {start:g} s to {start + length:g} s of a file of {whole:.3f} s"
        result.note(item, "out_of_range", detail)
        return
    length = min(length, whole - start)
    if length < min_seconds:
        result.note(item, "too_short", f"{length:.3f} s; the least is {min_seconds:g} s")
        return
    raw_id = known.id or str(PurePosixPath(scan.path).with_suffix("")) + ("" if known.span is None else f"-{start:.2f}")
    meta = dict(known.meta)
    if known.id is not None and safe_id(known.id) != known.id:
        meta["source_id"] = known.id
    if known.text is not None and only_tags(known.text):
        result.note(item, "only_tags", f"{known.text[:80]}: no word of what was spoken; used unlabelled", "repaired")
        meta["source_text"] = known.text
        known = replace(known, text=None)
    utterance = Utterance(
        id="",
        path=scan.path,
        duration=length,
        sample_rate=scan.info.sample_rate,
        channels=scan.info.channels,
        start=start,
        text=known.text,
        speaker=known.speaker or speaker_of(scan.path),
        language=known.language,
        split=known.split or split_of(scan.path),
        meta=meta,
    )
    group = known.group or scan.path
    if length <= max_seconds:
        result.add(raw_id, utterance, group)
        return
    if known.text is not None:
        detail = (
            f"{length:.1f} s; its segments are used unlabelled. --long-transcripts keeps it whole, and "
            "`speechssl align MANIFEST --format manifest` cuts it with its transcript"
        )
        result.note(item, "labelled_too_long", detail, "repaired")
    pieces = [(max(a, start), min(a + d, start + length)) for a, d in scan.pieces]
    pieces = [(a, b - a) for a, b in pieces if b - a >= min_seconds]
    result.dropped_seconds += length - sum(duration for _, duration in pieces)
    for number, (begin, duration) in enumerate(pieces):
        piece = replace(utterance, start=begin, duration=duration, text=None)
        result.add(f"{raw_id}-{number:04d}", piece, group)
    if not pieces:
        result.note(item, "silent", f"{length:.1f} s without anything but silence")
