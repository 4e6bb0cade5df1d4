"""Log-mel stem: nothing to learn, a thirtieth of the waveform stem's cost.

In: wave [B, T] at 16 kHz. Out: features [B, F, n_mels * stack], standardised per utterance, zero on padding.

`FrameLogMel` gives the same on the frames of any other stem: what objectives take their targets from.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.models.frame_counts import (
    MEL_STRIDE,
    MEL_WINDOW,
    FrameGrid,
    Samples,
    check_wave,
    frame_grid,
    window_count,
)
from speechssl.models.kernels.choice import is_plain
from speechssl.models.norm import at_least_float32, frame_mask, standardise, standardise_by_past

__all__ = ["FrameLogMel", "LogMelStem", "mel_filterbank"]

FFT = 512
LOWEST_HZ = 20.0
LOG_FLOOR = 1e-8
"""Added to mel energies before the logarithm: about the energy of rounding noise in 16-bit audio, and a guard for
silence."""


def mel_filterbank(n_mels: int) -> Tensor:
    """Return librosa's mel filters [FFT / 2 + 1, n_mels]: triangles of peak 1 on the scale 2595 log10(1 + f / 700).

    Each filter rises from its left neighbour's centre and falls to its right neighbour's, between ``LOWEST_HZ`` and the
    Nyquist frequency. Computed in float64. librosa is imported here and not with the module: importing it takes about
    as long as importing torch.

    Raises
    ------
    ConfigError
        So many filters that one of them holds no bin of the transform.
    """
    from librosa.filters import mel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # filters without a bin are an error below
        filters = mel(
            sr=SAMPLE_RATE, n_fft=FFT, n_mels=max(n_mels, 1), fmin=LOWEST_HZ, htk=True, norm=None, dtype=np.float64
        )
    if n_mels < 1 or not filters.any(axis=1).all():
        raise ConfigError(f"model.frontend.n_mels = {n_mels}: use 1 to 80 filters with a {FFT}-point transform")
    return torch.from_numpy(np.ascontiguousarray(filters.T, dtype=np.float32))


def _log(energy: Tensor) -> Tensor:
    """Return ``log(energy + LOG_FLOOR)``; on the plain path of ONNX graphs, whose optimiser takes the floor for 0, as
    ``log(energy / LOG_FLOOR + 1) + log(LOG_FLOOR)``.
    """
    if is_plain():
        return torch.log(energy * (1 / LOG_FLOOR) + 1.0) + math.log(LOG_FLOOR)
    return torch.log(energy + LOG_FLOOR)


class LogMelStem(nn.Module):
    """Log-mel filterbank, normalised per utterance, ``stack`` frames of 10 ms joined into one.

    Each mel channel has zero mean and unit variance over the utterance's own frames (its padding left out). There is
    nothing to learn here, and it costs about a thirtieth of the waveform stem; with ``stack = 4`` the encoder runs at
    25 frames a second. With ``statistics = "past"`` mean and variance of a frame are those of the frames up to it.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, cfg: FrontendConfig) -> None:
        super().__init__()
        self.grid = frame_grid(cfg)
        self.stack = cfg.stack
        self.past = cfg.statistics == "past"
        self.hop, self.receptive = self.grid.hop, self.grid.receptive
        self.dim = cfg.n_mels * cfg.stack
        self.register_buffer("window", torch.hann_window(MEL_WINDOW, periodic=False))
        self.register_buffer("filters", mel_filterbank(cfg.n_mels))

    def frames(self, samples: Samples) -> Samples:
        """Return the number of (stacked) frames of ``samples`` samples."""
        return self.grid.frames(samples)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return features [B, F, n_mels * stack]; arguments and errors as in :class:`WaveformStem`."""
        check_wave(wave, self.receptive)
        with torch.autocast(wave.device.type, enabled=False):  # powers span ten decades, too many for bfloat16
            frames = at_least_float32(wave).unfold(1, MEL_WINDOW, MEL_STRIDE) * self.window
            power = torch.fft.rfft(frames, n=FFT).abs().square()
            mel = _log(power @ self.filters)
            short = None if lengths is None else window_count(lengths, MEL_WINDOW, MEL_STRIDE)
            mel = standardise_by_past(mel) if self.past else standardise(mel, short)
        count = mel.shape[1] // self.stack
        x = mel[:, : count * self.stack].reshape(mel.shape[0], count, self.dim)
        return x if lengths is None else x.masked_fill(~frame_mask(self.frames(lengths), count)[..., None], 0.0)


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

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return [B, F, n_mels * stack] for the F frames that the encoder has of wave [B, T]."""
        frames = self.encoder_grid.frames
        # The mel windows of the last frame may end after the audio, or audio be left over: fill with zeros, or cut.
        missing = (frames(wave.shape[1]) - 1) * self.hop + self.receptive - wave.shape[1]
        valid = None if lengths is None else (frames(lengths) - 1) * self.hop + self.receptive
        return super().forward(functional.pad(wave, (0, missing)), valid)
