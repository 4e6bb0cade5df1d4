"""Low-rank adapters of self-attention (LoRA, Hu et al. 2021), and which weights of an encoder are trained.

In: an encoder and ``AdaptConfig``. Out: the same encoder, whose attention has adapters; or one whose weights have them
added in, as it was before. Queries, keys and values are one projection here: each of the three has an adapter of its
own. ``weight`` of an adapted projection is the sum, so that code which reads weights need not know of adapters.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import AdaptConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.linear import linear_product

__all__ = ["AdaptedLinear", "add_adapters", "merge_adapters", "trained_parameters"]


class AdaptedLinear(nn.Module):
    """A linear layer plus ``alpha / rank * up @ down`` (section 4.1, equation 3), which is 0 at first.

    The outputs are divided into ``parts`` (queries, keys, values), each with factors of its own: ``down``
    [parts, rank, I] and ``up`` [parts, O / parts, rank].
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, parts: int = 1) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.down = nn.Parameter(base.weight.new_empty(parts, rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(parts, base.out_features // parts, rank))
        nn.init.uniform_(self.down, -1 / math.sqrt(base.in_features), 1 / math.sqrt(base.in_features))

    @property
    def weight(self) -> Tensor:
        """The weight [O, I] with the adapter in it."""
        return self.base.weight + self.scale * torch.matmul(self.up, self.down).flatten(0, 1)

    @property
    def bias(self) -> Tensor:
        """The bias [O], which has no adapter."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        inner = linear_product(x, self.down.flatten(0, 1), None).unflatten(-1, self.down.shape[:2])
        return self.base(x) + self.scale * torch.einsum("...pr,por->...po", inner, self.up).flatten(-2)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the linear layer with the adapter added to its weight."""
        self.base.weight.copy_(self.weight)
        return self.base


def add_adapters(encoder: SpeechEncoder, cfg: AdaptConfig) -> None:
    """Give every attention of an encoder adapters of rank ``cfg.rank``; with rank 0, do nothing.

    Raises ConfigError when ``cfg.layers`` are more than the encoder has, or the rank is above its width.
    """
    if cfg.layers > len(encoder.blocks):
        raise ConfigError(f"adapt.layers = {cfg.layers}: the encoder has {len(encoder.blocks)} blocks")
    if cfg.rank > encoder.dim:
        raise ConfigError(f"adapt.rank = {cfg.rank}: the encoder has {encoder.dim} channels; use 4 to 64")
    if cfg.rank == 0:
        return
    for block in encoder.blocks:
        attention: Any = block.attention
        attention.qkv = AdaptedLinear(attention.qkv, cfg.rank, cfg.alpha, parts=3)
        attention.out = AdaptedLinear(attention.out, cfg.rank, cfg.alpha)


def merge_adapters(encoder: SpeechEncoder) -> None:
    """Add every adapter to the weight that it belongs to; the encoder then has the tensors of one without adapters."""
    for block in encoder.blocks:
        attention: Any = block.attention
        for name in ("qkv", "out"):
            if isinstance(layer := getattr(attention, name), AdaptedLinear):
                setattr(attention, name, layer.merged())


def trained_parameters(encoder: SpeechEncoder, cfg: AdaptConfig) -> list[nn.Parameter]:
    """Return the parameters of an encoder that are trained: all, or those of adapters and of the last blocks.

    The final norm of a pre-norm encoder is trained with the last block.
    """
    if not cfg.partial:
        return list(encoder.parameters())
    last = list(encoder.blocks)[len(encoder.blocks) - max(cfg.layers, 0) :]
    parts: list[nn.Module] = [*last, *([encoder.norm] if last and encoder.cfg.encoder.norm == "pre" else [])]
    found = {parameter: None for part in parts for parameter in part.parameters()}
    for module in encoder.modules():
        if isinstance(module, AdaptedLinear):
            found |= {module.down: None, module.up: None}
    return list(found)
