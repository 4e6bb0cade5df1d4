"""Switch between the optimised kernels and the reference implementations they are checked against.

The fast paths are the default everywhere; ``with plain_paths():`` takes the textbook formulation instead, so that a
test or a benchmark can compare outputs, gradients and loss curves of the two.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["exact_float32", "is_plain", "plain_paths"]

_CHOICE = {"plain": False}


def is_plain() -> bool:
    """Return whether the plain paths are in use."""
    return _CHOICE["plain"]


@contextmanager
def plain_paths() -> Iterator[None]:
    """Use the plain paths inside the block, in the whole process: not for use in threads."""
    before = _CHOICE["plain"]
    _CHOICE["plain"] = True
    try:
        yield
    finally:
        _CHOICE["plain"] = before


@contextmanager
def exact_float32(exact: bool = True) -> Iterator[None]:
    """Keep float32 at 24 bits on CUDA inside the block: by default cuDNN rounds convolution inputs to TF32 (11 bits).

    With ``exact`` false, or without a CUDA device, nothing changes. The setting is that of the whole process.
    """
    if not (exact and torch.cuda.is_available()):
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
