"""Estimating n-gram language models from text: interpolated modified Kneser-Ney (Chen & Goodman 1999, section 4.2).

In: sentences of words. Out: an `NgramModel` to be written as an ARPA file; the estimate is that of KenLM's lmplz
(Heafield et al. 2013) without pruning. Everything is counted in memory: about 100 bytes per word of text and order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechssl.asr.lm.arpa import BEGIN, END, NEVER, UNKNOWN, Entry, write_arpa
from speechssl.core.errors import ConfigError, DataError

__all__ = ["FALLBACK", "Discounts", "Grams", "NgramModel", "estimate"]

Discounts = tuple[float, float, float]
"""Discounts of counts of one, of two, and of three and more."""

FALLBACK: Discounts = (0.5, 1.0, 1.5)
"""Used for an order whose counts are too few for the closed form (as lmplz ``--discount_fallback``)."""

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

SPECIAL = (BEGIN, END, UNKNOWN)
_BEGIN, _END, _UNKNOWN = range(3)


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order, sorted by their words' ids."""

    ids: Ids
    """[G, n] word ids."""
    probability: Values
    """[G] log10 P(last word | words before)."""
    backoff: Values
    """[G] log10 backoff weight of the n-gram as a context; 0 where it is none."""
    discounts: Discounts
    closed_form: bool
    """False: the counts were too few, and ``FALLBACK`` was used."""


@dataclass(frozen=True)
class NgramModel:
    """A language model with backoff."""

    words: tuple[str, ...]
    """By id; the first three are ``<s>``, ``</s>`` and ``<unk>``."""
    orders: tuple[Grams, ...]
    sentences: int
    tokens: int
    """Words of the text, ends of sentences not counted."""

    def write(self, path: Path) -> None:
        """Write an ARPA file (gzip if the name ends in ``.gz``), atomically."""
        write_arpa(path, [len(grams.ids) for grams in self.orders], (self._entries(grams) for grams in self.orders))

    def _entries(self, grams: Grams) -> Iterator[tuple[tuple[str, ...], Entry]]:
        for ids, probability, backoff in zip(
            grams.ids.tolist(), grams.probability.tolist(), grams.backoff.tolist(), strict=True
        ):
            yield tuple(self.words[index] for index in ids), (probability, backoff)

    def __str__(self) -> str:
        """Return sizes and discounts, one line per order."""
        lines = [f"{self.sentences} sentences, {self.tokens} words, {len(self.words) - len(SPECIAL)} of them distinct"]
        for n, grams in enumerate(self.orders, 1):
            discounts = ", ".join(f"{value:.3f}" for value in grams.discounts)
            note = "" if grams.closed_form else " (fallback: too little text for the closed form)"
            lines.append(f"{len(grams.ids)} {n}-grams, discounts {discounts}{note}")
        return "\n".join(lines)


def estimate(sentences: Iterable[Sequence[str]], order: int) -> NgramModel:
    """Estimate a model.

    Counts of the highest order, and of n-grams that begin a sentence, are occurrences; other counts are the number of
    different words before (Kneser & Ney 1995). Discounts have the closed form of Chen & Goodman, equation 17, or are
    `FALLBACK` where that fails. Each order is interpolated with the one below, unigrams with the uniform
    distribution over all words, ``</s>`` and ``<unk>``, which is all that ``<unk>`` gets.

    Parameters
    ----------
    sentences
        Words of each sentence, without marks of beginning and end; empty ones are left out.
    order
        Length of the longest n-grams, 1 to 10.

    Raises
    ------
    ConfigError
        ``order`` is out of range.
    DataError
        There is no sentence, or a word is one of the marks ``<s>``, ``</s>``, ``<unk>``.
    """
    if not 1 <= order <= 10:
        raise ConfigError(f"lm.order must be from 1 to 10, not {order}")
    words, stream, position = _number(sentences)
    tables = _tables(stream, position, order, len(words))
    found: list[Grams] = []
    lower = np.full(1, 1.0 / (len(words) - 1))  # the uniform distribution; <s> is never predicted
    for n, table in enumerate(tables, 1):
        counts = table.occurrences if n == len(tables) else _adjusted(table, tables[n])
        given = _closed_form(counts)
        taken = np.concatenate([[0.0], given or FALLBACK])[np.minimum(counts, 3)]
        size = len(lower) if n > 1 else 1
        total = np.bincount(table.prefix, counts, size)
        with np.errstate(invalid="ignore"):  # contexts that nothing follows
            gamma = np.bincount(table.prefix, taken, size) / total
        value = (counts - taken) / total[table.prefix] + gamma[table.prefix] * lower[table.suffix]
        if n > 1:  # the weights of this order belong to the n-grams below, which are its contexts
            known = total > 0
            found[-1].backoff[known] = np.log10(gamma[known])
        probability = np.log10(value)
        if n == 1:
            probability[_BEGIN] = NEVER
        found.append(Grams(table.ids, probability, np.zeros(len(value)), given or FALLBACK, given is not None))
        lower = value
    return NgramModel(words, tuple(found), int((position == 0).sum()), int((stream > _UNKNOWN).sum()))


