"""Log-mel stem: a thirtieth of the waveform stem's cost. Frames are joined, or two strided convolutions follow.

In: wave [B, T] at 16 kHz. Out: features [B, F, C] of log-mel that is standardised per utterance, zero on padding.

`FrameLogMel` gives the same on the frames of any other stem: what objectives take their targets from.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.models.frame_counts import (
    CONV2D_KERNEL,
    CONV2D_STRIDES,
    MEL_STRIDE,
    MEL_WINDOW,
    FrameGrid,
    Samples,
    check_wave,
    frame_grid,
    mel_frames,
    window_count,
)
from speechssl.models.norm import at_least_float32, frame_mask, standardise, standardise_by_past

__all__ = ["FrameLogMel", "LogMelStem", "MelAugmentation", "mel_filterbank"]

FFT = 512
LOWEST_HZ = 20.0
LOG_FLOOR = 1e-8
"""Added to mel energies before the logarithm: about the energy of rounding noise in 16-bit audio, and a guard for
silence."""


def mel_filterbank(n_mels: int) -> Tensor:
    """Return mel filters [FFT / 2 + 1, n_mels]: triangles of peak 1 on the scale 2595 log10(1 + f / 700).

    Each filter rises from its left neighbour's centre and falls to its right neighbour's, between ``LOWEST_HZ`` and the
    Nyquist frequency. Computed in float64; bit for bit those of librosa, whose import takes as long as that of torch.

    Raises
    ------
    ConfigError
        So many filters that one of them holds no bin of the transform.
    """
    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (LOWEST_HZ, SAMPLE_RATE / 2))
    centres = 700.0 * (10.0 ** (np.linspace(low, high, max(n_mels, 1) + 2) / 2595.0) - 1.0)
    ramps = centres[:, None] - np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    widths = np.diff(centres)[:, None]
    filters = np.maximum(0.0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    if n_mels < 1 or not filters.any(axis=1).all():
        raise ConfigError(f"model.frontend.n_mels = {n_mels}: use 1 to 80 filters with a {FFT}-point transform")
    return torch.from_numpy(np.ascontiguousarray(filters.T, dtype=np.float32))


def _log(energy: Tensor) -> Tensor:
    """Return ``log(energy + LOG_FLOOR)``; in an exported graph as ``log(energy / LOG_FLOOR + 1) + log(LOG_FLOOR)``.

    The optimiser of ONNX graphs takes the floor for 0.
    """
    if torch.compiler.is_exporting():
        return torch.log(energy * (1 / LOG_FLOOR) + 1.0) + math.log(LOG_FLOOR)
    return torch.log(energy + LOG_FLOOR)


@dataclass(frozen=True)
class MelAugmentation:
    """What SpecAugment does to a batch, drawn already (Park et al. 2019, arXiv 1904.08779).

    The warp comes first, then the masks. What is masked becomes 0, the mean of its channel over the utterance.
    """

    hidden_frames: Tensor
    """[B, M] bool, of frames of 10 ms."""
    hidden_mels: Tensor
    """[B, n_mels] bool."""
    source: Tensor | None = None
    """[B, M] float32: the place in time that each frame is read from, by linear interpolation. None: no time warp."""

    def __call__(self, mel: Tensor) -> Tensor:
        """Return the augmented copy of standardised log-mel [B, M, n_mels]."""
        if self.source is not None:
            before = self.source.long()
            after = (before + 1).clamp(max=mel.shape[1] - 1)
            left, right = (mel.gather(1, place[..., None].expand_as(mel)) for place in (before, after))
            mel = torch.lerp(left, right, (self.source - before).to(mel.dtype)[..., None])
        return mel.masked_fill(self.hidden_frames[..., None] | self.hidden_mels[:, None], 0.0)


class MelConvolutions(nn.Module):
    """Two 3 x 3 convolutions over time and mel channels, each with a ReLU; the stride over mel channels is 2.

    The subsampling that recognisers have before a transformer or Conformer (ESPnet's ``Conv2dSubsampling``: Dong et
    al. 2018, section 3.2). Neither pads, so a frame sees its own mel frames and nothing else.
    """

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        first, second = CONV2D_STRIDES[cfg.stack]
        self.first = nn.Conv2d(1, cfg.conv2d, CONV2D_KERNEL, (first, 2))
        self.second = nn.Conv2d(cfg.conv2d, cfg.conv2d, CONV2D_KERNEL, (second, 2))
        left = window_count(window_count(cfg.n_mels, CONV2D_KERNEL, 2), CONV2D_KERNEL, 2)
        if left < 1:
            raise ConfigError(f"model.frontend.n_mels = {cfg.n_mels}: two convolutions need at least 7 mel channels")
        self.dim = cfg.conv2d * left
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, mel: Tensor) -> Tensor:
        """Map [B, M, n_mels] to [B, F, channels * mels that are left]."""
        x = functional.relu(self.second(functional.relu(self.first(mel[:, None]))))
        return x.transpose(1, 2).flatten(2)


class LogMelStem(nn.Module):
    """Log-mel filterbank, normalised per utterance, ``stack`` frames of 10 ms joined into one.

    Each mel channel has zero mean and unit variance over the utterance's own frames (its padding left out). There is
    nothing to learn here, and it costs about a thirtieth of the waveform stem; with ``stack = 4`` the encoder runs at
    25 frames a second. With ``statistics = "past"`` mean and variance of a frame are those of the frames up to it.
    With ``conv2d`` two strided convolutions (`MelConvolutions`) follow instead, and these learn.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        self.grid = frame_grid(cfg)
        self.stack = cfg.stack
        self.past = cfg.statistics == "past"
        self.hop, self.receptive = self.grid.hop, self.grid.receptive
        self.register_buffer("window", torch.hann_window(MEL_WINDOW, periodic=False))
        self.register_buffer("filters", mel_filterbank(cfg.n_mels))
        self.convolutions = MelConvolutions(cfg) if cfg.conv2d else None
        self.dim = self.convolutions.dim if self.convolutions else cfg.n_mels * cfg.stack

    def frames(self, samples: Samples) -> Samples:
        """Return the number of (stacked) frames of ``samples`` samples."""
        return self.grid.frames(samples)

    def forward(
        self, wave: Tensor, lengths: Tensor | None = None, augmentation: MelAugmentation | None = None
    ) -> Tensor:
        """Return features [B, F, C]; arguments and errors as in :class:`WaveformStem`.

        ``augmentation`` changes the normalised log-mel, before frames are joined or convolved.
        """
        check_wave(wave, self.receptive)
        with torch.autocast(wave.device.type, enabled=False):  # powers span ten decades, too many for bfloat16
            frames = at_least_float32(wave).unfold(1, MEL_WINDOW, MEL_STRIDE) * self.window
            power = torch.fft.rfft(frames, n=FFT).abs().square()
            mel = _log(power @ self.filters)
            mel = (
                standardise_by_past(mel)
                if self.past
                else standardise(mel, None if lengths is None else mel_frames(lengths))
            )
            if augmentation is not None:
                mel = augmentation(mel)
        if self.convolutions is not None:
            x = self.convolutions(mel)
        else:
            count = mel.shape[1] // self.stack
            x = mel[:, : count * self.stack].reshape(mel.shape[0], count, self.dim)
        return x if lengths is None else x.masked_fill(~frame_mask(self.frames(lengths), x.shape[1])[..., None], 0.0)


