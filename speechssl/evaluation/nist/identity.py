"""Matches ids that differ in case, in a path before the name, or in the suffix of an audio file.

In: the ids of a reference and of a system. Out: the reference's id of each id of the system. Equal ids come first.
Another spelling counts only if it is unique on both sides. NIST sclite ignores case in ids, too.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import PurePosixPath
from typing import TypeVar

from speechssl.data.audio.formats import AUDIO_EXTENSIONS

__all__ = ["channel_keys", "match_ids", "same_name"]

Id = TypeVar("Id", bound=Hashable)
_CHANNELS = {"1": "a", "2": "b"}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _bare(name: str) -> str:
    """Return a name without folders, without the suffix of an audio file, without case."""
    path = PurePosixPath(_folded(name).replace("\\", "/"))
    return path.stem if path.suffix in AUDIO_EXTENSIONS else path.name


same_name: tuple[Callable[[str], str], ...] = (_folded, _bare)
"""Forms of an id, the strictest first."""

channel_keys: tuple[Callable[[tuple[str, str]], Hashable], ...] = (
    lambda channel: (_folded(channel[0]), channel[1].casefold()),
    lambda channel: (_bare(channel[0]), channel[1].casefold()),
    lambda channel: (_bare(channel[0]), _CHANNELS.get(channel[1], channel[1].casefold())),
)
"""Forms of a (file, channel) of stm and ctm, the strictest first; channel 1 is A, and 2 is B."""


def match_ids(reference: Iterable[Id], other: Iterable[Id], keys: Iterable[Callable[[Id], Hashable]]) -> dict[Id, Id]:
    """Return the reference's id of each other id that is not among them but has a form of its own in common."""
    known, others = dict.fromkeys(reference), dict.fromkeys(other)
    taken = {id_ for id_ in others if id_ in known}
    rest = [id_ for id_ in others if id_ not in known]
    found: dict[Id, Id] = {}
    for key in keys:
        forms, mine = Counter(map(key, known)), Counter(map(key, rest))
        free = {key(id_): id_ for id_ in known if id_ not in taken and forms[key(id_)] == 1}
        new = {id_: free[key(id_)] for id_ in rest if mine[key(id_)] == 1 and key(id_) in free}
        found |= new
        taken |= set(new.values())
        rest = [id_ for id_ in rest if id_ not in new]
    return found
