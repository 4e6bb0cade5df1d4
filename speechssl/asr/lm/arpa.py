"""ARPA n-gram files: reading, scoring in plain Python, and writing.

In: an ARPA file (plain or gzip). Out: its words, or an `Arpa` whose probabilities are those that KenLM gives. Decoding
reads the file with KenLM; this module is for small models, for tests, and for errors that name the wrong line.
"""

import gzip
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_file

__all__ = ["BEGIN", "END", "NEVER", "UNKNOWN", "Arpa", "Entry", "is_arpa", "open_arpa", "read_words", "write_arpa"]

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""Log10 probability that stands for zero."""

Entry = tuple[float, float]
"""(log10 probability, log10 backoff)."""


def is_arpa(path: Path) -> bool:
    r"""Say whether a file is an ARPA file: its first line that is not empty is ``\data\``, after gzip if need be."""
    try:
        with open_arpa(path) as file:
            for line in file:
                if line.strip():
                    return line.strip() == "\\data\\"
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
        return False
    return False


@contextmanager
def open_arpa(path: Path) -> Iterator[TextIO]:
    """Open an ARPA file for reading, whether it is gzip or not."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as file:
        yield file


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(
            f"{path}, after line {number}: cannot be read ({error}); make or copy the file again"
        ) from error


class _Reader:
    """The sections of an ARPA file, in order, each line checked."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self._lines = _lines(path, file)
        self._number = 0
        self.counts = self._header()

    def fail(self, why: str) -> DataError:
        return DataError(f"{self.path}, line {self._number}: {why}; is it an ARPA file? make or copy it again")

    def _next(self) -> str | None:
        for number, line in self._lines:
            self._number = number
            if line.strip():
                return line
        return None

    def _header(self) -> list[int]:
        if (line := self._next()) is None or line.strip() != "\\data\\":
            raise self.fail("an ARPA file starts with \\data\\")
        counts: list[int] = []
        while (line := self._next()) is not None and line.startswith("ngram "):
            order, _, count = line.removeprefix("ngram ").partition("=")
            if not order.strip().isdecimal() or not count.strip().isdecimal() or int(order) != len(counts) + 1:
                raise self.fail(f"expected 'ngram {len(counts) + 1}=COUNT', found {line!r}")
            counts.append(int(count))
        if not counts:
            raise self.fail("no 'ngram 1=COUNT' after \\data\\")
        self._title = line
        return counts

    def section(self, order: int) -> Iterator[tuple[tuple[str, ...], Entry]]:
        """Yield (words, (log10 probability, log10 backoff)) of n-grams of one order."""
        if self._title is None or self._title.strip() != f"\\{order}-grams:":
            raise self.fail(f"expected \\{order}-grams:, found {self._title!r}")
        count = 0
        while (line := self._next()) is not None and not line.startswith("\\"):
            count += 1
            parts = line.split()
            if not order + 1 <= len(parts) <= order + 2:
                raise self.fail(f"expected a probability, {order} words and perhaps a backoff, found {line!r}")
            try:
                probability = float(parts[0])
                backoff = float(parts[-1]) if len(parts) == order + 2 else 0.0
            except ValueError:
                raise self.fail(f"not a number in {line!r}") from None
            if not probability <= 0 or not math.isfinite(backoff):
                raise self.fail(f"log10 probabilities are at most 0 and backoffs finite, found {line!r}")
            yield tuple(parts[1 : order + 1]), (probability, backoff)
        if count != self.counts[order - 1]:
            raise self.fail(f"{count} {order}-grams, but the header says {self.counts[order - 1]}")
        self._title = line

    def finish(self) -> None:
        if self._title is None or self._title.strip() != "\\end\\":
            raise self.fail("no \\end\\; the file is cut")


def read_words(path: Path) -> tuple[str, ...]:
    """Return the words of an ARPA file without ``<s>``, ``</s>`` and ``<unk>``; only its unigrams are read.

    Raises
    ------
    DataError
        A line cannot be read (it is named).
    """
    with open_arpa(path) as file:
        reader = _Reader(path, file)
        words = [gram[0] for gram, _ in reader.section(1)]
    return tuple(word for word in words if word not in (BEGIN, END, UNKNOWN, "<UNK>"))


@dataclass(frozen=True)
class Arpa:
    """An n-gram model with backoff (Katz 1987)."""

    grams: tuple[Mapping[tuple[str, ...], Entry], ...]
    """``grams[n - 1]`` holds the n-grams."""

    @classmethod
    def read(cls, path: Path) -> "Arpa":
        """Read a whole file.

        Raises
        ------
        DataError
            A line cannot be read (it is named), counts differ from the header, or the file is cut.
        """
        with open_arpa(path) as file:
            reader = _Reader(path, file)
            grams = tuple(dict(reader.section(order)) for order in range(1, len(reader.counts) + 1))
            reader.finish()
        if (UNKNOWN,) not in grams[0]:
            grams = ({**grams[0], (UNKNOWN,): (NEVER, 0.0)}, *grams[1:])
        return cls(grams)

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
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
        """Write the file, gzip if its name ends in ``.gz``; see `write_arpa`."""
        write_arpa(path, [len(grams) for grams in self.grams], (grams.items() for grams in self.grams))


def write_arpa(path: Path, counts: Sequence[int], sections: Iterable[Iterable[tuple[tuple[str, ...], Entry]]]) -> None:
    """Write n-grams, order by order, atomically; the same n-grams give the same bytes (also with gzip).

    Parameters
    ----------
    counts
        Number of n-grams of each order.
    sections
        For each order, ``(words, (log10 probability, log10 backoff))``; the backoff of the highest order is left out.
    """
    with atomic_file(path) as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                packed.writelines(_arpa_lines(counts, sections))
        else:
            raw.writelines(_arpa_lines(counts, sections))


def _arpa_lines(counts: Sequence[int], sections: Iterable[Iterable[tuple[tuple[str, ...], Entry]]]) -> Iterator[bytes]:
    yield b"\\data\\\n"
    yield from (f"ngram {order}={count}\n".encode() for order, count in enumerate(counts, 1))
    for order, section in enumerate(sections, 1):
        yield f"\n\\{order}-grams:\n".encode()
        for gram, (probability, backoff) in section:
            tail = f"\t{backoff:.7g}" if order < len(counts) else ""
            yield f"{probability:.7g}\t{' '.join(gram)}{tail}\n".encode()
    yield b"\n\\end\\\n"
