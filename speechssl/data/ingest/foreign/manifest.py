"""A manifest of any source of audio: a folder of files, or webdataset tars that others made.

In: a folder, a tar, or a pattern of tars. Out: what ``build_manifest`` makes. Audio of tars is unpacked into ``audio/``
beside the manifest, so that every rule for files holds for it, too: duplicates, splits, segments, limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.config import ManifestConfig
from speechssl.core.errors import DataError
from speechssl.core.files import sync_tree, write_unsynced
from speechssl.core.ledger import Entry
from speechssl.data.ingest.foreign.tars import file_name, find_tars, read_tars
from speechssl.data.ingest.manifest import ManifestSummary, build_manifest
from speechssl.data.ingest.transcripts import Said

__all__ = ["manifest_of"]


@dataclass
class _Known:
    said: dict[str, list[Said]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    official: bool = False


def manifest_of(
    location: str | Path,
    output: Path,
    cfg: ManifestConfig,
    progress: Callable[[int, int], None] | None = None,
) -> ManifestSummary:
    """Write the manifest of a folder of audio, or of webdataset tars; arguments and errors as in ``build_manifest``.

    Raises DataError also when a tar is missing or compressed, or when no tar holds audio.
    """
    tars = find_tars(location)
    if not tars:
        return build_manifest(Path(location), output, cfg, progress)
    audio = output / "audio"
    known = _unpack(tars, audio)
    if not known.said:
        reasons = ", ".join(sorted({entry.reason for entry in known.entries})) or "no members"
        raise DataError(f"{location}: no audio in {len(tars)} tars ({reasons})")
    return build_manifest(audio, output, cfg, progress, source=lambda root, files: known)  # noqa: ARG005


def _unpack(tars: list[Path], audio: Path) -> _Known:
    """Write the audio of every sample into a folder under its id; a file with the right size is kept."""
    samples, entries = read_tars([tar.absolute() for tar in tars])
    known = _Known(entries=entries)
    audio.mkdir(parents=True, exist_ok=True)
    names = {file_name(sample) for sample in samples}
    for path in audio.iterdir():
        if path.name not in names:
            path.unlink()  # from another set of tars; nothing else writes to this folder
    for sample in samples:
        path = audio / file_name(sample)
        member = sample.audio
        payload = member.read()
        if len(payload) < member.size:
            detail = "the tar ends inside this member"
            entries.append(Entry("manifest", f"{member.tar.name}/{member.name}", "truncated_shard", detail))
            path.unlink(missing_ok=True)
            continue
        if not (path.exists() and path.read_bytes() == payload):
            write_unsynced(path, payload)
        known.said[path.name] = [sample.said]
    sync_tree(audio)  # before the manifest, which names these files
    return known
