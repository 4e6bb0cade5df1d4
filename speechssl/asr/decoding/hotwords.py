r"""Hotwords: favour words inside the language model, so that they take part in the search itself.

In: an ARPA file (or none) and words. Out: another ARPA file. KenLM refuses log-probabilities above 0, so nothing is
added to hotwords. Instead every other word loses the same amount, in all its n-grams, and the word score of the search
gives that amount back to all words. With backoff, which is a sum, it counts exactly once.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from speechssl.asr.lm.arpa import BEGIN, END, NEVER, UNKNOWN, Entry, read_arpa, write_arpa

__all__ = ["favour", "favour_in"]


def favour_in(source: Path, target: Path, hotwords: Sequence[str], boost: float) -> None:
    """Write ``source`` with every word but ``hotwords`` made less probable by ``boost`` (log10, above 0).

    ``</s>`` keeps its probability. Hotwords that the model does not know get the probability of ``<unk>``, not lowered.

    Raises DataError when the ARPA file cannot be read.
    """
    grams = read_arpa(source)
    hot = set(hotwords)
    new = [word for word in dict.fromkeys(hotwords) if (word,) not in grams[0]]
    unknown = grams[0][UNKNOWN,][0]
    added: list[tuple[tuple[str, ...], Entry]] = [((word,), (unknown, 0.0)) for word in new]
    keep = hot | {BEGIN, END}

    def section(order: int) -> Iterator[tuple[tuple[str, ...], Entry]]:
        for gram, (probability, backoff) in grams[order - 1].items():
            yield gram, (probability - (0.0 if gram[-1] in keep else boost), backoff)

    counts = [len(entries) for entries in grams]
    counts[0] += len(new)
    sections = [chain(section(1), added), *(section(order) for order in range(2, len(grams) + 1))]
    write_arpa(target, counts, sections)


def favour(target: Path, words: Sequence[str], hotwords: Sequence[str], boost: float) -> None:
    """Write a model in which every word has log10 probability 0, less ``boost`` for words other than ``hotwords``.

    It stands in for a language model when there is none; its probabilities do not sum to one.
    """
    hot = set(hotwords)
    entries: list[tuple[tuple[str, ...], Entry]] = [
        ((UNKNOWN,), (-boost, 0.0)),
        ((BEGIN,), (NEVER, 0.0)),
        ((END,), (0.0, 0.0)),
    ]
    entries += [((word,), (0.0 if word in hot else -boost, 0.0)) for word in dict.fromkeys([*words, *hotwords])]
    bigram: tuple[tuple[str, ...], Entry] = ((BEGIN, END), (0.0, 0.0))  # KenLM needs at least one bigram
    write_arpa(target, [len(entries), 1], [entries, [bigram]])
