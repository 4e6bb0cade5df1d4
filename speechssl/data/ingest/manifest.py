"""The manifest: ``manifest.jsonl``, a line for each utterance (manifests/README.md explains the fields).

In: any folder of audio, through ``build_manifest``; or a manifest file. Out: manifest, ledger, summary; utterances.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from speechssl.config import ManifestConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.files import atomic_file, write_json
from speechssl.core.ledger import Entry, Ledger
from speechssl.data.audio.decode import AudioLimits
from speechssl.data.audio.pauses import resolve_segmenter
from speechssl.data.ingest.folder import list_files
from speechssl.data.ingest.gather import Gathered, drop_duplicates, gather
from speechssl.data.ingest.layouts import canonical_split
from speechssl.data.ingest.scan import Scan, ScanSettings, scan_files
from speechssl.data.ingest.splits import Candidate, assign_splits
from speechssl.data.ingest.transcripts import Said, find_transcripts
from speechssl.data.ingest.utterance import Utterance, from_row, safe_id, to_row

__all__ = ["Known", "ManifestSummary", "Utterance", "build_manifest", "read_manifest", "safe_id", "write_manifest"]

_FEWEST_FILES = 20
"""Fewest audio files for which the share of bad ones is checked."""


class Known(Protocol):
    """Facts from the source of a corpus: the recordings to use, the ledger, whether its splits are official."""

    said: dict[str, list[Said]]
    entries: list[Entry]
    official: bool


@dataclass(frozen=True)
class ManifestSummary:
    """The result of reading a folder; ``summary.json`` holds the same."""

    utterances: int
    hours: float
    labelled_hours: float
    rejected: dict[str, int]
    """Ledger entries by reason, most frequent first."""
    splits: dict[str, dict[str, float]]
    """For each split: utterances, hours, labelled_utterances, labelled_hours, speakers."""
    split_rule: str
    files: int = 0
    """Files that are audio, or have an audio extension."""
    speakers: int = 0
    dropped_pause_hours: float = 0.0
    """Long pauses of long recordings, left out between segments."""
    segmenter: str = "energy"

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"{self.utterances:,} utterances, {self.hours:.2f} h ({self.labelled_hours:.2f} h transcribed) "
            f"from {self.files:,} audio files, {self.speakers} known speakers"
        ]
        for name, split in self.splits.items():
            lines.append(
                f"  {name}: {split['utterances']:,} utterances, {split['hours']:.2f} h; "
                f"transcribed {split['labelled_utterances']:,}, {split['labelled_hours']:.2f} h"
            )
        lines.append(f"  splits: {self.split_rule}")
        if self.rejected:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items())
            lines.append(f"  in the ledger: {reasons}")
        return "\n".join(lines)


def read_manifest(path: Path) -> list[Utterance]:
    """Return the utterances of a manifest, in its order.

    Raises DataError with the line number when it cannot be read, a line is not an utterance, or an id comes twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path}: {error}; make it with `speechssl manifest FOLDER`") from error
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            utterance = from_row(json.loads(line))
        except ValueError as error:
            hint = "" if utterances else "; if it is of another tool, make ours: `speechssl manifest FOLDER OUTPUT`"
            raise DataError(f"manifest {path}, line {number}: {error}{hint}") from error
        if utterance.id in seen:
            raise DataError(f"manifest {path}, line {number}: id {utterance.id!r} is also in line {seen[utterance.id]}")
        seen[utterance.id] = number
        utterances.append(utterance)
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest so that it is either whole or not there; equal utterances give equal bytes."""
    with atomic_file(Path(path)) as file:
        file.writelines(f"{json.dumps(to_row(utterance), ensure_ascii=False)}\n".encode() for utterance in utterances)


def build_manifest(
    folder: Path,
    output: Path,
    cfg: ManifestConfig,
    progress: Callable[[int, int], None] | None = None,
    *,
    source: Callable[[Path, list[str]], Known] | None = None,
) -> ManifestSummary:
    """Turn any folder of audio into ``manifest.jsonl``, ``ledger.jsonl`` and ``summary.json`` in ``output``.

    The same folder gives the same bytes, whatever the number of workers. ``manifest.jsonl`` is written last: when it is
    there, it is complete.

    Parameters
    ----------
    folder
        Any layout, any formats; transcripts and splits are found where there are any.
    output
        A folder of its own.
    cfg
        Limits and fractions.
    progress
        Called with (files read, files).
    source
        Chooses the recordings from the names of all files, and gives their transcripts; None: both are found
        automatically.

    Raises
    ------
    DataError
        The folder is missing, holds no usable audio, or more than ``cfg.max_bad_fraction`` of its audio is unusable.
    ConfigError
        The segmenter asked for is not installed.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder that holds audio files")
    if output.resolve() == folder.resolve():
        raise DataError(f"{output}: the manifest needs a folder of its own, not the folder of the audio")
    try:
        segmenter = resolve_segmenter(cfg.segmenter)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    root = folder.resolve()
    for name in ("manifest.jsonl", "summary.json"):
        (output / name).unlink(missing_ok=True)
    ledger = Ledger(output / "ledger.jsonl", fresh=True)

    files, entries = list_files(root, skip=output, follow_links=cfg.follow_links)
    ledger.extend(entries)
    known = None if source is None else source(root, files)
    if known is not None:
        files = [name for name in files if name in known.said]
        ledger.extend(known.entries)
    settings = ScanSettings(cfg.min_seconds, cfg.max_seconds, segmenter, AudioLimits(max_seconds=cfg.max_file_seconds))
    scans = [
        replace(scan, path=name)
        for name, scan in zip(
            files, scan_files([root / name for name in files], settings, cfg.workers, progress), strict=True
        )
    ]
    audio = [scan for scan in scans if scan.is_audio]
    ledger.extend(Entry("manifest", scan.path, scan.reason, scan.detail) for scan in audio if scan.reason)
    _stop_if_too_bad(folder, audio, cfg, ledger)

    if known is None:
        durations = {scan.path: scan.info.duration if scan.info else None for scan in audio}
        said, entries = find_transcripts(root, [scan.path for scan in scans if not scan.is_audio], durations)
        ledger.extend(entries)
    else:
        said = known.said
    usable, entries = drop_duplicates(
        [scan for scan in audio if scan.info], said, official=known is not None and known.official
    )
    ledger.extend(entries)
    gathered = gather(
        usable, said, min_seconds=cfg.min_seconds, max_seconds=cfg.max_seconds, long_transcripts=cfg.long_transcripts
    )
    ledger.extend(gathered.entries)
    if not gathered.utterances:
        raise DataError(
            f"{folder}: no usable audio ({_counts(ledger)}); {output / 'ledger.jsonl'} says why for each file"
        )

    utterances, rule = _divide(gathered, cfg)
    inside = root.is_relative_to(output.resolve())
    prefix = Path(os.path.relpath(root, output.resolve())) if inside else root
    utterances = [replace(u, path=(prefix / u.path).as_posix()) for u in utterances]
    summary = _summarise(
        utterances, rule, ledger, files=len(audio), pauses=gathered.dropped_seconds, segmenter=segmenter
    )
    write_json(output / "summary.json", asdict(summary), indent=2)
    write_manifest(output / "manifest.jsonl", utterances)
    return summary


