"""Speaker and split of a recording, from its path alone, in the layouts of well-known corpora.

In: a path relative to the corpus. Out: a speaker or None, a split or None; the usual names of splits made one.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["canonical_split", "speaker_of", "split_of", "split_word"]

_SPEAKERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("LibriSpeech, LibriTTS, MLS", re.compile(r"(?:^|/)(?P<speaker>\d+)/(\d+)/(?P=speaker)[-_]\2[-_][^/]+$")),
    ("VCTK", re.compile(r"(?:^|/)(?P<speaker>[ps]\d{1,4})/(?P=speaker)_\d+[^/]*$")),
    ("AN4", re.compile(r"(?:^|/)(?P<speaker>[a-z]+\d?)/(?:an|cen)\d+-(?P=speaker)-[^/]+$")),
    ("TIMIT", re.compile(r"(?:^|/)dr[1-8]/(?P<speaker>[fm][a-z]{2}[a-z0-9]\d)/s[aix]\d+[^/]*$", re.IGNORECASE)),
    ("Free Spoken Digit Dataset", re.compile(r"(?:^|/)recordings/\d_(?P<speaker>[a-z]+)_\d+\.[^/]+$")),
)  # fmt: skip

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "dev": "dev", "devel": "dev", "development": "dev", "valid": "dev", "validation": "dev", "val": "dev",
    "test": "test", "testing": "test", "tst": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_SPLIT_FOLDER = re.compile(r"(train|dev|valid|validation|val|test)|(train|dev|test)[-_](clean|other)([-_].*)?")


def canonical_split(name: str | None) -> str | None:
    """Return train, dev or test for their usual names (``train-clean-100``, ``validation``), others as they are."""
    if not name:
        return None
    lowered = name.lower()
    return _SPLIT_NAMES.get(lowered) or _SPLIT_NAMES.get(re.split(r"[-_]", lowered)[0], name)


def split_word(word: str) -> bool:
    """Whether a word is a usual name of a split."""
    return word.lower() in _SPLIT_NAMES


def speaker_of(path: str) -> str | None:
    """Return the speaker that a corpus layout puts into the path, or None; lower case where the corpus writes both."""
    for name, pattern in _SPEAKERS:
        if match := pattern.search(path):
            return match["speaker"].lower() if name == "TIMIT" else match["speaker"]
    return None


def split_of(path: str) -> str | None:
    """Return the split of the deepest folder with the name of one (``test``, ``dev-clean``), or None."""
    for folder in reversed(PurePosixPath(path).parts[:-1]):
        if match := _SPLIT_FOLDER.fullmatch(folder.lower()):
            return canonical_split(match[1] or match[2])
    return None
