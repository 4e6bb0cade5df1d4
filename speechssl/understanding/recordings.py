"""Utterances of a manifest or of shards, read one by one, and the fields that tasks predict.

In: the path of either. Out: ids, lengths and waveforms; the manifest's entries. Both give the same samples.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import ConfigError, DataError
from speechssl.data.audio.decode import SAMPLE_RATE, decode, fit_scale, to_int16
from speechssl.data.ingest.manifest import Utterance, read_manifest, safe_id
from speechssl.data.store.reader import open_corpus
from speechssl.targets.audio import Recordings

__all__ = ["field_of", "open_recordings", "read_ids"]


class _Manifest:
    """The utterances of a manifest, decoded from their files as sharding does it."""

    def __init__(self, folder: Path, utterances: Sequence[Utterance]) -> None:
        self.folder, self.utterances = folder, utterances
        self.ids = [item.id for item in utterances]
        self.samples = np.array([round(item.duration * SAMPLE_RATE) for item in utterances], dtype=np.int64)

    def read(self, i: int, /) -> np.ndarray:
        """Return float32 [T] at 16 kHz; AudioError when the file cannot be read."""
        item = self.utterances[i]
        wave = decode(self.folder / item.path, item=item.id, start=item.start, duration=item.duration)
        return to_int16(fit_scale(wave)[0]) * np.float32(1 / 32768)


def read_ids(path: str) -> list[str]:
    """Return the ids of a file with one a line, in the form that manifests use."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the ids cannot be read: {error}; give a text file with one utterance id a line"
        ) from error
    return [safe_id(line.strip()) for line in lines if line.strip()]


def open_recordings(
    place: str, *, splits: Sequence[str] = (), ids: Iterable[str] | None = None
) -> tuple[Recordings, dict[str, Utterance]]:
    """Open a manifest (a file, or the folder of one) or shards.

    Parameters
    ----------
    splits
        Take utterances of these splits; one without a split counts as train. Empty for all.
    ids
        Take exactly these utterances, of any split.

    Returns
    -------
    recordings, utterances
        How to read them, and their entries by id.

    Raises
    ------
    ConfigError
        No place was given.
    DataError
        It cannot be read, or no utterance is left.
    """
    if not place:
        raise ConfigError("no data: give a manifest (speechssl manifest FOLDER OUTPUT) or a folder of shards")
    path = Path(place)
    sharded = (path / "summary.json").exists() and any(path.glob("*.idx"))
    if path.is_dir() and not sharded and (path / "manifest.jsonl").exists():
        path /= "manifest.jsonl"
    if path.suffix != ".jsonl":
        corpus = open_corpus(place, splits=splits, ids=ids)
        return corpus, corpus.utterances()
    wanted = None if ids is None else {safe_id(item) for item in ids}
    kept = [
        item
        for item in read_manifest(path)
        if (item.id in wanted if wanted is not None else not splits or (item.split or "train") in splits)
    ]
    if not kept:
        what = "the listed ids" if ids is not None else f"split {', '.join(splits) or 'any'}"
        raise DataError(f"{path}: no utterance of {what}")
    return _Manifest(path.parent, kept), {item.id: item for item in kept}


def field_of(item: Utterance, name: str) -> str | None:
    """Return a field of an utterance, of its ``meta`` too, as text; dots lead into objects. None where it is absent."""
    value: Any = getattr(item, name, None) if name in Utterance.__dataclass_fields__ else None
    if value is None:
        value = item.meta
        for part in name.removeprefix("meta.").split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return None if value is None or isinstance(value, dict | list) else str(value)
