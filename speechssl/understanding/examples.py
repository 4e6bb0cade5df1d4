"""Examples of a probe: features and targets of one split, in memory, and how predictions are scored.

In: kept features and a task. Out: batches; a loss; errors and totals of each utterance, from which intervals follow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from speechssl.understanding.tasks import Kind

__all__ = ["Examples", "batches", "errors_of", "loss_of", "statistics"]

UNIT = 1e-6
"""Squared errors are counted in millionths of the variance of the training targets."""


@dataclass(frozen=True)
class Examples:
    """Utterances of one split."""

    ids: tuple[str, ...]
    features: list[Tensor]
    """[L, F, D] each; F is 1 for pooled features."""
    targets: list[Tensor]
    """int64 [n]: labels of a transcript (-1: unknown), one class, or a class a frame (-100: none; the number of
    classes: unknown). float32 [F]: numbers (NaN: none), standardised by the training set."""

    def __len__(self) -> int:
        return len(self.ids)


def statistics(examples: Examples) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [L, D] over all frames, in float64 sums."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in examples.features:
        wide = x.double()
        count += wide.shape[1]
        total, squares = total + wide.sum(1), squares + wide.square().sum(1)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()


def batches(examples: Examples, size: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield features [B, L, F, D], zero after each row's end, frames [B], and targets."""
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        found = [examples.features[row].transpose(0, 1) for row in rows]
        frames = torch.tensor([len(x) for x in found])
        yield pad_sequence(found, batch_first=True).transpose(1, 2), frames, [examples.targets[row] for row in rows]


def loss_of(kind: Kind, scores: Tensor, frames: Tensor, targets: list[Tensor]) -> Tensor:
    """Return the mean loss of a batch: CTC by utterance, cross entropy by label, or squared error by number."""
    if kind == "text":
        known = [target[target >= 0] for target in targets]  # -1: a symbol that no output stands for
        lengths = torch.tensor([len(target) for target in known])
        logp = scores.float().log_softmax(-1).transpose(0, 1)
        joined = torch.cat(known).to(scores.device)
        losses = functional.ctc_loss(logp, joined, frames, lengths, reduction="none", zero_infinity=True)
        return losses.sum() / lengths.sum().clamp(min=1)
    if kind in ("class", "speaker"):
        return functional.cross_entropy(scores[:, 0], torch.cat(targets).to(scores.device))
    flat = torch.cat([row[: len(target)] for row, target in zip(scores, targets, strict=True)])
    wanted = torch.cat(targets).to(scores.device)
    there = ~wanted.isnan() if wanted.is_floating_point() else (wanted >= 0) & (wanted < flat.shape[1])
    if not bool(there.any()):
        return flat.sum() * 0.0
    if wanted.is_floating_point():
        return (flat[there, 0] - wanted[there]).square().mean()
    return functional.cross_entropy(flat[there], wanted[there])


def errors_of(kind: Kind, scores: Tensor, frames: Tensor, targets: list[Tensor]) -> list[tuple[int, int]]:
    """Return (errors, total) of each utterance.

    Text: edits and labels. Class: 0 or 1, and 1. Frames: wrong and labelled frames; of numbers, squared errors and
    squared distances from the training mean, in units of ``UNIT``.
    """
    if kind == "text":
        return [
            (_edits(target.tolist(), _collapsed(row[:count].argmax(-1))), len(target))
            for row, count, target in zip(scores, frames.tolist(), targets, strict=True)
        ]
    if kind in ("class", "speaker"):
        best = scores[:, 0].argmax(-1).tolist()
        return [(int(one != int(target)), 1) for one, target in zip(best, targets, strict=True)]
    found = []
    for row, target in zip(scores, targets, strict=True):
        guess = row[: len(target)].cpu()
        if target.is_floating_point():
            there = ~target.isnan()
            wrong = float((guess[there, 0] - target[there]).double().square().sum())
            found.append((round(wrong / UNIT), round(float(target[there].double().square().sum()) / UNIT)))
        else:
            there = target >= 0
            found.append((int((guess.argmax(-1)[there] != target[there]).sum()), int(there.sum())))
    return found


def _collapsed(path: Tensor) -> list[int]:
    """Return the labels of a CTC path: repeats joined, blanks (0) left out."""
    return [label for label in torch.unique_consecutive(path).tolist() if label]


def _edits(reference: list[int], guess: list[int]) -> int:
    """Return the Levenshtein distance of two sequences, by rows of the usual table."""
    if not guess:
        return len(reference)
    wanted = np.array(guess)
    row = np.arange(len(guess) + 1)
    steps = np.arange(len(guess) + 1)
    for number, label in enumerate(reference, 1):
        best = np.empty_like(row)
        best[0] = number
        best[1:] = np.minimum(row[:-1] + (wanted != label), row[1:] + 1)
        row = np.minimum.accumulate(best - steps) + steps  # insertions, left to right
    return int(row[-1])
