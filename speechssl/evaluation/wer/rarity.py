"""Rare and unseen words: error rates of reference words by their frequency in the training text.

In: rows of ``hypotheses.jsonl`` and how often each word occurs in the training transcripts, in the normalisation of the
references. Out: a `WordBand` for each range of frequencies, and ``train_words.json``, the counts that were used.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic
from speechssl.evaluation.bootstrap import bootstrap_wer
from speechssl.evaluation.wer.edit_distance import normal_text
from speechssl.evaluation.wer.hypotheses import Row

__all__ = [
    "TRAIN_WORDS",
    "WordBand",
    "by_frequency",
    "count_words",
    "oov_rate",
    "read_train_words",
    "unseen_words",
    "write_train_words",
]

TRAIN_WORDS = "train_words.json"
_BANDS: tuple[tuple[str, int, int | None], ...] = (
    ("unseen", 0, 0), ("1", 1, 1), ("2–5", 2, 5), ("6–20", 6, 20), ("21+", 21, None),
)  # fmt: skip
_TOP = 20


@dataclass(frozen=True)
class WordBand:
    """Reference words that occur about equally often in the training text; inserted words belong to no band."""

    name: str
    """Occurrences in the training text."""
    words: int
    """Reference words (tokens)."""
    types: int
    """Different reference words."""
    S: int
    D: int
    error_rate: float
    """(S + D) / words."""
    ci_low: float | None
    ci_high: float | None
    """95 % bootstrap interval over utterances."""


def count_words(texts: Iterable[str]) -> dict[str, int]:
    """Return how often each word occurs in texts that are already normalised, most frequent first."""
    counter = Counter(word for text in texts for word in normal_text(text).split())
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def by_frequency(rows: Sequence[Row], train_words: Mapping[str, int], *, n: int, seed: int) -> tuple[WordBand, ...]:
    """Pool the errors of reference words by their number of occurrences in the training text; empty bands are left out.

    The aligned pairs of the rows say which reference word was substituted or deleted. A word that is not in
    ``train_words`` is unseen.
    """
    bands = []
    for name, least, most in _BANDS:
        counted: list[tuple[int, int]] = []
        S = D = 0
        types = set()
        for row in rows:
            ops = []
            for op, ref, _ in row["alignment"]:
                seen = train_words.get(ref, 0) if ref is not None else -1
                if seen >= least and (most is None or seen <= most):
                    ops.append(op)
                    types.add(ref)
            S, D = S + ops.count("S"), D + ops.count("D")
            counted.append((ops.count("S") + ops.count("D"), len(ops)))
        words = sum(length for _, length in counted)
        if words:
            low, high = bootstrap_wer(counted, n=n, seed=seed) or (None, None)
            bands.append(WordBand(name, words, len(types), S, D, (S + D) / words, low, high))
    return tuple(bands)


def oov_rate(rows: Sequence[Row], train_words: Mapping[str, int]) -> float | None:
    """Return the share of reference words that the training text does not have; None without reference words."""
    words = [word for row in rows for word in row["ref"].split()]
    return sum(not train_words.get(word) for word in words) / len(words) if words else None


def unseen_words(rows: Sequence[Row], train_words: Mapping[str, int]) -> tuple[tuple[str, int, int], ...]:
    """Return (word, occurrences, errors) of reference words the training text lacks: most errors first, at most 20."""
    there, wrong = Counter[str](), Counter[str]()
    for row in rows:
        for op, ref, _ in row["alignment"]:
            if ref is not None and not train_words.get(ref):
                there[ref] += 1
                wrong[ref] += op != "C"
    found = [(word, count, wrong[word]) for word, count in there.items()]
    return tuple(sorted(found, key=lambda item: (-item[2], -item[1], item[0]))[:_TOP])


def write_train_words(folder: Path, rows: Sequence[Row], train_words: Mapping[str, int]) -> None:
    """Write ``train_words.json``: the counts of all words of the references (0 for unseen ones), sorted."""
    words = sorted({word for row in rows for word in row["ref"].split()})
    counts = {word: int(train_words.get(word, 0)) for word in words}
    write_atomic(Path(folder) / TRAIN_WORDS, json.dumps(counts, ensure_ascii=False, indent=0) + "\n")


def read_train_words(path: Path) -> dict[str, int] | None:
    """Return the counts of ``train_words.json``, or of a text file with one training transcript per line.

    None for a folder without ``train_words.json``. Raises DataError when there is no such file, or it is neither.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TRAIN_WORDS
        if not path.exists():
            return None
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; give training transcripts, one per line, or a train_words.json"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8 text") from None
    if path.suffix != ".json":
        return count_words(text.split("\n"))
    try:
        counts = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error.msg}); run the evaluation again to rewrite it") from None
    if not isinstance(counts, dict):
        raise DataError(f'{path}: must be an object such as {{"word": 3}}, not {type(counts).__name__}')
    for word, count in counts.items():
        if type(count) is not int or count < 0:
            raise DataError(f"{path}: the count of {word!r} must be a whole number from 0 up, not {count!r}")
    return counts
