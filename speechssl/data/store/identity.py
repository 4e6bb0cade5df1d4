"""Which corpus a run was made from: 16 bytes an utterance, and what differs between two corpora.

In: the index of a corpus, and transcripts where they matter. Out: an `Identity`, its file, and counts of ids that are
gone, new or changed. It is made of ids, lengths, checksums and transcripts: shards that were moved, renamed or copied
are the same corpus.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from speechssl.core.arrays import load_arrays, save_arrays
from speechssl.data.store.reader import Corpus

__all__ = ["Difference", "Identity", "difference", "identity_of", "is_unchanged", "text_keys"]

KEPT_IDS = 4_096
"""Ids kept as text, to name some that are gone."""
EXAMPLES = 3
NAMES = {"keys", "contents", "order", "listing", "ids"}


@dataclass(frozen=True)
class Identity:
    """What tells a corpus from another."""

    keys: np.ndarray
    """[N] uint64, digests of the ids, increasing."""
    contents: np.ndarray
    """[N] uint64, of the same utterances: length, checksum of the stored audio, transcript."""
    order: str
    """Digest of the ids as the shards hold them: batches follow that order."""
    listing: str
    """Digest of the shards' own checksums; empty where it does not determine the rest."""
    ids: tuple[str, ...]
    """Some of the ids."""

    @property
    def digest(self) -> str:
        """One text for all of it."""
        digest = hashlib.blake2b(self.order.encode(), digest_size=16)
        digest.update(self.keys.tobytes() + self.contents.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the file."""
        text = {"order": self.order, "listing": self.listing, "ids": "\n".join(self.ids)}
        arrays = {name: np.frombuffer(value.encode(), dtype=np.uint8) for name, value in text.items()}
        save_arrays(path, keys=self.keys, contents=self.contents, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; DataError when it is missing or damaged."""
        arrays = load_arrays(path, NAMES)
        order, listing, ids = (arrays[name].tobytes().decode() for name in ("order", "listing", "ids"))
        return cls(arrays["keys"], arrays["contents"], order, listing, tuple(ids.split("\n")) if ids else ())


@dataclass(frozen=True)
class Difference:
    """How a corpus differs from the one before."""

    gone: int = 0
    new: int = 0
    changed: int = 0
    """Ids in both, with other audio or another transcript."""
    reordered: bool = False
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.gone or self.new or self.changed or self.reordered)

    def __str__(self) -> str:
        """Return the counts in words, with examples."""
        parts = []
        for name in ("gone", "new", "changed"):
            shown = ", ".join(self.examples.get(name, ()))
            parts.append(f"{getattr(self, name):,} ids {name}" + (f" ({shown})" if shown else ""))
        if self.reordered and not (self.gone or self.new or self.changed):
            return "the same utterances, divided into shards in another way: batches would be others"
        return ", ".join(parts)


def text_keys(texts: Iterable[str]) -> np.ndarray:
    """Return [N] uint64: 8 bytes of BLAKE2b of each text. Two of 26 million are equal with probability 2e-5."""
    digest = hashlib.blake2b
    return np.frombuffer(b"".join(digest(text.encode(), digest_size=8).digest() for text in texts), dtype="<u8")


def _listing(corpus: Corpus) -> str:
    """Return a digest of what the listing says of the shards; empty where a list of ids may have chosen from them."""
    if not corpus.lazy:
        return ""
    digest = hashlib.blake2b(corpus.first_rows.astype("<i8").tobytes(), digest_size=16)
    for record in corpus.listing.shards:
        digest.update(f"{record.utterances} {record.tar_crc32} {record.idx_crc32}\n".encode())
    return digest.hexdigest()


def is_unchanged(old: Identity, corpus: Corpus) -> bool:
    """Return whether a corpus is known to be the old one from its listing alone, without its indexes."""
    return bool(old.listing) and old.listing == _listing(corpus)


def identity_of(corpus: Corpus, texts: Mapping[str, str] | None = None) -> Identity:
    """Return the identity of a corpus; ``texts``, transcripts by id, are part of it where they are given.

    Every index is read, some shards at a time.
    """
    every_key: list[np.ndarray] = []
    every_content: list[np.ndarray] = []
    kept: list[str] = []
    for ids, samples, crc32 in corpus.parts():
        keys = text_keys(ids)
        contents = (samples.astype(np.uint64) << np.uint64(32)) ^ crc32.astype(np.uint64)
        if texts is not None:
            contents = contents ^ text_keys(texts[item] for item in ids)
        every_key.append(keys)
        every_content.append(contents)
        kept += ids[: KEPT_IDS - len(kept)]
    keys = np.concatenate(every_key) if every_key else np.zeros(0, dtype=np.uint64)
    contents = np.concatenate(every_content) if every_content else np.zeros(0, dtype=np.uint64)
    order = hashlib.blake2b(keys.tobytes() + corpus.first_rows.astype("<i8").tobytes(), digest_size=16).hexdigest()
    places = np.argsort(keys, kind="stable")
    return Identity(keys[places], contents[places], order, _listing(corpus), tuple(kept))


def difference(old: Identity, new: Identity, ids: Callable[[], Iterable[str]]) -> Difference:
    """Return how ``new`` differs from ``old``; ``ids`` returns those of the new corpus, for examples."""
    if old.order == new.order and np.array_equal(old.contents, new.contents):
        return Difference()
    gone, added = np.setdiff1d(old.keys, new.keys), np.setdiff1d(new.keys, old.keys)
    _, here, there = np.intersect1d(old.keys, new.keys, assume_unique=True, return_indices=True)
    changed = new.keys[there][old.contents[here] != new.contents[there]]
    examples = {
        "gone": _named(gone, old.ids),
        "new": _named(added, ids()) if len(added) else (),
        "changed": _named(changed, ids()) if len(changed) else (),
    }
    return Difference(len(gone), len(added), len(changed), old.order != new.order, examples)


def _named(keys: np.ndarray, ids: Iterable[str]) -> tuple[str, ...]:
    """Return the first ids that have one of the keys."""
    names = list(ids)
    places = np.flatnonzero(np.isin(text_keys(names), keys))[:EXAMPLES]
    return tuple(names[place] for place in places.tolist())
