"""Transcribed utterances of a split, for fine-tuning, validation and scoring.

In: ``DataConfig``. Out: manifest entries of the chosen utterances that have a transcript, and a ledger entry for each
of the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from speechssl.config import DataConfig
from speechssl.core.errors import ConfigError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.ids import absent_ids, read_ids
from speechssl.data.ingest.manifest import Utterance
from speechssl.data.ingest.text.casing import language_code
from speechssl.data.ingest.text.corpus_tags import only_tags
from speechssl.data.store.joined import open_data
from speechssl.data.store.reader import Corpus

__all__ = ["Labelled", "open_labelled"]


@dataclass(frozen=True)
class Labelled:
    """The utterances that were asked for and have a transcript."""

    cfg: DataConfig
    utterances: dict[str, Utterance]
    """By id, in shard order; every ``text`` is a string, possibly empty (nothing was said)."""
    dropped: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """The splits, or the lists of ids, in words."""
        return ", ".join(self.cfg.ids or self.cfg.splits) or "all"

    @property
    def texts(self) -> dict[str, str]:
        """Transcripts by id."""
        return {name: utterance.text or "" for name, utterance in self.utterances.items()}

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the manifest gives, sorted."""
        return tuple(sorted({language_code(u.language) for u in self.utterances.values()} - {""}))

    @property
    def workers(self) -> int:
        """Loader processes for decoding everything once: none for less than an hour, where starting them costs more."""
        hours = sum(utterance.duration for utterance in self.utterances.values()) / 3600
        return self.cfg.workers if hours > 1 else 0

    def corpus(self, ids: Iterable[str] | None = None) -> Corpus:
        """Open the shards for some of these utterances (None: for all)."""
        return open_data(self.cfg, ids=self.utterances if ids is None else ids)


def open_labelled(cfg: DataConfig, *, stage: str) -> Labelled:
    """Return the transcribed utterances of ``cfg.splits`` (or of the lists ``cfg.ids``); there may be none.

    A transcript of nothing but corpus tags (``<MUSIC>``) does not say what was spoken, and counts as none.

    Raises
    ------
    ConfigError
        No shards are named.
    DataError
        The shards or a list of ids cannot be read, or none of the listed ids is there.
    """
    if not cfg.shards:
        raise ConfigError("no shards to read; give data.shards, the folder that `speechssl shard` wrote")
    corpus = open_data(cfg)
    absent = absent_ids(cfg.ids, corpus.ids, stage=stage, where=cfg.shards) if cfg.ids else []
    if cfg.ids:
        wanted = read_ids(cfg.ids)
        chosen = [name for name in corpus.ids if name in wanted]
    else:
        splits = [corpus.row(i).split or "train" for i in range(len(corpus))]
        chosen = [name for name, split in zip(corpus.ids, splits, strict=True) if not cfg.splits or split in cfg.splits]
    known = corpus.utterances() if chosen else {}
    texts = {name: known[name].text for name in chosen}
    labelled = {name: known[name] for name, text in texts.items() if text is not None and not only_tags(text)}
    dropped = [_dropped(stage, name, texts[name]) for name in chosen if name not in labelled]
    return Labelled(cfg, labelled, (*absent, *dropped))


def _dropped(stage: str, name: str, text: str | None) -> Entry:
    if text is None:
        return Entry(stage, name, "no_transcript", action="dropped")
    return Entry(stage, name, "only_tags", text[:80], "dropped")
