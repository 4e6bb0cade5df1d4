"""Keyed randomness: every random decision about data is a pure function of named parts.

In: any sequence of strings and integers, such as ``("crop", seed, epoch, utterance_id)``. Out: a 64-bit key or a numpy
generator. Nothing depends on call order, process, rank or worker, which is what makes resuming exact.
"""

import hashlib

import numpy as np

__all__ = ["generator", "key"]


def key(*parts: str | int) -> int:
    """Return a 63-bit non-negative integer that depends on all parts, their order and their types."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """Return a PCG64 generator keyed by the parts; two calls with equal parts give equal streams."""
    return np.random.Generator(np.random.PCG64(key(*parts)))
