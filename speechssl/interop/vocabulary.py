"""The labels of a CTC head of another library, as ours: the blank first, then the word boundary.

In: the symbol of each output, and the head. Out: the head with its rows in our order, and ``Tokens`` as plain values.
"""

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import CheckpointError

__all__ = ["ctc_head", "exported_symbols", "fairseq_symbols"]

BOUNDARY = "|"
NEVER = -1e4
"""Bias of an output that must not be chosen."""
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first symbols of every dictionary of fairseq; the first of them is the blank."""
DICTIONARY = "dict.ltr.txt"
LABELS = "labels.txt"


def ctc_head(
    weight: Tensor,
    bias: Tensor,
    symbols: Mapping[int, str],
    *,
    blank: int,
    boundary: str = BOUNDARY,
    lower: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return ``head.weight`` [V, D] and ``head.bias`` [V] in our order, and the labels.

    A vocabulary of capitals becomes one of small letters, as our transcripts are. Outputs such as ``<s>`` keep their
    place in the softmax, so that scores are those of the other library; no transcript spells them. A vocabulary without
    a word boundary gets one that is never chosen.

    Parameters
    ----------
    symbols
        Output -> symbol; an output without one gets a name that no text spells.
    blank
        The output that is the blank.
    boundary
        The symbol of the word boundary.
    lower
        The library itself gives small letters.

    Raises
    ------
    CheckpointError
        Two outputs have the same symbol, or the blank is none of them.
    """
    if not 0 <= blank < len(weight) or bias.shape != weight.shape[:1]:
        raise CheckpointError(f"the CTC head scores {len(weight)} tokens; output {blank} cannot be its blank")
    names = [symbols.get(row) or f"<output {row}>" for row in range(len(weight))]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"the vocabulary has {twice!r} twice; give each output a symbol of its own")
    letters = [name for row, name in enumerate(names) if len(name) == 1 and row != blank and name != boundary]
    small = [letter.lower() for letter in letters]
    capitals = all(letter == letter.upper() for letter in letters) and all(len(letter) == 1 for letter in small)
    if (lower or capitals) and len(set(small)) == len(small):
        names = [name.lower() if len(name) == 1 else name for name in names]
        letters = small
    rest = [row for row, name in enumerate(names) if row != blank and name != boundary]
    if boundary in names:
        order = [blank, names.index(boundary), *rest]
        weight, bias = weight[order], bias[order]
    else:
        order = [blank, *rest]
        weight = torch.cat([weight[order][:1], torch.zeros_like(weight[:1]), weight[order][1:]])
        bias = torch.cat([bias[order][:1], torch.full_like(bias[:1], NEVER), bias[order][1:]])
    tokens = {
        "kind": "characters",
        "normalise": "basic" if all(map(_is_basic, letters)) else "none",
        "symbols": ["<blank>", BOUNDARY, *(names[row] for row in rest)],
    }
    return {"head.weight": weight, "head.bias": bias}, tokens


def _is_basic(letter: str) -> bool:
    """Whether a letter stays as it is under the text normalisation ``basic``."""
    return letter == "'" or (letter == letter.lower() and unicodedata.category(letter)[0] in "LMN")


def exported_symbols(path: Path, outputs: int) -> dict[int, str] | None:
    """Return output -> symbol from the ``labels.txt`` that our export writes beside a file; None when there is none.

    Word pieces are None, too: a head is read with characters only.

    Raises CheckpointError when the number of symbols is not that of the outputs.
    """
    listing = path.parent / LABELS
    if not listing.is_file():
        return None
    symbols = listing.read_text(encoding="utf-8").splitlines()
    if len(symbols) != outputs:
        raise CheckpointError(f"{listing}: {len(symbols)} symbols, but the head of {path.name} scores {outputs} tokens")
    return dict(enumerate(symbols)) if BOUNDARY in symbols else None


def fairseq_symbols(path: Path, outputs: int) -> dict[int, str] | None:
    """Return output -> symbol from the ``dict.ltr.txt`` in the folder of a checkpoint; None when there is none.

    The dictionary has a symbol and a count a line. The outputs of fairseq have its special symbols before them;
    torchaudio keeps the blank alone.

    Raises CheckpointError when the number of symbols is not that of the outputs.
    """
    listing = path.parent / DICTIONARY
    if not listing.is_file():
        return None
    lines = listing.read_text(encoding="utf-8").splitlines()
    symbols = [line.rsplit(" ", 1)[0] for line in lines if line and not line.startswith("#")]
    for special in (SPECIAL, SPECIAL[:1]):
        if len(special) + len(symbols) == outputs:
            return dict(enumerate([*special, *symbols]))
    raise CheckpointError(f"{listing}: {len(symbols)} symbols, but the head of {path.name} scores {outputs} tokens")
