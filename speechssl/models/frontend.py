"""Stems: waveform samples in, frame features out.

In: wave [B, T] at 16 kHz and, when rows are padded, their lengths [B]. Out: features [B, F, C], zero after each row's
last frame. Both stems share one interface: ``hop``, ``receptive``, ``dim``, ``frames(samples)``. Neither pads: frame f
sees the samples from ``f * hop`` to ``f * hop + receptive`` and nothing else, so an utterance has the same frames alone
and in a batch.
"""

from typing import Protocol

from torch import Tensor

from speechssl.config import FrontendConfig
from speechssl.models.frame_counts import FrameGrid, Samples
from speechssl.models.logmel import LogMelStem, mel_filterbank
from speechssl.models.waveform import WaveformStem

__all__ = ["Frontend", "LogMelStem", "Samples", "WaveformStem", "build_frontend", "mel_filterbank"]


class Frontend(Protocol):
    """What the encoder and the data side rely on."""

    hop: int
    """Samples between frames."""
    receptive: int
    """Samples that one frame sees."""
    dim: int
    """Channels C of the features."""
    grid: FrameGrid
    """Where the frames lie: ``hop``, ``receptive`` and ``frames`` without the stem."""

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
