"""What there is to audit: the utterances of a manifest of any make, or of a folder of audio.

In: a manifest (ours, or JSON lines with other names of fields) or a folder. Out: utterances, and findings for rows
that are none. Unlike ``read_manifest`` it goes on after a bad row; unlike ``build_manifest`` it decodes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechssl.config.audit import AuditConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.data.audio.decode import AudioFile, AudioLimits
from speechssl.data.audio.formats import AUDIO_EXTENSIONS, HEAD_BYTES, sniff
from speechssl.data.audio.limits import AudioInfo
from speechssl.data.audit.checks import UNUSABLE, Finding
from speechssl.data.ingest.folder import list_files
from speechssl.data.ingest.gather import gather
from speechssl.data.ingest.layouts import canonical_split
from speechssl.data.ingest.rows import FIELDS, row_from_fields
from speechssl.data.ingest.scan import Scan
from speechssl.data.ingest.transcripts import find_transcripts
from speechssl.data.ingest.utterance import Utterance, from_row, safe_id

__all__ = ["Inventory", "read_inventory"]

_UNKNOWN = 0
"""Rate and channels of a row that does not say."""


@dataclass
class Inventory:
    """Utterances to look at."""

    source: str
    root: Path
    """Paths of utterances are relative to this."""
    utterances: list[Utterance] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    claimed: bool = True
    """Whether durations and rates are claims of a manifest, and no measurements of ours."""

    def path(self, utterance: Utterance) -> Path:
        """Return where the utterance's file is."""
        return self.root / utterance.path


def read_inventory(source: Path, cfg: AuditConfig, limits: AudioLimits) -> Inventory:
    """Return what is to be audited; DataError when nothing is there, or it holds neither utterances nor audio."""
    source = Path(source)
    if source.is_dir():
        own = source / "manifest.jsonl"
        if own.is_file() and (source / "summary.json").is_file():
            return _manifest(own)
        return _folder(source, cfg, limits)
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder; give a manifest.jsonl or a folder of audio")
    return _manifest(source)


def _manifest(path: Path) -> Inventory:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path}: {error}; give JSON lines in UTF-8, or the folder of the audio") from error
    result = Inventory(path.name, path.parent)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            utterance = _utterance(json.loads(line), number)
        except ValueError as error:
            result.findings.append(Finding("bad_row", f"line {number}", path.name, None, None, str(error)))
            continue
        if utterance.id in seen:
            detail = f"line {number} has the id of line {seen[utterance.id]}"
            result.findings.append(Finding("duplicate_id", utterance.id, utterance.path, number, None, detail))
            utterance = replace(utterance, id=safe_id(f"{utterance.id[:100]}-line{number}"))
        seen.setdefault(utterance.id, number)
        result.utterances.append(utterance)
    if not result.utterances:
        first = f"; {result.findings[0].item}: {result.findings[0].detail}" if result.findings else ""
        raise DataError(f"manifest {path}: no line is an utterance{first}")
    return result


def _utterance(row: object, number: int) -> Utterance:
    """Return the utterance of a row of ours, or of a row that names its fields otherwise."""
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    if "sample_rate" in row and "path" in row and "channels" in row:
        return from_row(row)
    if not any(str(name).lower().strip() in FIELDS["audio"] for name in row):
        raise ValueError(f"no field names the audio file ({', '.join(FIELDS['audio'][:4])} ...)")
    said = row_from_fields(row, number, None, empty_is_text=True)
    start, length = said.span or (0.0, None)
    claimed = row.get("duration") if length is None else length
    seconds = float(claimed) if isinstance(claimed, int | float) and not isinstance(claimed, bool) else 0.0
    if seconds < 0 or (said.span is not None and not seconds):
        raise ValueError(f"duration must be a positive number of seconds, not {claimed!r}")
    return Utterance(
        id=safe_id(said.id or str(Path(said.key).with_suffix(""))),
        path=said.key,
        duration=seconds,
        sample_rate=_UNKNOWN,
        channels=_UNKNOWN,
        start=start,
        text=said.text,
        speaker=said.speaker,
        language=said.language,
        split=canonical_split(said.split),
        meta=said.meta,
    )


def _folder(root: Path, cfg: AuditConfig, limits: AudioLimits) -> Inventory:
    """List a folder's audio by its headers; transcripts and splits are found as ``manifest`` finds them."""
    root = root.resolve()
    files, passed = list_files(root, skip=Path(cfg.output or "audit"), follow_links=True)
    result = Inventory(root.name, root, claimed=False)
    scans = [_header(root, name, limits) for name in files]
    audio = [scan for scan in scans if scan.is_audio]
    if not audio:
        raise DataError(f"{root}: no audio files; give a folder that holds some, or a manifest")
    result.findings += [
        unusable(entry.item, entry.item, entry.reason, entry.detail)
        for entry in passed
        if entry.reason in ("broken_link", "unreadable", "unreadable_folder")
    ]
    result.findings += [unusable(scan.path, scan.path, scan.reason, scan.detail) for scan in audio if scan.reason]
    durations = {scan.path: scan.info.duration if scan.info else None for scan in audio}
    said, _ = find_transcripts(root, [scan.path for scan in scans if not scan.is_audio], durations)
    usable = [scan for scan in audio if scan.info is not None]
    gathered = gather(usable, said, min_seconds=0.0, max_seconds=float("inf"))
    result.utterances = gathered.utterances
    result.findings += [
        Finding("out_of_range", entry.item, entry.item, None, None, entry.detail)
        for entry in gathered.entries
        if entry.reason == "out_of_range"
    ]
    return result


def _header(root: Path, name: str, limits: AudioLimits) -> Scan:
    path = root / name
    promised = path.suffix.lower() in AUDIO_EXTENSIONS
    try:
        with path.open("rb") as file:
            if sniff(file.read(HEAD_BYTES)) is None and not promised:
                return Scan(name)
        with AudioFile(path, name, limits) as audio:
            info = audio.info
            if info.frames < 0:  # only decoding tells how long it is
                frames = sum(len(block) for block in audio.blocks())
                info = AudioInfo(info.format, info.sample_rate, info.channels, frames, frames / info.sample_rate)
        return Scan(name, info)
    except AudioError as error:
        return Scan(name, reason=error.reason, detail=error.detail)
    except OSError as error:
        return Scan(name, reason="unreadable", detail=str(error)) if promised else Scan(name)


def unusable(item: str, path: str, reason: str, detail: str) -> Finding:
    """Return the finding for audio that cannot be decoded."""
    if reason in UNUSABLE:
        return Finding(reason, item, path, None, None, detail)
    return Finding("unusable", item, path, reason, None, detail)


def whole_files(utterances: list[Utterance]) -> Iterator[bool]:
    """Say for each utterance whether it is its whole file: the only one of it, from its start."""
    spans: dict[str, set[tuple[float, float]]] = {}
    for u in utterances:
        spans.setdefault(u.path, set()).add((u.start, u.duration))
    return (u.start == 0 and len(spans[u.path]) == 1 for u in utterances)
