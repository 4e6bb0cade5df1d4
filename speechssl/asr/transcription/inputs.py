"""The recordings to transcribe, from files and folders, each with a distinct name for its results.

In: paths from the command line. Out: one ``Input`` per recording, in a fixed order, and ledger entries for skipped
files. A folder gives every file below it that is audio by its content or its extension.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from speechssl.core.errors import AudioError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.audio.decode import AudioFile, AudioLimits
from speechssl.data.audio.formats import AUDIO_EXTENSIONS, HEAD_BYTES, sniff
from speechssl.data.ingest.folder import list_files

__all__ = ["Input", "find_inputs", "seconds_of"]


@dataclass(frozen=True)
class Input:
    """One recording."""

    path: Path
    name: str
    """Where its results go, relative, with ``/`` and without the format's suffix; no two inputs share one."""


def find_inputs(paths: Sequence[Path], *, output: Path | None = None) -> tuple[list[Input], list[Entry]]:
    """Return the recordings that paths name; a file given twice counts once, and ``output``, a folder, is left out.

    A single folder's results are laid out like the folder itself; of several arguments, each folder's are in a folder
    of its name. Results have the recording's name without its extension, or with it where two would be the same.

    Raises DataError when a folder holds no audio at all.
    """
    found: list[Input] = []
    entries: list[Entry] = []
    prefixes: Counter[str] = Counter()
    for path in paths:
        if not path.is_dir():
            found.append(Input(path, path.name))  # errors of a file are reported when it is read
            continue
        files, passed = list_files(path, skip=output or Path("/nonexistent"), follow_links=True)
        entries += [Entry("transcribe", str(path / e.item), e.reason, e.detail, e.action) for e in passed]
        audio = [name for name in files if _is_audio(path / name)]
        if not audio:
            unused = sum(entry.reason in ("broken_link", "link_not_followed") for entry in passed)
            links = f", {unused} symbolic links that lead nowhere or back" if unused else ""
            raise DataError(f"{path}: no audio below this folder ({len(files)} other files{links})")
        prefix = ""
        if len(paths) > 1:
            base = path.resolve().name or "root"
            prefixes[base] += 1
            prefix = (base if prefixes[base] == 1 else f"{base}-{prefixes[base]}") + "/"
        found += [Input(path / name, prefix + name) for name in audio]
    once = {item.path.resolve(): item for item in reversed(found)}
    return _named([item for item in found if once[item.path.resolve()] is item]), entries


def _is_audio(path: Path) -> bool:
    if path.suffix.lower() in AUDIO_EXTENSIONS:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False


def _named(items: Sequence[Input]) -> list[Input]:
    """Give each input a distinct name, also on file systems that ignore case."""
    numbered: list[Input] = []
    used: set[str] = set()
    for item in items:
        name, count = item.name, 1
        while name.casefold() in used:  # the same name from another folder
            count += 1
            parts = PurePosixPath(item.name)
            name = str(parts.with_name(f"{parts.stem}-{count}{parts.suffix}"))
        used.add(name.casefold())
        numbered.append(replace(item, name=name))
    short = [str(PurePosixPath(item.name).with_suffix("")) for item in numbered]
    wanted = Counter(name.casefold() for name in short)
    taken = {item.name.casefold() for item in numbered}
    return [
        item if wanted[name.casefold()] > 1 or name.casefold() in taken else replace(item, name=name)
        for item, name in zip(numbered, short, strict=True)
    ]


def seconds_of(path: Path) -> float:
    """Return a recording's length from its header; 0 when the header cannot be read or does not give it."""
    try:
        with AudioFile(path, str(path), AudioLimits()) as audio:
            return max(0.0, audio.info.duration)
    except AudioError:
        return 0.0
