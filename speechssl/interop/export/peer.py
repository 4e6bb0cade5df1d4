"""What a written model answers when the program that it was written for runs it.

In: a folder that an export has filled. Out: a ``Peer``, which is given waves. asr/export.py compares it with our model.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from torch import Tensor

from speechssl.core.errors import ConfigError
from speechssl.interop.model_folder import ModelFolder

__all__ = ["Answer", "Peer", "collapsed", "missing", "symbols_of"]


class Answer(NamedTuple):
    """The output of another program for one recording."""

    values: Tensor
    """[F, V] float32: log-probabilities of a recogniser, otherwise the last output of the encoder [F, D]."""
    text: str | None = None
    """What it reads; None without a CTC head. Words are separated by single spaces."""


Peer = Callable[[Tensor], Answer]
"""Maps a wave [T] at 16 kHz, float32 with full scale 1, to the answer of another program."""


def missing(package: str, extra: str, purpose: str) -> ConfigError:
    """Return the error for an optional package that is not installed."""
    return ConfigError(f"{purpose} needs {package}; install it with pip install 'speechssl[{extra}]'")


def symbols_of(model: ModelFolder, blank: str, boundary: str) -> list[str]:
    """Return the symbols of a recogniser in the order of its outputs, with other names for blank and word boundary."""
    tokens: dict[str, Any] = model.tokens or {}
    symbols = [blank, *tokens["symbols"][1:]]
    if tokens["kind"] == "characters":
        symbols[1] = boundary
    return symbols


def collapsed(values: Tensor, symbols: Sequence[str], boundary: str = "▁") -> str:
    """Return the text of the best symbol of each frame, repeats and blanks (symbol 0) left out."""
    best = [number for number, _ in groupby(values.argmax(-1).tolist()) if number]
    return " ".join("".join(symbols[number] for number in best).replace(boundary, " ").split())
