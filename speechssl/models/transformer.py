"""Parts of the context network: self-attention and transformer block.

In and out: [B, F, D], float32 between the parts (the residual stream stays in float32 under autocast, the matrix
products run in bfloat16). Padding arrives as a boolean mask over keys, or as None: then no mask is built.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import EncoderConfig
from speechssl.core.errors import ConfigError
from speechssl.models.kernels.choice import is_plain
from speechssl.models.kernels.dropout import Dropout, keep_mask
from speechssl.models.kernels.linear import Linear, linear_product, widened
from speechssl.models.norm import LayerNorm
from speechssl.models.relative_position import (
    DistanceBias,
    Distances,
    Gate,
    Relative,
    Rotation,
    at_positions,
    biased,
)

__all__ = ["Attention", "Block", "linear", "not_after", "product_attention", "take_frames"]


def linear(dim_in: int, dim_out: int) -> nn.Linear:
    """Return a linear layer initialised as BERT: normal with deviation 0.02, bias 0."""
    layer = Linear(dim_in, dim_out)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention through PyTorch's fused kernel.

    In a causal one, query f attends to keys 0 to f. Padding follows the frames of an utterance, so that no frame of it
    attends to padding: a causal attention is given no ``key_mask``. With gated relative positions it has a gate of its
    own for their bias, and with sinusoids a projection of its own for them.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        dim, heads = cfg.dim, cfg.heads
        if heads < 1 or dim % heads:
            raise ConfigError(f"model.encoder.dim = {dim} must be a multiple of heads = {heads}")
        self.heads = heads
        self.dropout = cfg.attention_dropout
        self.causal = cfg.causal
        self.qkv = linear(dim, 3 * dim)
        self.out = linear(dim, dim)
        self.gate = Gate(dim, heads) if cfg.relative_position == "gated" else None
        self.distance = DistanceBias(dim, heads) if cfg.relative_position == "sinusoid" else None

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None = None, relative: Relative | None = None
    ) -> Tensor:
        """Return [B, F, D], or [B, W, D] of the queries at ``positions`` [B, W].

        ``key_mask`` [B, 1, 1, F] is true where a key may be attended to; None in a causal attention. ``relative``
        is that of all F frames.
        """
        q, k, v = self.projected(x, positions, relative)
        dropout = self.dropout if self.training else 0.0
        on_cpu = q.device.type == "cpu" and (q.dtype == torch.bfloat16 or dropout) and not is_plain()
        rotated = relative is None or isinstance(relative, Rotation)
        triangle = self.causal and positions is None and rotated and not on_cpu
        mask = not_after(x.shape[1], positions, x.device) if self.causal and not triangle else key_mask
        if relative is not None:
            q, k, mask = self.related(at_positions(relative, positions), take_frames(x, positions), q, k, mask)
        if on_cpu:
            y = _cpu_attention(q, k, v, mask, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=triangle)
        return self.out(y.transpose(1, 2).flatten(2))

    def projected(
        self, x: Tensor, positions: Tensor | None = None, relative: Relative | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries at ``positions`` (all for None), keys and values of x [B, F, D], each [B, H, frames, D / H].

        An ``early`` rotation turns what queries and keys are projected from.
        """
        if isinstance(relative, Rotation) and relative.early:
            rotation = cast(Rotation, at_positions(relative, positions))
            turned = rotation(self._split(take_frames(x, positions)), self._split(x))
            inputs = (*(part.transpose(1, 2).flatten(2) for part in turned), x)
            weights = zip(inputs, self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
            q, k, v = (self._split(linear_product(part, weight, bias)) for part, weight, bias in weights)
        elif positions is None:
            q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            D = x.shape[2]
            (first, rest), biases = self.qkv.weight.tensor_split([D]), self.qkv.bias.tensor_split([D])
            q = self._split(linear_product(take_frames(x, positions), first, biases[0]))
            kv = linear_product(x, rest, biases[1])
            k, v = kv.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _split(self, x: Tensor) -> Tensor:
        """Return the heads of x [B, F, D] as [B, H, F, D / H]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def related(
        self, relative: Relative, x: Tensor, q: Tensor, k: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return queries, keys and mask with relative positions in them; x [B, W, D] is the input of the queries."""
        if isinstance(relative, Rotation):
            return (q, k, mask) if relative.early else (*relative(q, k), mask)
        if isinstance(relative, Distances):
            assert self.distance is not None
            q, bias = self.distance(q, relative)
        else:
            bias = relative if self.gate is None else self.gate(x) * relative
        return q, k, biased(bias, mask).to(q.dtype)


def not_after(frames: int, positions: Tensor | None, device: torch.device) -> Tensor:
    """Return [1, 1, F, F] bool, true where a key (last) is not after a query; [B, 1, W, F] for queries at positions."""
    keys = torch.arange(frames, device=device)
    queries = keys if positions is None else positions[:, None]
    return (keys <= queries[..., None]).view(-1, 1, queries.shape[-1], frames)


def _cpu_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of [B, H, T, D] on a CPU, in bfloat16 or with dropout, where PyTorch's fused kernel is slow.

    Two products; for bfloat16 in float32 where the processor has no products in bfloat16.
    """
    if q.dtype != torch.bfloat16 or not widened(q):
        return product_attention(q, k, v, mask, dropout)
    mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
    with torch.autocast("cpu", enabled=False):
        wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, dropout_p=dropout)
        return wide.to(q.dtype)


def take_frames(x: Tensor, positions: Tensor | None) -> Tensor:
    """Return the frames of x [B, F, D] at ``positions`` [B, W] as [B, W, D]; all of them for None."""
    return x if positions is None else x.gather(1, positions[..., None].expand(-1, -1, x.shape[2]))


def product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention as two batched products and a softmax; [B, H, T, D] each. A mask that is not boolean is added.

    On a CPU in bfloat16 the fused kernel's backward pass is slow: forward and backward of this take a quarter of the
    time at 133 frames and two thirds at 750. With dropout there is no fused kernel on a CPU, and PyTorch's own dropout
    draws one double per weight. On other devices, and in float32 without dropout, the fused kernel wins. ``dropout`` is
    the probability of leaving a weight out.
    """
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    # Autocast would widen the softmax to float32 and with it the second product's input: twice the memory traffic.
    with torch.autocast(q.device.type, enabled=False):
        weights = torch.softmax(scores, dim=-1)
        if dropout and torch.compiler.is_compiling():
            weights = F.dropout(weights, dropout)
        elif dropout:
            weights, v = weights * keep_mask(weights, dropout), v * (1 / (1 - dropout))
        return torch.matmul(weights, v)


class Block(nn.Module):
    """Attention and feed-forward with residuals; norms after each sum (post: BASE) or before each branch (pre)."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.pre = cfg.norm == "pre"
        self.attention = Attention(cfg)
        self.attention_norm = LayerNorm(cfg.dim)
        self.up = linear(cfg.dim, cfg.ffn_dim)
        self.down = linear(cfg.ffn_dim, cfg.dim)
        self.ffn_norm = LayerNorm(cfg.dim)
        self.dropout = Dropout(cfg.dropout)
        self.activation_dropout = Dropout(cfg.activation_dropout)

    def ffn(self, x: Tensor) -> Tensor:
        """Return the feed-forward branch of x."""
        return self.dropout(self.down(self.activation_dropout(F.gelu(self.up(x)))))

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the attention is added to, and its input."""
        return x, self.attention_norm(x) if self.pre else x

    def closing(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the feed-forward branch is added to, and it, from the sum that the attention is in."""
        if self.pre:
            return x, self.ffn(self.ffn_norm(x))
        x = self.attention_norm(x)
        return x, self.ffn(x)

    def parts(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None = None, relative: Relative | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the input and the output of the last residual: what the feed-forward branch is added to, and it."""
        x, inner = self.opened(x)
        attended = self.attention(inner, key_mask, positions, relative)
        return self.closing(take_frames(x, positions) + self.dropout(attended))

    def joined(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the output of the block from its `parts`."""
        return x + branch if self.pre else self.ffn_norm(x + branch)

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None = None, relative: Relative | None = None
    ) -> Tensor:
        """Map [B, F, D] to [B, F, D], or to [B, W, D]: the same frames at ``positions`` [B, W] alone."""
        return self.joined(*self.parts(x, key_mask, positions, relative))
