"""Stems: waveform samples in, frame features out.

In: wave [B, T] at 16 kHz and, when rows are padded, their lengths [B]. Out: features [B, F, C], zero after each row's
last frame. Both stems have ``dim`` (C) and ``grid``, with ``hop``, ``receptive`` and ``frames(samples)`` of the grid.
Neither pads: frame f sees the samples from ``f * hop`` to ``f * hop + receptive`` and nothing else, so an utterance has
the same frames alone and in a batch.
"""

from speechssl.config import FrontendConfig
from speechssl.models.frame_counts import Samples
from speechssl.models.logmel import LogMelStem, mel_filterbank
from speechssl.models.waveform import WaveformStem

__all__ = ["LogMelStem", "Samples", "WaveformStem", "build_frontend", "mel_filterbank"]


def build_frontend(cfg: FrontendConfig) -> WaveformStem | LogMelStem:
    """Return the stem that ``cfg.kind`` names.

    Raises
    ------
    ConfigError
        A size is not positive.
    """
    return WaveformStem(cfg) if cfg.kind == "waveform" else LogMelStem(cfg)
