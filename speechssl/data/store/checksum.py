"""CRC-32 as of zlib, by the fastest library at hand: every payload is checked every time it is read.

ISA-L (``speechssl[fast]``) computes it with the processor's carry-less products, eight times as fast as zlib.
"""

from collections.abc import Callable

__all__ = ["crc32"]


def _best() -> Callable[[bytes | bytearray | memoryview], int]:
    try:
        from isal.isal_zlib import crc32 as found
    except ImportError:
        from zlib import crc32 as found
    return found


crc32 = _best()
