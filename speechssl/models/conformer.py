"""Conformer block: feed-forward, attention, convolution, feed-forward, each with a residual (Gulati et al. 2020).

In and out: [B, F, D], float32 between the parts. Padding arrives as a boolean mask over keys, or as None.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import EncoderConfig
from speechssl.core.errors import ConfigError
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.norm import LayerNorm, at_least_float32
from speechssl.models.relative_position import Relative
from speechssl.models.transformer import Attention, linear, take_frames

__all__ = ["ConformerBlock"]


class FeedForward(nn.Module):
    """Layer norm, and two linear layers around a Swish (figure 4)."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(cfg.dim)
        self.up = linear(cfg.dim, cfg.ffn_dim)
        self.down = linear(cfg.ffn_dim, cfg.dim)
        self.activation_dropout = Dropout(cfg.activation_dropout)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch of x, without the residual."""
        return self.dropout(self.down(self.activation_dropout(F.silu(self.up(self.norm(x))))))


class Convolution(nn.Module):
    """Layer norm, pointwise convolution and GLU, depthwise convolution, norm, Swish, pointwise convolution (figure 2).

    The norm after the depthwise convolution is a layer norm over the channels of a frame, or none. The batch norm of
    the paper would make an utterance depend on its neighbours and on padding. Padding is zero before the depthwise
    convolution; in transformers it is not. A causal one has ``kernel - 1`` frames of padding on its left.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        if cfg.conv_kernel < 1 or cfg.conv_kernel % 2 == 0:
            raise ConfigError(f"model.encoder.conv_kernel = {cfg.conv_kernel} must be odd and positive")
        before = cfg.conv_kernel - 1 if cfg.causal else cfg.conv_kernel // 2
        self.reach = (before, cfg.conv_kernel - 1 - before)
        self.norm = LayerNorm(cfg.dim)
        self.gated = linear(cfg.dim, 2 * cfg.dim)
        self.depthwise = nn.Conv1d(cfg.dim, cfg.dim, cfg.conv_kernel, groups=cfg.dim)
        self.depthwise_norm = LayerNorm(cfg.dim) if cfg.conv_norm == "layer" else nn.Identity()
        self.out = linear(cfg.dim, cfg.dim)
        self.dropout = Dropout(cfg.dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the branch of x [B, F, D], without the residual; ``key_mask`` [B, 1, 1, F] is false on padding."""
        y = F.glu(self.gated(self.norm(x)), dim=-1)
        if key_mask is not None:
            y = y.masked_fill(~key_mask[:, 0, 0, :, None], 0.0)
        y = self.depthwise(F.pad(y.transpose(1, 2), self.reach)).transpose(1, 2)
        return self.dropout(self.out(F.silu(self.depthwise_norm(at_least_float32(y)))))


class ConformerBlock(nn.Module):
    """Four parts in turn, each of which begins with a layer norm (section 2.4).

    ``x + feed-forward(x) / 2``, ``x + attention(x)``, ``x + convolution(x)``, ``norm(x + feed-forward(x) / 2)``. Where
    some frames only are visible, the convolution takes each with the next visible ones.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.first = FeedForward(cfg)
        self.attention_norm = LayerNorm(cfg.dim)
        self.attention = Attention(cfg)
        self.dropout = Dropout(cfg.dropout)
        self.convolution = Convolution(cfg)
        self.last = FeedForward(cfg)
        self.norm = LayerNorm(cfg.dim)

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the attention is added to, and its input."""
        x = x + 0.5 * self.first(x)
        return x, self.attention_norm(x)

    def closing(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x, a sum that the convolution is in, and the feed-forward branch to be added to it."""
        return x, 0.5 * self.last(x)

    def parts(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None = None, relative: Relative | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the input and the output of the last residual: what the feed-forward branch is added to, and it.

        Frames at ``positions`` need the attention of their neighbours: only the last branch is for them alone.
        """
        x, inner = self.opened(x)
        x = x + self.dropout(self.attention(inner, key_mask, None, relative))
        x = x + self.convolution(x, key_mask)
        return self.closing(take_frames(x, positions))

    def joined(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return the output of the block from its `parts`."""
        return self.norm(x + branch)

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Tensor | None = None, relative: Relative | None = None
    ) -> Tensor:
        """Map [B, F, D] to [B, F, D], or to [B, W, D]: the same frames at ``positions`` [B, W] alone."""
        return self.joined(*self.parts(x, key_mask, positions, relative))
