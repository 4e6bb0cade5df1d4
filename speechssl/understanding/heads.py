"""Heads of probes: a learned mixture of standardised layers, and a small model on it.

In: features [B, L, F, D] and the number of frames of each row. Out: scores [B, F, classes], or [B, 1, classes] where
frames are pooled.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["SMALLEST", "HeadKind", "LayerMixture", "ProbeHead"]

HeadKind = Literal["linear", "mlp", "lstm", "knn"]
SMALLEST = 1e-4
"""Least deviation that a dimension is divided by."""


class LayerMixture(nn.Module):
    """Weighted sum of layers, each with zero mean and unit variance by dimension over the training set.

    The weights are a softmax of learned logits that begin equal (SUPERB: Yang et al. 2021, section 3.2).

    Parameters
    ----------
    mean, std
        [L, D] of the training set.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None].float())
        self.register_buffer("scale", 1 / std[:, None].float().clamp(min=SMALLEST))
        self.logits = nn.Parameter(torch.zeros(len(mean)))

    @property
    def weights(self) -> Tensor:
        """[L] weights of the layers, which sum to 1."""
        return self.logits.softmax(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, F, D] from [B, L, F, D]."""
        return torch.einsum("blfd,l->bfd", (x.float() - self.mean) * self.scale, self.weights)


class ProbeHead(nn.Module):
    """Layer mixture, body, one linear output.

    Parameters
    ----------
    kind
        ``linear``: no body. ``mlp``: one hidden layer with ReLU. ``lstm``: two bidirectional layers.
    mean, std
        As in :class:`LayerMixture`.
    hidden
        Width of the body.
    outputs
        Classes, or 1 for a number.
    pool
        Average the body's output over the frames: one prediction for each utterance.
    """

    def __init__(self, kind: HeadKind, mean: Tensor, std: Tensor, *, hidden: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.kind, self.pool = kind, pool
        self.mixture = LayerMixture(mean, std)
        dim = mean.shape[1]
        self.body: nn.Module = nn.Identity()
        if kind == "mlp":
            self.body = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU())
        elif kind == "lstm":
            self.body = nn.LSTM(dim, hidden // 2, num_layers=2, bidirectional=True, batch_first=True)
        self.output = nn.Linear(dim if kind == "linear" else hidden, outputs)

    def embed(self, x: Tensor, frames: Tensor) -> Tensor:
        """Return what the output layer reads: [B, F, hidden], or [B, 1, hidden] when pooled."""
        x = self.mixture(x)
        if self.kind == "lstm":
            packed = pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(self.body(packed)[0], batch_first=True, total_length=x.shape[1])
        else:
            x = self.body(x)
        if not self.pool:
            return x
        there = (torch.arange(x.shape[1]) < frames[:, None]).to(x.device)[..., None]
        return (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Return scores; ``frames`` [B] int64 on the CPU, the valid frames of each row."""
        scores: Tensor = self.output(self.embed(x, frames))
        return scores
