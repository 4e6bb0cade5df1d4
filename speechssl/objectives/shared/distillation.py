"""What objectives with a moving-average teacher share: its normalised layers, and rules that tell a collapse."""

import torch
from torch import Tensor

from speechssl.models.norm import at_least_float32, standardise
from speechssl.models.teacher import Teacher
from speechssl.objectives.base import Rule

__all__ = ["FROZEN_TEACHER", "STEM_COLLAPSE", "TARGET_COLLAPSE", "deviation", "normalised_branches"]

TARGET_COLLAPSE = Rule(
    metric="target_deviation",
    finding="target_collapse",
    message="{name} is {value:.3f}: the teacher makes nearly the same of every frame. Go back to an earlier "
    "checkpoint with a lower optim.lr, or a longer warmup; check that the audio is not silent",
    low=0.1,
    after=0.0,
)
STEM_COLLAPSE = Rule(
    metric="feature_deviation",
    finding="stem_collapse",
    message="{name} is {value:.4f}: stem and projection make nearly the same of every frame, so the targets "
    "tell positions apart and nothing else. Go back to an earlier checkpoint with a lower optim.lr or "
    "model.frontend.grad_scale",
    low=0.01,
    after=0.0,
)
FROZEN_TEACHER = Rule(
    metric="teacher_moved",
    finding="frozen_teacher",
    message="{value:.0%} of the teacher's weights have moved since the start: it does not follow the student. "
    "Set objective.ema_start and objective.ema_end below 1",
    low=0.5,
    after=0.0,
)


@torch.no_grad()
def normalised_branches(teacher: Teacher, x: Tensor, frame_lengths: Tensor | None, top: int) -> list[Tensor]:
    """Return what the teacher's last ``top`` blocks make of projected features x [B, F, D], each [B, F, D].

    Each is the feed-forward branch of a block, with zero mean and unit variance over the frames of the utterance in
    every channel (instance normalisation).
    """
    branches = teacher.context(x, frame_lengths, branches=True).branches[-top:]
    with torch.autocast(x.device.type, enabled=False):
        return [standardise(at_least_float32(y), frame_lengths) for y in branches]


def deviation(x: Tensor) -> Tensor:
    """Return the standard deviation of [N, D] over N, a mean over D."""
    return x.std(dim=0, correction=0).mean()