@dataclass(frozen=True)
class _Table:
    """The distinct n-grams of a text, sorted."""

    ids: Ids
    """[G, n]."""
    prefix: Ids
    """[G] which (n - 1)-gram the first n - 1 words are."""
    suffix: Ids
    """[G] which (n - 1)-gram the last n - 1 words are."""
    occurrences: Ids
    """[G]."""


def _number(sentences: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], Ids, Ids]:
    """Return the words by id, and for each word of the text, marks included, its id and place in its sentence."""
    index = {word: i for i, word in enumerate(SPECIAL)}
    text: list[int] = []
    lengths: list[int] = []
    for number, sentence in enumerate(sentences, 1):
        if not sentence:
            continue
        if marks := set(sentence) & set(SPECIAL):
            raise DataError(
                f"sentence {number} holds {min(marks)}, which stands for something else in a language model"
            )
        text += [_BEGIN, *(index.setdefault(word, len(index)) for word in sentence), _END]
        lengths.append(len(sentence) + 2)
    if not text:
        raise DataError("no text to estimate a language model from: every sentence is empty")
    rank = {word: i for i, word in enumerate([*SPECIAL, *sorted(index.keys() - set(SPECIAL))])}
    renumber = np.array([rank[word] for word in index], dtype=np.int64)  # alphabetical: the same file for the same text
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return tuple(rank), renumber[np.array(text, dtype=np.int64)], np.arange(len(text)) - starts


def _tables(stream: Ids, position: Ids, order: int, n_words: int) -> list[_Table]:
    """Return the n-grams of orders 1 to ``order``, or to the longest that the sentences have."""
    occurrences = np.bincount(stream, minlength=n_words)
    occurrences[_BEGIN] = 0  # it is a context only
    nothing = np.zeros(n_words, dtype=np.int64)
    tables = [_Table(np.arange(n_words)[:, None], nothing, nothing, occurrences)]
    at = stream  # which n-gram ends here
    for n in range(2, order + 1):
        here = np.flatnonzero(position >= n - 1)
        if not len(here):
            break
        key = at[here - 1] * n_words + stream[here]
        _, first, inverse, occurrences = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        one = here[first]
        ids = np.concatenate([tables[-1].ids[at[one - 1]], stream[one][:, None]], axis=1)
        tables.append(_Table(ids, at[one - 1], at[one], occurrences))
        at = at.copy()
        at[here] = inverse
    return tables


def _adjusted(table: _Table, above: _Table) -> Ids:
    """Return, for each n-gram, the number of different words before it; occurrences where it begins a sentence."""
    before = np.bincount(above.suffix, minlength=len(table.ids))
    begins = table.ids[:, 0] == _BEGIN
    return np.where(begins, table.occurrences, before)


def _closed_form(counts: Ids) -> Discounts | None:
    """Return the discounts of Chen & Goodman, equation 17; None where counts of counts do not allow it.

    Nor with a discount of 0: a context could then give nothing away, and its backoff would be the logarithm of 0.
    """
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in range(1, 5))
    if not (n1 and n2 and n3):
        return None
    share = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3
    valid = 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3
    return (d1, d2, d3) if valid else None
