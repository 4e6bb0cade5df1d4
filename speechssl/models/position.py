"""Positional embedding by convolutions over frames: one, as in wav2vec 2.0, or several, as in data2vec.

In: [B, F, D], zero on padding, and a boolean mask [B, F] of the frames that are not padding, or None when nothing is
padded. Out: [B, F, D], to be added to what went in.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import EncoderConfig
from speechssl.core.errors import ConfigError
from speechssl.models.kernels.choice import is_plain
from speechssl.models.kernels.fft_conv import convolve_groups
from speechssl.models.norm import at_least_float32, weight_norm

__all__ = ["DeepPositionalConvolution", "PositionalConvolution", "build_position"]


class PositionalConvolution(nn.Module):
    """Relative positional embedding: grouped convolution over frames, then GELU (wav2vec 2.0, section 2).

    The kernel is weight-normalised over its last dimension: each tap k has one magnitude, shared by all channels, and
    ``weight[..., k] = magnitude[k] * direction[..., k] / ||direction[..., k]||``. An even kernel with padding of half
    its width gives one frame too many; the last is cut. Padded frames must be zero on entry. A causal convolution has
    ``kernel - 1`` frames of padding on its left and none on its right: frame f sees frames up to f.
    """

    def __init__(self, dim: int, kernel: int, groups: int, *, causal: bool = False) -> None:
        super().__init__()
        _check_sizes(dim, kernel, groups)
        self.groups = groups
        self.kernel = kernel
        self.causal = causal
        self.direction = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.magnitude = nn.Parameter(torch.empty(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.direction, std=math.sqrt(4.0 / (kernel * dim)))
        with torch.no_grad():
            self.magnitude.copy_(self.direction.norm(dim=(0, 1), keepdim=True))

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before, and after, a frame that its embedding sees at most."""
        return (self.kernel - 1, 0) if self.causal else (self.kernel // 2, self.kernel // 2)

    def weight(self) -> Tensor:
        """Return the kernel [D, D / groups, K], computed in float32."""
        if is_plain():
            return self.direction * (self.magnitude / self.direction.norm(dim=(0, 1), keepdim=True))
        return weight_norm(self.direction, self.magnitude)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:  # noqa: ARG002 - one convolution needs no mask
        """Return the embedding of x [B, F, D], to be added to it."""
        return F.gelu(_convolved(x, self.weight(), self.bias, self))


class DeepPositionalConvolution(nn.Module):
    """Several grouped convolutions, each with layer norm without weights and GELU (data2vec, section 4.2).

    BASE has five of kernel 19. What is beyond an utterance is zero before each of them, padding as well: in fairseq and
    transformers the second convolution sees what the first has made of padding.
    """

    def __init__(self, dim: int, kernel: int, groups: int, depth: int, *, causal: bool = False) -> None:
        super().__init__()
        _check_sizes(dim, kernel, groups)
        self.groups = groups
        self.kernel = kernel
        self.causal = causal
        self.layers = nn.ModuleList(nn.Conv1d(dim, dim, kernel, groups=groups) for _ in range(depth))

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before, and after, a frame that its embedding sees at most."""
        depth = len(self.layers)
        return (depth * (self.kernel - 1), 0) if self.causal else (depth * (self.kernel // 2),) * 2

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the embedding of x [B, F, D], to be added to it."""
        for layer in cast(Iterable[nn.Conv1d], self.layers):
            x = x if valid is None else x.masked_fill(~valid[..., None], 0.0)
            x = at_least_float32(_convolved(x, layer.weight, cast(Tensor, layer.bias), self))
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x


def _check_sizes(dim: int, kernel: int, groups: int) -> None:
    if kernel < 1 or groups < 1 or dim % groups:
        raise ConfigError(
            f"model.encoder.dim = {dim} must be a multiple of pos_groups = {groups}; pos_kernel = {kernel} positive"
        )


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor, form: PositionalConvolution | DeepPositionalConvolution
) -> Tensor:
    """Return the convolution of x [B, F, D] with a kernel [D, D / groups, K]: as many frames."""
    if x.device.type in ("cpu", "cuda") and x.numel() and not is_plain():
        return convolve_groups(x, weight, form.groups, causal=form.causal) + bias
    before = form.kernel - 1 if form.causal else form.kernel // 2
    y = F.conv1d(x.transpose(1, 2), weight, bias, padding=before, groups=form.groups)
    return y[..., : x.shape[1]].transpose(1, 2)


def build_position(cfg: EncoderConfig) -> PositionalConvolution | DeepPositionalConvolution | None:
    """Return the positional embedding of an encoder; None for one without.

    Raises
    ------
    ConfigError
        Sizes that do not fit together, or a negative ``pos_depth``.
    """
    match cfg.pos_depth:
        case 0:
            return None
        case 1:
            return PositionalConvolution(cfg.dim, cfg.pos_kernel, cfg.pos_groups, causal=cfg.causal)
        case depth if depth > 1:
            return DeepPositionalConvolution(cfg.dim, cfg.pos_kernel, cfg.pos_groups, depth, causal=cfg.causal)
    raise ConfigError(f"model.encoder.pos_depth = {cfg.pos_depth} must be 0 or more")
