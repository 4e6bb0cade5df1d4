"""N-gram models scored in plain Python: slow, for comparisons with KenLM and for small models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.asr.lm.arpa import BEGIN, END, UNKNOWN, Ngrams, read_arpa, write_arpa
from speechssl.asr.lm.kneser_ney import NgramModel


@dataclass(frozen=True)
class Arpa:
    """An n-gram model with backoff (Katz 1987); ``grams[n - 1]`` holds the n-grams."""

    grams: Ngrams

    @classmethod
    def read(cls, path: Path) -> "Arpa":
        return cls(read_arpa(path))

    @classmethod
    def of(cls, model: NgramModel) -> "Arpa":
        return cls(tuple(dict(model._entries(grams)) for grams in model.orders))

    @property
    def order(self) -> int:
        return len(self.grams)

    def probability(self, word: str, context: Sequence[str] = ()) -> float:
        """Return log10 P(word | context); words that are not known are ``<unk>``."""
        known = self.grams[0]
        gram = tuple(part if (part,) in known else UNKNOWN for part in (*context, word))[-self.order :]
        penalty = 0.0
        while gram not in self.grams[len(gram) - 1]:  # unigrams are all there
            penalty += self.grams[len(gram) - 2].get(gram[:-1], (0.0, 0.0))[1]
            gram = gram[1:]
        return self.grams[len(gram) - 1][gram][0] + penalty

    def sentence(self, words: Sequence[str]) -> float:
        """Return log10 P(words, end of sentence | beginning of sentence)."""
        line = (BEGIN, *words, END)
        return sum(self.probability(line[i], line[:i]) for i in range(1, len(line)))

    def write(self, path: Path) -> None:
        write_arpa(path, [len(grams) for grams in self.grams], (grams.items() for grams in self.grams))
