"""Samples of webdataset tars that other tools wrote: audio, its place in the tar, and its metadata.

In: a folder of tars, one tar, or a pattern with braces. Out: samples in the order of the tars, grouped by webdataset's
rule (a key ends at the first dot of the file name), and ledger entries for members without a sample. Only headers and
texts are read here; audio is not.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from speechssl.core.errors import DataError
from speechssl.core.ledger import Entry
from speechssl.data.audio.formats import AUDIO_EXTENSIONS
from speechssl.data.ingest.layouts import canonical_split, split_of
from speechssl.data.ingest.rows import FIELDS, clean_text, field_name, row_from_fields
from speechssl.data.ingest.tables import split_of_table
from speechssl.data.ingest.transcripts import Said
from speechssl.data.ingest.utterance import safe_id

__all__ = ["Member", "Sample", "file_name", "find_tars", "folder_of", "read_tars"]

LARGEST_TEXT = 1 << 20
"""Largest transcript or JSON member in bytes; a larger one is not a transcript."""
MOST_TARS = 100_000
"""Most tars that one pattern may name: more is a typing error, or an attempt to fill the memory."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?")
_ENDLESS = 10**18
_TEXTS = ("txt", "text", "transcript", "lab")
_OURS = {"path", "start", "end", *FIELDS["audio"], *FIELDS["start"], *FIELDS["end"], *FIELDS["duration"]}
"""JSON fields about the source of a sample, which are ignored: the sample's audio is a separate file, and is
measured."""


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    tar: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes; OSError when the tar cannot be read, fewer bytes when it was cut."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Sample:
    """One recording of a tar, with its metadata."""

    key: str
    """Webdataset's key: the path in the tar up to the first dot of the file name."""
    id: str
    """Valid and unique among all tars."""
    audio: Member
    said: Said


def find_tars(location: str | Path) -> list[Path]:
    """Return the tars that a location names, sorted; none for a folder without tars or a file that is not a tar.

    A location is a tar, a folder that holds tars and no other audio, or a pattern such as
    ``data/train-{000000..000099}.tar``.

    Raises DataError when a pattern names a tar that is not there, or more than ``MOST_TARS``, or a tar is compressed.
    """
    path = Path(location)
    if path.is_dir():
        files = sorted(child for child in path.rglob("*") if child.is_file() and not child.name.startswith("."))
        tars = [child for child in files if child.suffix.lower() == ".tar"]
        return [] if any(child.suffix.lower() in AUDIO_EXTENSIONS for child in files) else tars
    if not str(location).lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        return []
    from webdataset.shardlists import expand_urls

    if not path.is_file() and (count := _pattern_size(str(location))) > MOST_TARS:
        raise DataError(
            f"{location}: this pattern names up to {count:,} tars; give one that names at most {MOST_TARS:,}"
        )
    tars = [path] if path.is_file() else sorted(Path(name) for name in expand_urls(str(location)))
    for tar in tars:
        if not tar.is_file():
            raise DataError(f"{tar}: no such tar; check the numbers in {location}")
        if tar.suffix.lower() != ".tar":
            raise DataError(f"{tar}: compressed; tars are read with random access, so decompress it first")
    return tars


def _pattern_size(pattern: str) -> int:
    """Return how many names braces may expand to, at most, without expanding them."""
    size, found = 1, 1
    while found:
        for inside in _BRACES.findall(pattern):
            span = inside.count(",") + 1
            if ends := _RANGE.fullmatch(inside):
                span = abs(int(ends[1]) - int(ends[2])) + 1 if len(inside) < 40 else _ENDLESS
            size = min(size * span, _ENDLESS)
        pattern, found = _BRACES.subn("", pattern)
    return size


def folder_of(tars: Sequence[Path]) -> Path:
    """Return the folder that holds all of these tars, at any depth."""
    return Path(os.path.commonpath([tar.parent for tar in tars]))


def read_tars(tars: Sequence[Path]) -> tuple[list[Sample], list[Entry]]:
    """Return the samples of uncompressed tars, and an entry for each member, sample or tar that cannot be used.

    Ids are the keys; where a key comes in several tars, every id starts with the name of its tar. Entries and splits
    name tars from the folder that holds them all.
    """
    root = folder_of(tars)
    samples: list[Sample] = []
    entries: list[Entry] = []
    for tar in tars:
        samples += _read_tar(tar, tar.relative_to(root).as_posix(), entries)
    counts = Counter(safe_id(sample.key) for sample in samples)
    several = len(counts) < len(samples)
    taken: set[str] = set()
    unique = []
    for sample in samples:
        tar = sample.audio.tar
        name = safe_id(f"{tar.relative_to(root).with_suffix('')}-{sample.key}" if several else sample.key)
        if name in taken:
            name = safe_id(f"{name[:100]}-{sample.audio.offset}")
            detail = f"two keys give the same id; this one is {name}"
            entries.append(Entry("manifest", f"{tar.name}/{sample.key}", "duplicate_id", detail, "repaired"))
        taken.add(name)
        unique.append(replace(sample, id=name))
    return unique, entries


