"""Waveform stem: seven temporal convolutions over raw samples (wav2vec 2.0, section 2).

In: wave [B, T] at 16 kHz. Out: features [B, F, C], zero on padding. The fast path keeps frames channels-last and
computes every layer as matrix products; the plain path is ``nn.Conv1d``. They differ by rounding only.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import FrontendConfig
from speechssl.models.frame_counts import Samples, check_wave, frame_grid, window_count
from speechssl.models.kernels.choice import is_plain
from speechssl.models.kernels.linear import matmul
from speechssl.models.kernels.strided_conv import convolve_rows
from speechssl.models.norm import LayerNorm, frame_mask

__all__ = ["WaveformStem", "folded_group_norm"]


class ConvLayer(nn.Module):
    """Convolution without padding, an optional norm, GELU."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int, *, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim_in, dim, kernel, stride, bias=bias)
        self.norm: nn.GroupNorm | LayerNorm | None = None
        if norm is not None:
            self.norm = nn.GroupNorm(dim, dim) if norm == "group" else LayerNorm(dim)

    def frames(self, samples: Samples) -> Samples:
        """Return the output length for an input length."""
        return window_count(samples, self.conv.kernel_size[0], self.conv.stride[0])

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map [B, C, F] to [B, C', F'] the plain way; ``lengths`` are valid output frames."""
        if isinstance(self.norm, nn.GroupNorm):
            windows, kernel, shift = folded_group_norm(x[:, 0], self.conv, self.norm, lengths)
            with torch.autocast(x.device.type, enabled=False):
                return F.gelu(torch.baddbmm(shift[:, None], kernel, windows.transpose(1, 2)))
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)

    def first(self, wave: Tensor, lengths: Tensor | None, rows: int) -> Tensor:
        """Map wave [B, T] to channels-last frames [B * rows, C'], zero after each utterance's last window."""
        if isinstance(self.norm, nn.GroupNorm):
            windows, kernel, shift = folded_group_norm(wave, self.conv, self.norm, lengths)
        else:
            windows, kernel = wave.unfold(1, self.conv.kernel_size[0], self.conv.stride[0]), self.conv.weight[:, 0]
            shift = kernel.new_zeros(len(kernel)) if self.conv.bias is None else self.conv.bias
        dtype = _product_dtype(wave)
        with torch.autocast(wave.device.type, enabled=False):
            # A column of ones carries the shift: one product, and its gradient is summed in float32.
            spare = _spare_columns(windows.shape[-1] + 1, wave.device)
            windows = F.pad(F.pad(windows, (0, 1), value=1.0), (0, spare, 0, rows - windows.shape[1])).to(dtype)
            kernel = torch.cat([kernel, shift[:, None].expand(*kernel.shape[:-1], 1)], -1)
            kernel = F.pad(kernel, (0, spare)).to(dtype)
            z = matmul(windows, kernel.transpose(-1, -2)).flatten(0, 1)
        return self._activate(z)

    def rows(self, x: Tensor) -> Tensor:
        """Map channels-last frames [N * stride, C] to [N, C']."""
        z = convolve_rows(x, self.conv.weight, self.conv.stride[0])
        return self._activate(z if self.conv.bias is None else z + self.conv.bias.to(z.dtype))

    def _activate(self, z: Tensor) -> Tensor:
        return F.gelu(self.norm(z) if isinstance(self.norm, LayerNorm) else z)


def _spare_columns(inputs: int, device: torch.device) -> int:
    """Return how many columns of zeros align the rows of a product: CUDA needs them for its fastest kernels."""
    return -inputs % 16 if device.type == "cuda" else 0


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: autocast's, otherwise that of ``x`` and at least float32."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(x.dtype, torch.float32)


def folded_group_norm(
    wave: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return windows [B, F, K], kernels [B, C, K] and a shift [C] whose product is ``norm(conv(wave))``.

    One group a channel, statistics over each row's first ``lengths`` frames. Everything before the GELU is linear in
    the K-sample windows, so mean and variance of all C channels follow from the windows' mean and K x K covariance. The
    norm becomes part of the kernel, without a pass over the C x F outputs. In float64, because the variance of a
    kernel's output can be far below that of the windows. The reference implementations include the padding in the
    statistics; there, features depend on the length of the neighbours.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    with torch.autocast(wave.device.type, enabled=False):
        windows = wave.unfold(1, kernel, stride).double()
        if lengths is None:
            count: Tensor | int = windows.shape[1]
            centred = windows - windows.mean(1, keepdim=True)
        else:
            count = lengths.clamp(min=1)[:, None, None]
            padding = ~frame_mask(lengths, windows.shape[1])[..., None]
            mean = windows.masked_fill(padding, 0.0).sum(1, keepdim=True) / count
            centred = (windows - mean).masked_fill(padding, 0.0)
        weight = conv.weight[:, 0].double()
        variance = ((weight @ (centred.transpose(1, 2) @ centred / count)) * weight).sum(2)
        weight = weight * (norm.weight * torch.rsqrt(variance + norm.eps))[..., None]
        dtype = torch.promote_types(wave.dtype, torch.float32)
        weight, centred = weight.to(dtype), centred.to(dtype)
        # The norm removes the convolution's bias. It stays in the graph, so that its gradient is 0 and not None.
        shift = norm.bias if conv.bias is None else norm.bias + 0.0 * conv.bias
    return centred, weight, shift


class WaveformStem(nn.Module):
    """Temporal convolutions over raw samples (wav2vec 2.0, section 2: hop 320, receptive field 400 samples).

    ``norm = "group"``: group norm after the first layer only (BASE); ``"layer"``: layer norm after each layer (LARGE).
    """

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        self.grid = frame_grid(cfg)
        self.hop, self.receptive = self.grid.hop, self.grid.receptive
        self.layers = nn.ModuleList()
        dim_in = 1
        for index, (dim, kernel, stride) in enumerate(cfg.conv_layers):
            norm = cfg.norm if cfg.norm == "layer" or index == 0 else None
            self.layers.append(ConvLayer(dim_in, dim, kernel, stride, bias=cfg.bias, norm=norm))
            dim_in = dim
        self.dim = dim_in
        self._row_unit = self.hop // cfg.conv_layers[0][2]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the kernels as He et al. (kaiming normal) and the biases with 0."""
        for layer in self._layers():
            nn.init.kaiming_normal_(layer.conv.weight)
            if layer.conv.bias is not None:
                nn.init.zeros_(layer.conv.bias)

    def _layers(self) -> list[ConvLayer]:
        return [cast(ConvLayer, layer) for layer in self.layers]

    def frames(self, samples: Samples) -> Samples:
        """Return the number of frames of ``samples`` samples."""
        return self.grid.frames(samples)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features [B, F, C].

        Parameters
        ----------
        wave
            [B, T] samples, T at least ``receptive``.
        lengths
            [B] valid samples; None when nothing is padded.

        Raises
        ------
        ValueError
            The wave is not two-dimensional, or shorter than one frame.
        """
        check_wave(wave, self.receptive)
        x = self._plain(wave, lengths) if is_plain() else self._products(wave, lengths)
        return x if lengths is None else x.masked_fill(~frame_mask(self.frames(lengths), x.shape[1])[..., None], 0.0)

    def _plain(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """Return [B, F, C] by ``nn.Conv1d`` over channels-first activations."""
        x = wave[:, None, :]
        for layer in self._layers():
            lengths = None if lengths is None else layer.frames(lengths)
            x = layer(x, lengths)
        return x.transpose(1, 2)

    def _products(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """Return [B, F, C] by matrix products over channels-last rows.

        The number of rows of an utterance is a multiple of all later strides, so that the output of a layer is the
        input of the next one without a copy. The rows after its last frame are cut off at the end.
        """
        first, *others = self._layers()
        unit = self._row_unit
        rows = -(-first.frames(wave.shape[1]) // unit) * unit
        x = first.first(wave, None if lengths is None else first.frames(lengths), rows)
        for layer in others:
            x = layer.rows(x)
        return x.view(len(wave), -1, self.dim)[:, : self.frames(wave.shape[1])]
