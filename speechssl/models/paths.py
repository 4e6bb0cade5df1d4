"""Which of two equal ways is taken: the fast path of a layer, or the plain one it is checked against.

The fast paths are the default everywhere; ``with plain_paths():`` takes the textbook formulation instead, so that a
test or a benchmark can compare outputs, gradients and loss curves of the two.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_plain", "plain_paths"]

_CHOICE = {"plain": False}


def is_plain() -> bool:
    """Say whether the plain paths are asked for."""
    return _CHOICE["plain"]


@contextmanager
def plain_paths() -> Iterator[None]:
    """Take the plain paths inside (of the whole process: not for use in threads)."""
    before = _CHOICE["plain"]
    _CHOICE["plain"] = True
    try:
        yield
    finally:
        _CHOICE["plain"] = before
