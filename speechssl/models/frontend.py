"""Stems: waveform samples in, frame features out.

In: wave [B, T] at 16 kHz and, when rows are padded, their lengths [B]. Out: features [B, F, C], zero after each row's
last frame. Both stems share one interface: ``hop``, ``receptive``, ``dim``, ``frames(samples)``. Neither pads: frame f
sees the samples from ``f * hop`` to ``f * hop + receptive`` and nothing else, so an utterance has the same frames alone
and in a batch.
"""

import math
from typing import Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.config import FrontendConfig
from speechssl.errors import ConfigError
from speechssl.models.norm import LayerNorm, at_least_float32, frame_mask

__all__ = ["Frontend", "LogMelStem", "Samples", "WaveformStem", "build_frontend", "mel_filterbank"]

SAMPLE_RATE = 16_000
WINDOW = 400
"""Samples of one log-mel frame: 25 ms."""
STRIDE = 160
"""Samples between log-mel frames: 10 ms."""
FFT = 512
LOG_FLOOR = 1e-8
"""Added to mel energies before the logarithm: about the energy of rounding noise in 16-bit audio, and a guard for
silence."""

Samples = TypeVar("Samples", int, Tensor)


class Frontend(Protocol):
    """What the encoder and the data side rely on."""

    hop: int
    """Samples between frames."""
    receptive: int
    """Samples that one frame sees."""
    dim: int
    """Channels C of the features."""

    def frames(self, samples: Samples) -> Samples:
        """Return the number of frames of ``samples`` samples (0 when there are fewer than ``receptive``)."""
        ...

    def __call__(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features [B, F, C] of wave [B, T]."""
        ...


def build_frontend(cfg: FrontendConfig) -> "WaveformStem | LogMelStem":
    """Return the stem that ``cfg.kind`` names.

    Raises
    ------
    ConfigError
        A size is not positive.
    """
    return WaveformStem(cfg) if cfg.kind == "waveform" else LogMelStem(cfg)


def _positive(samples: Samples) -> Samples:
    """Clamp a count at 0."""
    return samples.clamp(min=0) if isinstance(samples, Tensor) else max(0, samples)


def _check(wave: Tensor, receptive: int) -> None:
    if wave.ndim != 2:
        raise ValueError(f"expected a wave of shape [batch, samples], got {list(wave.shape)}")
    if wave.shape[1] < receptive:
        raise ValueError(
            f"a batch of {wave.shape[1]} samples is shorter than one frame ({receptive} samples); "
            "leave out shorter utterances (data.min_seconds)"
        )


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
        return _positive((samples - self.conv.kernel_size[0]) // self.conv.stride[0] + 1)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Map [B, C, F] to [B, C', F']; ``lengths`` are valid output frames."""
        if isinstance(self.norm, nn.GroupNorm):
            return F.gelu(_conv_group_norm(x[:, 0], self.conv, self.norm, lengths))
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


def _conv_group_norm(wave: Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """Return ``norm(conv(wave))`` [B, C, F] for one group a channel, statistics over each row's first ``lengths``
    frames.

    Everything before the GELU is linear in the K-sample windows, so mean and variance of all C channels follow from the
    windows' mean and K x K covariance, and the norm becomes part of the kernel: no pass over the C x F outputs. In
    float64, because a kernel that cancels what is loud in the windows has a variance far below theirs. The reference
    implementations take the statistics over the padding, too; there, features depend on the length of the neighbours.
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
        # A bias of the convolution moves the mean and cancels; in the graph all the same: its gradient is 0, not None.
        shift = norm.bias if conv.bias is None else norm.bias + 0.0 * conv.bias
    return torch.baddbmm(shift[:, None], weight, centred.transpose(1, 2))


class WaveformStem(nn.Module):
    """Temporal convolutions over raw samples (wav2vec 2.0, section 2: hop 320, receptive field 400 samples).

    ``norm = "group"``: group norm after the first layer only (BASE); ``"layer"``: layer norm after each layer (LARGE).
    """

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        if not cfg.conv_layers or min(min(layer) for layer in cfg.conv_layers) < 1:
            raise ConfigError(
                f"model.frontend.conv_layers needs (channels, kernel, stride) of 1 or more: {cfg.conv_layers}"
            )
        self.layers = nn.ModuleList()
        dim_in, self.hop, self.receptive = 1, 1, 1
        for index, (dim, kernel, stride) in enumerate(cfg.conv_layers):
            norm = cfg.norm if cfg.norm == "layer" or index == 0 else None
            self.layers.append(ConvLayer(dim_in, dim, kernel, stride, bias=cfg.bias, norm=norm))
            dim_in = dim
            self.receptive += (kernel - 1) * self.hop
            self.hop *= stride
        self.dim = dim_in
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
        for layer in self._layers():
            samples = layer.frames(samples)
        return samples

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
        _check(wave, self.receptive)
        x = wave[:, None, :]
        for layer in self._layers():
            lengths = None if lengths is None else layer.frames(lengths)
            x = layer(x, lengths)
        x = x.transpose(1, 2)
        return x if lengths is None else x.masked_fill(~frame_mask(lengths, x.shape[1])[..., None], 0.0)


def mel_filterbank(n_mels: int, fft: int = FFT, rate: int = SAMPLE_RATE, low: float = 20.0) -> Tensor:
    """Return [fft / 2 + 1, n_mels] triangular filters, evenly spaced on the mel scale 2595 log10(1 + f / 700).

    Each filter rises from its left neighbour's centre to 1 and falls to its right neighbour's, between ``low`` hertz
    and the Nyquist frequency. Computed in float64.

    Raises
    ------
    ConfigError
        So many filters that one of them holds no bin of the transform.
    """
    low_mel, high_mel = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (low, rate / 2))
    mels = torch.linspace(low_mel, high_mel, n_mels + 2, dtype=torch.float64, device="cpu")
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = torch.linspace(0.0, rate / 2, fft // 2 + 1, dtype=torch.float64, device="cpu")[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    filters = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0.0)
    if n_mels < 1 or bool((filters.sum(0) == 0).any()):
        raise ConfigError(f"model.frontend.n_mels = {n_mels}: use 1 to 80 filters with a {fft}-point transform")
    return filters.float()


class LogMelStem(nn.Module):
    """Log-mel filterbank, normalised per utterance, ``stack`` frames of 10 ms joined into one.

    Each mel channel has zero mean and unit variance over the utterance's own frames (its padding left out). There is
    nothing to learn here, and it costs about a thirtieth of the waveform stem; with ``stack = 4`` the encoder runs at
    25 frames a second.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        if cfg.stack < 1:
            raise ConfigError(f"model.frontend.stack = {cfg.stack}: join at least 1 frame")
        self.stack = cfg.stack
        self.hop = STRIDE * cfg.stack
        self.receptive = WINDOW + STRIDE * (cfg.stack - 1)
        self.dim = cfg.n_mels * cfg.stack
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False))
        self.register_buffer("filters", mel_filterbank(cfg.n_mels))

    def frames(self, samples: Samples) -> Samples:
        """Return the number of (stacked) frames of ``samples`` samples."""
        return _positive((samples - self.receptive) // self.hop + 1)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features [B, F, n_mels * stack]; arguments and errors as in :class:`WaveformStem`."""
        _check(wave, self.receptive)
        with torch.autocast(wave.device.type, enabled=False):  # powers span ten decades: never in bfloat16
            frames = at_least_float32(wave).unfold(1, WINDOW, STRIDE) * self.window
            power = torch.fft.rfft(frames, n=FFT).abs().square()
            mel = torch.log(power @ self.filters + LOG_FLOOR)
            short = None if lengths is None else _positive((lengths - WINDOW) // STRIDE + 1)
            mel = _standardise(mel, short)
        count = mel.shape[1] // self.stack
        x = mel[:, : count * self.stack].reshape(mel.shape[0], count, self.dim)
        return x if lengths is None else x.masked_fill(~frame_mask(self.frames(lengths), count)[..., None], 0.0)


def _standardise(x: Tensor, lengths: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Give each channel of [B, F, C] zero mean and unit variance over each row's valid frames."""
    if lengths is None:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + eps)
    valid = frame_mask(lengths, x.shape[1])[..., None]
    count = lengths.clamp(min=1).to(x.dtype)[:, None, None]
    mean = x.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count
    variance = (x - mean).masked_fill(~valid, 0.0).square().sum(1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + eps)
