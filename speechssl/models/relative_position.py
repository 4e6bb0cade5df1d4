"""Relative positions in self-attention: a bias of the scores, or a rotation of queries and keys.

In: the places of queries [B, W] and keys [B, F] in their utterances, int64 (B is 1 where all rows agree). Out: for all
blocks, [B, H, W, F] to be added to the scores, with or without a gate of the block's own, or a `Rotation`, or
`Distances`, from which each block makes a bias of its own.
"""

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from speechssl.config import EncoderConfig
from speechssl.core.errors import ConfigError
from speechssl.models.norm import at_least_float32

__all__ = [
    "Alibi",
    "BucketedBias",
    "DistanceBias",
    "Distances",
    "Gate",
    "Relative",
    "Rotary",
    "Rotation",
    "Sinusoids",
    "at_positions",
    "biased",
    "build_relative_position",
]


class BucketedBias(nn.Module):
    """Learned bias d of each head and distance, shared by all blocks (WavLM, section III-A).

    Half of the buckets are for keys after the query. Of each half, the first half holds one distance a bucket; the rest
    grows with the logarithm, and the last bucket holds ``distance`` and beyond.
    """

    def __init__(self, heads: int, buckets: int = 320, distance: int = 800) -> None:
        super().__init__()
        self.buckets = buckets
        self.distance = distance
        self.embedding = nn.Parameter(torch.empty(buckets, heads).normal_(std=0.02))

    def bucket(self, offset: Tensor) -> Tensor:
        """Return the bucket of keys that stand ``offset`` frames after their query."""
        half, exact = self.buckets // 2, self.buckets // 4
        far = offset.abs()
        growth = torch.log(far.clamp(min=1).float() / exact) / math.log(self.distance / exact)
        logarithmic = (exact + growth * (half - exact)).long().clamp(max=half - 1)
        return half * (offset > 0) + torch.where(far < exact, far, logarithmic)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias [B, H, W, F] of queries [B, W] and keys [B, F]."""
        return self.embedding[self.bucket(keys[:, None, :] - queries[..., None])].movedim(-1, 1)


class Gate(nn.Module):
    """Factor of the shared bias for each head and query of one block (WavLM, section III-A).

    With x the query's part of a head in the input of the attention [D / H]::

        update = sigmoid(-u . x)    reset = sigmoid(w . x)
        bias = d + update d + (1 - update) s reset d

    u and w are shared by the heads; each head has a scale s. ``project`` gives -u . x and w . x.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim // heads, 2)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Return the factor [B, H, W, 1] of the queries' inputs x [B, W, D]."""
        kept, reset = self.project(x.unflatten(-1, (len(self.scale), -1))).sigmoid().unbind(-1)
        return (2.0 - kept + kept * reset * self.scale).transpose(1, 2)[..., None]


class Alibi(nn.Module):
    """Bias that falls with the distance: ``-s m |j - i|`` for query i and key j of a head.

    The slopes m are fixed (ALiBi, section 3): 2^(-8/H), 2^(-16/H) ... for H heads, where H is a power of two. Frames
    before and after count alike. The scale s >= 0 of each head is learned, shared by all blocks and 1 at first
    (data2vec 2.0).
    """

    slopes: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(_slopes(heads)), persistent=False)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias [B, H, W, F] of queries [B, W] and keys [B, F]."""
        distance = (keys[:, None, :] - queries[..., None]).abs()[:, None]
        return -(self.slopes * self.scale.clamp(min=0.0))[:, None, None] * distance


def _slopes(heads: int) -> list[float]:
    """Return the slope of each head; those beyond a power of two are every other one of twice that power."""
    power = 1 << heads.bit_length() - 1
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + ([] if power == heads else _slopes(2 * power)[::2][: heads - power])


class Rotation(NamedTuple):
    """Cosine and sine of the angles of each frame, [2, B, 1, W, C / 2] and [2, B, 1, F, C / 2]."""

    queries: Tensor
    keys: Tensor
    early: bool = False
    """Whether the input of the projections is rotated, and not what they give."""

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries [B, H, W, C] and keys [B, H, F, C], rotated."""
        return _rotated(q, self.queries), _rotated(k, self.keys)


