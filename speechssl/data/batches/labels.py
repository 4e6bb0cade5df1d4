"""Transcripts and label ids of batches, filled in where batches are built.

In: batches of audio. Out: the same batches with ``texts``, and with ``targets`` where transcripts are to be encoded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from speechssl.data.batches.batch import Batch
from speechssl.data.store.reader import Corpus

__all__ = ["Labels", "with_texts"]


@dataclass(frozen=True)
class Labels:
    """Transcripts by utterance id, and how they become label ids; sent to loader processes."""

    texts: Mapping[str, str | None]
    encode: Callable[[str], list[int]] | None = None

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its texts, and with targets when there is an ``encode``."""
        texts = tuple(self.texts[name] for name in batch.ids)
        if self.encode is None:
            return replace(batch, texts=texts)
        encoded = [self.encode(text or "") for text in texts]
        lengths = torch.tensor([len(ids) for ids in encoded])
        targets = torch.zeros(len(encoded), max(1, int(lengths.max())), dtype=torch.int64)
        for into, ids in zip(targets, encoded, strict=True):
            into[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return replace(batch, texts=texts, targets=targets, target_lengths=lengths)


def with_texts(corpus: Corpus, encode: Callable[[str], list[int]] | None = None) -> Labels:
    """Return the labels of a corpus."""
    return Labels({name: item.text for name, item in corpus.utterances().items()}, encode)
