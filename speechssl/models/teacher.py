"""The teacher of self-distillation: a second encoder whose weights follow those of the student.

In: an encoder, and after each update the same encoder again. Out: what the teacher makes of projected features. The
teacher has no gradients and no dropout; its weights are float32, as the student's are, and part of every checkpoint.

``weight <- decay * weight + (1 - decay) * student's weight`` (exponential moving average; Tarvainen and Valpola 2017).
"""

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from speechssl.models.encoder import EncoderOutput, SpeechEncoder

__all__ = ["INPUT_PARTS", "Teacher", "annealed", "follow"]

INPUT_PARTS = ("frontend", "feature_norm", "projection", "mask_embedding")
"""Parts of an encoder before its positional convolution: a teacher without them reads the student's features."""


class Teacher(nn.Module):
    """A moving average of an encoder.

    Parameters
    ----------
    student
        The encoder that it starts from, and follows.
    without
        Names of parts that the teacher does not have: it shares what the student makes there.
    """

    began: Tensor
    """[parameters] first element of each tensor of weights when the teacher was made."""

    def __init__(self, student: SpeechEncoder, *, without: Sequence[str] = ()) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student)
        for name in without:
            delattr(self.encoder, name)
        self.requires_grad_(requires_grad=False)
        self.register_buffer("began", self._first_elements())
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation, whatever the objective does: targets have no dropout."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def context(
        self, x: Tensor, frame_lengths: Tensor | None, *, layers: bool = False, branches: bool = False
    ) -> EncoderOutput:
        """Return `SpeechEncoder.context` of projected features [B, F, D]."""
        return self.encoder.context(x, frame_lengths, layers=layers, branches=branches)

    @torch.no_grad()
    def follow(self, student: SpeechEncoder, decay: float, *, copied: Sequence[str] = ()) -> None:
        """Move the weights towards the student's; once after each update. Those of ``copied`` parts become equal."""
        follow(self.encoder, student, decay)
        for name in copied:
            if (part := getattr(self.encoder, name)) is not None:
                follow(part, getattr(student, name), 0.0)

    def moved(self) -> Tensor:
        """Return the share of its tensors of weights that have changed since it was made: 0 for a frozen teacher.

        Only the first element of each tensor is compared.
        """
        return (self._first_elements() != self.began).float().mean()

    def _first_elements(self) -> Tensor:
        return torch.stack([parameter.detach().flatten()[0] for parameter in self.encoder.parameters()])


@torch.no_grad()
def follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the weights of a copy, or of some of its parts, towards those of its original."""
    weights = dict(student.named_parameters())
    own = dict(average.named_parameters())
    torch._foreach_lerp_(list(own.values()), [weights[name].detach() for name in own], 1 - decay)


def annealed(start: float, end: float, step: int, steps: int, *, exponential: bool = False) -> float:
    """Return a decay that goes from ``start`` to ``end`` in a straight line over ``steps`` updates, and stays there.

    Exponential: what is left to ``end`` falls by a factor of e in each ``steps`` updates, without an end (SpidR).
    """
    if exponential:
        return end - (end - start) * math.exp(-step / steps)
    return end if step >= steps else start + (end - start) * step / steps
