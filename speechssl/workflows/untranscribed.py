"""Untranscribed speech for self-training: which of it may be used, and what a recogniser hears in it.

In: ``SelftrainConfig``. Out: ids of utterances that are not held out, no copy of one that is, and have no true
transcript; their pseudo-labels. The ledger gets every other one.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechssl.asr.ctc import load_recogniser
from speechssl.asr.decoding.decoder_pool import decode_all
from speechssl.asr.labelled import chosen_ids, open_labelled
from speechssl.asr.pseudo_labels import STAGE, PseudoLabel, utterance_confidence
from speechssl.asr.recognise import recognise
from speechssl.config import SelftrainConfig
from speechssl.core.errors import AudioError
from speechssl.core.ledger import Entry, Ledger
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.data.audit.copies import copies
from speechssl.data.batches.stream import evaluation_batches
from speechssl.data.ingest.ids import read_ids
from speechssl.data.store.reader import Corpus, open_corpus
from speechssl.training.parallel import start_parallel
from speechssl.training.precision import agreed

__all__ = ["candidates", "transcribed"]


def candidates(cfg: SelftrainConfig, ledger: Ledger) -> list[str]:
    """Return the ids to transcribe; the ledger gets every other one that was asked for."""
    corpus = open_corpus(cfg.unlabelled.shards, cache=cfg.unlabelled.cache)
    asked, absent = chosen_ids(corpus, cfg.unlabelled, stage=STAGE)
    held = {
        name: what
        for what, data in (("test", cfg.test), ("dev", cfg.finetune.dev))
        for name in chosen_ids(corpus, data, stage=STAGE)[0]
    }
    true = open_labelled(cfg.finetune.data, stage=STAGE).utterances
    ledger.extend(absent)
    ledger.extend(Entry(STAGE, name, "held_out", f"in {held[name]}", "dropped") for name in asked if name in held)
    ledger.extend(
        Entry(STAGE, name, "true_transcript", action="dropped") for name in asked if name in true and name not in held
    )
    least, most = cfg.unlabelled.min_seconds, cfg.unlabelled.max_seconds
    wanted = set(asked) - held.keys() - true.keys()
    left = []
    for name, samples in zip(corpus.ids, corpus.samples.tolist(), strict=True):
        seconds = samples / SAMPLE_RATE
        if name in wanted and least <= seconds <= most:
            left.append(name)
        elif name in wanted:
            reason, limit = ("too_short", least) if seconds < least else ("too_long", most)
            ledger.add(Entry(STAGE, name, reason, f"{seconds:.2f} s, the limit is {limit:g} s", "dropped"))
    for name, original, how in copies(_waves(corpus, held, ledger), _waves(corpus, left, ledger)):
        ledger.add(Entry(STAGE, name, "copy_of_held_out", f"{original} in {held[original]}: {how}", "dropped"))
    out = {entry.item for entry in ledger.entries}
    return [name for name in left if name not in out]


def _waves(corpus: Corpus, ids: Collection[str], ledger: Ledger) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ids and waveforms; what cannot be read is in the ledger."""
    for row, name in enumerate(corpus.ids):
        if name in ids:
            try:
                yield name, corpus.read(row)
            except AudioError as error:
                ledger.add(Entry(STAGE, name, error.reason, error.detail, "dropped"))


def transcribed(cfg: SelftrainConfig, ids: Path, model: Path, ledger: Ledger) -> Iterator[PseudoLabel]:
    """Yield what ``model`` hears in the utterances of the list ``ids``; what cannot be read is in the ledger."""
    parallel = start_parallel(cfg.finetune.training.device)
    choice = agreed(cfg.finetune.training.precision, parallel, verb=STAGE)
    recogniser, tokens = load_recogniser(model, parallel.device)
    data = cfg.unlabelled
    corpus = open_corpus(data.shards, cache=data.cache, ids=read_ids([ids]))
    workers = data.workers if corpus.samples.sum() > 3600 * SAMPLE_RATE else 0
    batches = evaluation_batches(corpus, data, workers=workers)

    def unreadable(entries: list[Entry]) -> None:
        ledger.extend(replace(entry, stage=STAGE) for entry in entries)

    heard = recognise(recogniser, batches, rejected=unreadable, bf16=choice.bf16)
    items = ((item, item.log_probs) for item in heard)
    for item, found in decode_all(items, cfg.labelling.decoder, tokens, model=model):
        confidence = utterance_confidence([word.confidence for word in found.words])
        yield PseudoLabel(item.id, found.text, round(confidence, 4), round(item.samples / SAMPLE_RATE, 3))