def _read_tar(tar: Path, name: str, entries: list[Entry]) -> Iterator[Sample]:
    from webdataset.tariterators import group_by_keys

    def note(item: str, reason: str, detail: str, action: str = "rejected") -> None:
        entries.append(Entry("manifest", f"{name}/{item}" if item else name, reason, detail, action))

    def twice(error: Exception) -> bool:
        note("", "duplicate_member", str(error.args[0]))
        return True

    try:
        with tar.open("rb") as file:
            members = list(_members(tar, file, note))
            files = [{"fname": member.name, "data": member, "__url__": name} for member in members]
            for group in group_by_keys(files, handler=twice):
                if (sample := _sample(group, name, file, note)) is not None:
                    yield sample
    except OSError as error:
        note("", "unreadable", str(error))


def _members(tar: Path, file: BinaryIO, note: Any) -> list[Member]:
    """Return the regular files of a tar, grouped by key, and list everything else."""
    from webdataset.tariterators import base_plus_ext

    found: list[Member] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if info.isreg() and base_plus_ext(info.name)[0] is not None:
                    found.append(Member(tar, info.name, info.offset_data, info.size))
                elif not info.isdir():
                    note(info.name, "no_key" if info.isreg() else "no_file", "not a file with a name and an extension")
    except (tarfile.TarError, EOFError, ValueError) as error:
        note("", "damaged_shard", f"unreadable after byte {end}: {error}")
    else:
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):  # tarfile ends without an error at a header that it cannot read
            note("", "damaged_shard", f"no tar header at byte {end}; what follows is not read")
    first: dict[str, int] = {}
    for number, member in enumerate(found):
        first.setdefault(base_plus_ext(member.name)[0], number)
    return sorted(found, key=lambda member: first[base_plus_ext(member.name)[0]])


def _sample(group: dict[str, Any], name: str, file: BinaryIO, note: Any) -> Sample | None:
    key = group["__key__"]
    by_kind: dict[str, Member] = {}
    for suffix, member in group.items():
        if isinstance(member, Member):
            by_kind.setdefault(suffix.rsplit(".", 1)[-1], member)
    audio = [member for kind, member in sorted(by_kind.items()) if f".{kind}" in AUDIO_EXTENSIONS]
    if not audio:
        note(key, "no_audio", f"none of its members ({', '.join(by_kind)}) is audio by its name")
        return None
    if len(audio) > 1:
        note(key, "several_recordings", f"{audio[0].name} is used", "repaired")

    def text_of(member: Member) -> str | None:
        file.seek(member.offset)
        if member.size > LARGEST_TEXT:
            note(member.name, "unreadable_text", f"{member.size:,} bytes", "repaired")
            return None
        try:
            return file.read(member.size).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            note(member.name, "unreadable_text", f"not UTF-8: {error}", "repaired")
            return None

    split = split_of_table(name) or split_of(name)
    said = Said(split=canonical_split(split))
    if "json" in by_kind and (text := text_of(by_kind["json"])) is not None:
        try:
            said = _said(json.loads(text), split)
        except (ValueError, RecursionError) as error:
            note(by_kind["json"].name, "bad_row", str(error), "repaired")
    written = next((by_kind[kind] for kind in _TEXTS if kind in by_kind), None)
    if written is not None and (text := text_of(written)) is not None:
        words = clean_text(text)
        if said.text not in (None, words):
            note(key, "two_transcripts", f"{written.name} is used; its JSON says {said.text!r}", "repaired")
        said = replace(said, text=words)
    said = replace(said, group=f"{name}/{key}", meta={**said.meta, "source_id": key})
    return Sample(key, "", audio[0], said)


def _said(fields: Any, split: str | None) -> Said:
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    own = {key: value for key, value in fields.items() if field_name(str(key)) not in _OURS}
    row = row_from_fields({**own, "audio": "sample"}, 1, split, empty_is_text=True)
    rest = {str(key): value for key, value in fields.items() if key not in own and value not in (None, "")}
    meta = {**rest, **row.meta, **({} if row.id is None else {"id": row.id})}
    return Said(text=row.text, speaker=row.speaker, language=row.language, split=canonical_split(row.split), meta=meta)


def file_name(sample: Sample) -> str:
    """Return a safe relative name for a sample's audio: its id and the extension in the tar."""
    return sample.id + PurePosixPath(sample.audio.name).suffix.lower()