class Rotary(nn.Module):
    """Rotation of queries and keys by angles that grow with the frame: their products depend on the distance alone.

    Channels c and c + C/2 of a head turn by ``frame * 10000^(-2c/C)`` (RoPE, section 3.4.2; the pairs are those of
    transformers). An ``early`` rotation turns their input instead, so that more than the distance enters the products.
    """

    def __init__(self, size: int, *, early: bool = False) -> None:
        super().__init__()
        if size % 2:
            raise ConfigError(
                f"model.encoder: rotary positions need an even number of channels a head, dim / heads = {size}"
            )
        self.size = size
        self.early = early

    def forward(self, queries: Tensor, keys: Tensor) -> Rotation:
        """Return the rotation of queries [B, W] and keys [B, F]."""
        return Rotation(self._angles(queries), self._angles(keys), self.early)

    def _angles(self, frames: Tensor) -> Tensor:
        channels = torch.arange(0, self.size, 2, device=frames.device, dtype=torch.float64)
        angles = frames[:, None, :, None] * 10_000.0 ** (-channels / self.size)
        return torch.stack([angles.cos(), angles.sin()])


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.to(at_least_float32(x).dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Distances(NamedTuple):
    """Sinusoids of distances [R, D], and which of them belongs to query and key, int64 [B, W, F]."""

    table: Tensor
    rows: Tensor


class Sinusoids(nn.Module):
    """Sinusoids of the distance from key to query (Transformer-XL, section 3.3).

    Channels 2c and 2c + 1 of distance r are the sine and the cosine of ``r * 10000^(-2c/D)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, queries: Tensor, keys: Tensor) -> Distances:
        """Return the distances of queries [B, W] from keys [B, F]."""
        distance = queries[..., None] - keys[:, None, :]
        least = distance.min()
        channels = torch.arange(0, self.dim, 2, device=distance.device, dtype=torch.float64)
        rows = torch.arange(int(least), int(distance.max()) + 1, device=distance.device)
        angles = rows[:, None] * 10_000.0 ** (-channels / self.dim)
        return Distances(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1), distance - least)


class DistanceBias(nn.Module):
    """What one block makes of `Sinusoids` (Transformer-XL, section 3.3).

    The score of query q and key k, at the distance of sinusoids r, is ``((q + u) . k + (q + v) . W r) / sqrt(C)`` for a
    head of C channels with learned u and v.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.content = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.place = nn.Parameter(torch.zeros(heads, 1, dim // heads))

    def forward(self, q: Tensor, distances: Distances) -> tuple[Tensor, Tensor]:
        """Return queries [B, H, W, C] plus u, and the bias [B, H, W, F] of their scores."""
        table = self.project(distances.table.to(self.project.weight.dtype)).unflatten(1, (q.shape[1], -1))
        scores = torch.matmul(q + self.place, table.permute(1, 2, 0).to(self.place.dtype)) * q.shape[-1] ** -0.5
        rows = distances.rows[:, None].expand(len(scores), scores.shape[1], -1, -1)
        return (q + self.content).to(q.dtype), scores.gather(-1, rows)


Relative: TypeAlias = Tensor | Rotation | Distances
"""Relative positions of queries and keys: a bias, a rotation, or sinusoids of the distances."""


def at_positions(relative: Relative, positions: Tensor | None) -> Relative:
    """Return the relative positions of the queries at ``positions`` [B, W] alone; of all of them for None."""
    if positions is None:
        return relative
    if isinstance(relative, Rotation):
        return relative._replace(queries=relative.queries[:, 0, 0][:, positions][:, :, None])
    if isinstance(relative, Distances):
        return relative._replace(rows=relative.rows[0][positions])
    return relative[0][:, positions].transpose(0, 1)


def biased(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Return a bias [B, H, W, F], minus infinity where ``mask`` (broadcast to it) is false."""
    return bias if mask is None else bias.masked_fill(~mask, -math.inf)


def build_relative_position(cfg: EncoderConfig) -> BucketedBias | Alibi | Rotary | Sinusoids | None:
    """Return what makes the relative positions that the encoder's blocks share.

    Raises
    ------
    ConfigError
        Rotary positions with an odd number of channels a head.
    """
    match cfg.relative_position:
        case "gated":
            return BucketedBias(cfg.heads)
        case "alibi":
            return Alibi(cfg.heads)
        case "rotary" | "rotary_input":
            return Rotary(cfg.dim // cfg.heads, early=cfg.relative_position == "rotary_input")
        case "sinusoid":
            return Sinusoids(cfg.dim)
        case "none":
            return None
