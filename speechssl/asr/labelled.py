"""Transcribed utterances of a split, for fine-tuning, validation and scoring.

In: ``DataConfig``. Out: manifest entries of the chosen utterances that have a transcript, and a ledger entry for each
of the others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from speechssl.asr.pseudo_labels import read_pseudo_labels
from speechssl.config import DataConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.ingest.ids import absent_ids, read_ids
from speechssl.data.ingest.manifest import Utterance
from speechssl.data.ingest.text.casing import language_code
from speechssl.data.ingest.text.corpus_tags import only_tags
from speechssl.data.store.joined import open_data
from speechssl.data.store.reader import Corpus

__all__ = ["Labelled", "chosen_ids", "open_labelled", "refuse_held_out"]


@dataclass(frozen=True)
class Labelled:
    """The utterances that were asked for and have a transcript."""

    cfg: DataConfig
    utterances: dict[str, Utterance]
    """By id, in shard order; every ``text`` is a string, possibly empty (nothing was said)."""
    dropped: tuple[Entry, ...]
    pseudo: dict[str, str] = field(default_factory=dict)
    """Texts by id of those utterances whose transcript a recogniser made."""

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
        corpus = open_data(self.cfg, ids=self.utterances if ids is None else ids)
        corpus.texts = self.pseudo
        return corpus


def open_labelled(cfg: DataConfig, *, stage: str, pseudo: str = "") -> Labelled:
    """Return the transcribed utterances of ``cfg.splits`` (or of the lists ``cfg.ids``); there may be none.

    The utterances of ``pseudo``, a file of pseudo-labels, come with their text from there, whatever their split.

    A transcript of nothing but corpus tags (``<MUSIC>``) does not say what was spoken, and counts as none.

    Raises
    ------
    ConfigError
        No shards are named.
    DataError
        The shards, a list of ids or the pseudo-labels cannot be read, none of the listed ids is there, or an utterance
        has both a transcript and a pseudo-label.
    """
    corpus = _open(cfg)
    chosen, absent = chosen_ids(corpus, cfg, stage=stage)
    made = read_pseudo_labels(pseudo) if pseudo else {}
    known = corpus.utterances() if chosen or made else {}
    texts = {name: known[name].text for name in chosen}
    labelled = {name: known[name] for name, text in texts.items() if text is not None and not only_tags(text)}
    dropped = [_dropped(stage, name, texts[name]) for name in chosen if name not in labelled and name not in made]
    for name, text in made.items():
        if name not in known or name in labelled:
            what = f"has a transcript in {cfg.shards}" if name in labelled else f"is not in {cfg.shards}"
            raise DataError(f"{pseudo}: utterance {name!r} {what}; make the pseudo-labels again: `speechssl selftrain`")
        labelled[name] = replace(known[name], text=text)
    if made:
        labelled = {name: labelled[name] for name in corpus.ids if name in labelled}
    return Labelled(cfg, labelled, (*absent, *dropped), made)


def chosen_ids(corpus: Corpus, cfg: DataConfig, *, stage: str) -> tuple[list[str], list[Entry]]:
    """Return the ids of ``cfg.splits`` (or of the lists ``cfg.ids``) in shard order, and an entry for each absent id.

    Raises DataError when a list of ids cannot be read, or none of its ids is there.
    """
    if cfg.ids:
        absent = absent_ids(cfg.ids, corpus.ids, stage=stage, where=cfg.shards)
        wanted = read_ids(cfg.ids)
        return [name for name in corpus.ids if name in wanted], absent
    splits = [corpus.row(i).split or "train" for i in range(len(corpus))]
    return [name for name, split in zip(corpus.ids, splits, strict=True) if not cfg.splits or split in cfg.splits], []


def refuse_held_out(pseudo: Collection[str], dev: Labelled) -> None:
    """Raise DataError where a pseudo-labelled utterance of the training data is one of dev."""
    if shared := sorted(dev.utterances.keys() & set(pseudo)):
        raise DataError(
            f"{len(shared)} pseudo-labelled utterances, such as {shared[0]!r}, are in dev ({dev.name}): dev would no "
            "longer choose between models. Make the pseudo-labels again with this dev: `speechssl selftrain`"
        )


def _open(cfg: DataConfig) -> Corpus:
    if not cfg.shards:
        raise ConfigError("no shards to read; give data.shards, the folder that `speechssl shard` wrote")
    return open_data(cfg)


def _dropped(stage: str, name: str, text: str | None) -> Entry:
    if text is None:
        return Entry(stage, name, "no_transcript", action="dropped")
    return Entry(stage, name, "only_tags", text[:80], "dropped")
