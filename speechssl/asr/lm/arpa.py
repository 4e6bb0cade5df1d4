"""ARPA n-gram files: reading and writing.

In: an ARPA file (plain or gzip), or n-grams. Out: its words or n-grams, with errors that name the wrong line; a file.
KenLM reads the file that is decoded with.
"""

import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from speechssl.core.errors import DataError
from speechssl.core.files import atomic_file

__all__ = ["BEGIN", "END", "NEVER", "UNKNOWN", "Entry", "Ngrams", "is_arpa", "read_arpa", "read_words", "write_arpa"]

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""Log10 probability that stands for zero."""

Entry = tuple[float, float]
"""(log10 probability, log10 backoff)."""
Ngrams = tuple[dict[tuple[str, ...], Entry], ...]
"""The n-grams of each order, from 1 on."""


def is_arpa(path: Path) -> bool:
    r"""Say whether a file is an ARPA file: its first line that is not empty is ``\data\``, after gzip if need be."""
    try:
        with _opened(path) as file:
            for line in file:
                if line.strip():
                    return line.strip() == "\\data\\"
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
        return False
    return False


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
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

    Raises DataError, which names the line, when one cannot be read.
    """
    with _opened(path) as file:
        reader = _Reader(path, file)
        words = [gram[0] for gram, _ in reader.section(1)]
    return tuple(word for word in words if word not in (BEGIN, END, UNKNOWN, "<UNK>"))


def read_arpa(path: Path) -> Ngrams:
    """Return all n-grams of a file; ``<unk>`` is among them, with the probability `NEVER` where the file has none.

    Raises DataError, which names the line, when one cannot be read, counts differ from the header, or the file is cut.
    """
    with _opened(path) as file:
        reader = _Reader(path, file)
        grams = tuple(dict(reader.section(order)) for order in range(1, len(reader.counts) + 1))
        reader.finish()
    grams[0].setdefault((UNKNOWN,), (NEVER, 0.0))
    return grams


def write_arpa(path: Path, counts: Sequence[int], sections: Iterable[Iterable[tuple[tuple[str, ...], Entry]]]) -> None:
    """Write n-grams, order by order, atomically; the same n-grams give the same bytes (also with gzip).

    ``counts`` has the number of n-grams of each order, ``sections`` their ``(words, (log10 probability, log10
    backoff))``; the backoff of the highest order is left out.
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
