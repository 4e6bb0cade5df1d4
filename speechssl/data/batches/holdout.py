"""Which utterances pretraining never trains on, so that its loss can be measured on them.

In: a corpus and ``ValidationConfig``. Out: row numbers, chosen by utterance id alone: not by the seed of a run, so runs
with different seeds can be compared. Of a corpus whose indexes are read as they are needed, the names of shards choose
first: then few indexes are read.

Utterances are held out, not speakers: a corpus of few speakers would lose a whole voice. ``validation.ids`` can name
the utterances of whole speakers.
"""

import numpy as np

from speechssl.config import ValidationConfig
from speechssl.core.errors import DataError
from speechssl.core.randomness import key
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import Corpus

__all__ = ["held_out"]

LEAST_SECONDS = 60.0
"""Audio that a small corpus holds out where its share would be less."""
MOST_SHARE = 0.05
"""Share of a small corpus that it holds out at most for that."""


def held_out(corpus: Corpus, cfg: ValidationConfig, *, min_samples: int) -> np.ndarray:
    """Return the rows that are held out, int64, increasing; none of a corpus of fewer than 20 usable utterances.

    Utterances shorter than ``min_samples`` are not used, neither here nor in training.

    Raises DataError when a list of ids cannot be read, or none of its ids can be used.
    """
    if cfg.ids:
        return _listed(corpus, cfg, min_samples)
    if cfg.share <= 0:
        return np.zeros(0, dtype=np.int64)
    lengths = corpus.samples
    usable = np.flatnonzero(lengths >= min_samples)
    total = float(lengths[usable].sum())
    least = min(LEAST_SECONDS * SAMPLE_RATE, MOST_SHARE * total)
    wanted = min(cfg.seconds * SAMPLE_RATE, max(cfg.share * total, least))
    most = int(max(cfg.share, MOST_SHARE) * len(usable))
    candidates = _from_few_shards(corpus, usable, wanted, most) if corpus.lazy else usable
    names = {row: corpus.row(row).id if corpus.lazy else corpus.ids[row] for row in candidates.tolist()}
    order = sorted(names, key=lambda row: key("validation", names[row]))
    before = np.concatenate([[0], np.cumsum(lengths[order])[:-1]]) if order else np.zeros(0)
    taken = min(most, int((before < wanted).sum()))
    return np.sort(np.array(order[:taken], dtype=np.int64))


def _listed(corpus: Corpus, cfg: ValidationConfig, min_samples: int) -> np.ndarray:
    wanted = read_ids(cfg.ids)
    listed = np.array([name in wanted for name in corpus.ids], dtype=bool)
    rows = np.flatnonzero(listed & (corpus.samples >= min_samples))
    if not len(rows):
        raise DataError(
            f"validation.ids: {int(listed.sum())} of the {len(wanted)} listed ids are among the utterances of "
            f"{corpus.source.name} that this run uses, and none is at least {min_samples / SAMPLE_RATE:g} s long. "
            "Compare them with manifest.jsonl, and look at data.splits"
        )
    return rows


def _from_few_shards(corpus: Corpus, usable: np.ndarray, wanted: float, most: int) -> np.ndarray:
    """Return the usable rows of as many shards, in the order of their keys, as hold what is wanted."""
    shards = sorted(
        range(corpus.n_shards), key=lambda shard: key("validation-shard", corpus.listing.shards[shard].name)
    )
    chosen: list[np.ndarray] = []
    seconds, count = 0.0, 0
    for shard in shards:
        first, last = np.searchsorted(usable, corpus.first_rows[shard : shard + 2])
        chosen.append(usable[first:last])
        seconds += float(corpus.samples[usable[first:last]].sum())
        count += int(last - first)
        if seconds >= wanted or count >= most:
            break
    return np.concatenate(chosen)