def _stop_if_too_bad(folder: Path, audio: Sequence[Scan], cfg: ManifestConfig, ledger: Ledger) -> None:
    short = sum(scan.info is not None and scan.info.duration < cfg.min_seconds for scan in audio)
    bad = sum(scan.info is None for scan in audio) + short
    if len(audio) >= _FEWEST_FILES and bad > cfg.max_bad_fraction * len(audio):
        reasons = Counter(scan.reason for scan in audio if scan.reason) + Counter({"too_short": short})
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise DataError(
            f"{folder}: {bad} of {len(audio)} audio files are unusable ({counts}), more than max_bad_fraction = "
            f"{cfg.max_bad_fraction:g}; {ledger.path} names each; repair or remove them, or raise max_bad_fraction"
        )


def _counts(ledger: Ledger) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in ledger.counts().items()) or "no audio files at all"


def _divide(gathered: Gathered, cfg: ManifestConfig) -> tuple[list[Utterance], str]:
    """Give each utterance its split; the source's own name for it stays in ``meta`` where it differs."""
    candidates = [
        Candidate(u.id, u.duration, u.text is not None, u.speaker, canonical_split(u.split), group)
        for u, group in zip(gathered.utterances, gathered.groups, strict=True)
    ]
    splits, rule = assign_splits(candidates, dev_fraction=cfg.dev_fraction, test_fraction=cfg.test_fraction)
    divided = []
    for utterance, split in zip(gathered.utterances, splits, strict=True):
        meta: dict[str, Any] = dict(utterance.meta)
        if utterance.split and utterance.split != split:
            meta["source_split"] = utterance.split
        divided.append(replace(utterance, split=split, meta=meta))
    return divided, rule


def _summarise(
    utterances: Sequence[Utterance], rule: str, ledger: Ledger, *, files: int, pauses: float, segmenter: str
) -> ManifestSummary:
    by_split: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_split[utterance.split or "train"].append(utterance)
    splits: dict[str, dict[str, float]] = {}
    for name, members in sorted(by_split.items()):
        labelled = [u for u in members if u.text is not None]
        splits[name] = {
            "utterances": len(members),
            "hours": _hours(members),
            "labelled_utterances": len(labelled),
            "labelled_hours": _hours(labelled),
            "speakers": len({u.speaker for u in members if u.speaker}),
        }
    return ManifestSummary(
        utterances=len(utterances),
        hours=_hours(utterances),
        labelled_hours=_hours(u for u in utterances if u.text is not None),
        rejected=ledger.counts(),
        splits=splits,
        split_rule=rule,
        files=files,
        speakers=len({u.speaker for u in utterances if u.speaker}),
        dropped_pause_hours=round(pauses / 3600, 6),
        segmenter=segmenter,
    )


def _hours(utterances: Iterable[Utterance]) -> float:
    return round(sum(u.duration for u in utterances) / 3600, 6)