class FrameLogMel(LogMelStem):
    """Log-mel of every frame of an encoder, whatever its stem: the frames of 10 ms that begin within it, stacked.

    Parameters
    ----------
    n_mels
        Channels of a frame of 10 ms.
    encoder
        Where the encoder's frames lie.

    Raises
    ------
    ConfigError
        The encoder's frames do not lie a multiple of 10 ms apart.
    """

    def __init__(self, n_mels: int, encoder: FrameGrid) -> None:
        if encoder.hop % MEL_STRIDE:
            raise ConfigError(
                f"log-mel targets need frames that lie a multiple of {MEL_STRIDE} samples apart, not {encoder.hop}"
            )
        super().__init__(FrontendConfig(kind="logmel", n_mels=n_mels, stack=encoder.hop // MEL_STRIDE))
        self.encoder_grid = encoder

    def forward(
        self, wave: Tensor, lengths: Tensor | None = None, augmentation: MelAugmentation | None = None
    ) -> Tensor:
        """Return [B, F, n_mels * stack] for the F frames that the encoder has of wave [B, T]."""
        frames = self.encoder_grid.frames
        # The mel windows of the last frame may end after the audio, or audio be left over: fill with zeros, or cut.
        missing = (frames(wave.shape[1]) - 1) * self.hop + self.receptive - wave.shape[1]
        valid = None if lengths is None else (frames(lengths) - 1) * self.hop + self.receptive
        return super().forward(functional.pad(wave, (0, missing)), valid, augmentation)
