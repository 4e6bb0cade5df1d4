"""MFCC features of whole utterances, and their alignment to encoder frames: what HuBERT's first iteration clusters.

In: waveforms at 16 kHz. Out: 39 numbers (13 cepstra, deltas, delta-deltas) every 10 ms, as in HuBERT (section 4.2), and
for each encoder frame the MFCC frame whose centre is nearest.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from speechssl.data.audio.decode import SAMPLE_RATE

__all__ = ["MFCC_DIM", "MFCC_HOP", "MFCC_WINDOW", "mfcc", "mfcc_frames", "nearest_frames"]

MFCC_HOP = 160
"""Samples from one frame to the next (10 ms)."""
MFCC_WINDOW = 400
"""Samples in one window (25 ms); no frame reaches beyond the waveform."""
MFCC_DIM = 39


def mfcc_frames(samples: int) -> int:
    """Return the number of MFCC frames of a waveform."""
    return 0 if samples < MFCC_WINDOW else 1 + (samples - MFCC_WINDOW) // MFCC_HOP


def mfcc(waves: Sequence[np.ndarray]) -> list[Tensor]:
    """Return the [frames, 39] float32 features of each waveform ([T] float32, at least one window long).

    The waveforms are joined end to end, each filled up to whole hops, so that one call of torchaudio's Kaldi-compatible
    MFCC serves them all: its frames do not depend on each other, and those across a seam are dropped.
    """
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    hops = [-(-len(wave) // MFCC_HOP) for wave in waves]
    starts = list(accumulate(hops, initial=0))
    # One window more than the audio, so that the last frame exists wherever the last waveform ends.
    joined = torch.zeros(starts[-1] * MFCC_HOP + MFCC_WINDOW)
    for start, wave in zip(starts, waves, strict=False):
        joined[start * MFCC_HOP : start * MFCC_HOP + len(wave)] = torch.from_numpy(wave)
    cepstra = kaldi.mfcc(joined[None], sample_frequency=SAMPLE_RATE, use_energy=False)
    features = []
    for start, wave in zip(starts, waves, strict=False):
        own = cepstra[start : start + mfcc_frames(len(wave))].t()
        deltas = compute_deltas(own)
        features.append(torch.cat([own, deltas, compute_deltas(deltas)]).t().contiguous())
    return features


def nearest_frames(frames: int, samples: int, *, hop: int, receptive: int) -> np.ndarray:
    """Return the MFCC frame whose centre is nearest to each encoder frame of an utterance, int64 [frames].

    Encoder frame i covers samples ``i * hop .. i * hop + receptive``, MFCC frame j ``160 j .. 160 j + 400``. With the
    waveform stem (320, 400) this is every second MFCC frame, as in HuBERT's released labels.
    """
    centres = np.arange(frames) * hop + receptive / 2
    nearest = np.floor((centres - MFCC_WINDOW / 2) / MFCC_HOP + 0.5).astype(np.int64)
    return nearest.clip(0, max(0, mfcc_frames(samples) - 1))
