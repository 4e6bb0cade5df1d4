"""Reads text files of unknown origin as a whole: UTF-8 or UTF-16, any line ends.

In: a path. Out: its text, every line end a newline; or a ValueError that says why the file is not text.
"""

from __future__ import annotations

import codecs
from pathlib import Path

__all__ = ["read_text"]

MAX_TABLE_BYTES = 2**29
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DOS_END = "\x1a"


def read_text(path: Path, limit: int = MAX_TABLE_BYTES) -> str:
    """Return a text file of at most ``limit`` bytes in UTF-8 or UTF-16, every line end a newline.

    UTF-16 without its mark is known by the zero bytes of its ASCII characters. The end-of-file byte of DOS is removed.

    Raises
    ------
    ValueError
        It is neither, or it is too large for a table.
    OSError
        It cannot be read.
    """
    if path.stat().st_size > limit:
        raise ValueError(f"larger than {limit:,} bytes")
    with path.open("rb") as file:
        data = file.read(4096)
        encoding = _encoding(data)
        data += file.read()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(f"not UTF-16 at byte {error.start}; save it as UTF-8") from error
        raise ValueError(f"not UTF-8 at byte {error.start}; convert it, for instance with iconv") from error
    return text.rstrip(_DOS_END).replace("\r\n", "\n").replace("\r", "\n")


def _encoding(head: bytes) -> str:
    """Return the encoding of a text that begins with ``head``; ValueError for binary data."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head:
        return "utf-8-sig"
    even, odd = head[0::2], head[1::2]
    for encoding, zeros, letters in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if letters.count(0) == 0 and zeros.count(0) > 0.5 * len(zeros):
            return encoding
    raise ValueError("binary, not text")
