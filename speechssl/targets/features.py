"""What is clustered into units: MFCC, or the output of a layer of an encoder, one vector for each encoder frame.

In: whole utterances. Out: [frames, dim] float32 for each, on the frame grid of the encoder that will be trained on the
units. Both are pure: an utterance's features do not depend on the others given with it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import exact_float32
from speechssl.targets.mfcc import MFCC_DIM, MFCC_WINDOW, mfcc, nearest_frames

__all__ = ["LayerFeatures", "MfccFeatures", "NormalisedFeatures", "UnitFeatures"]


NORMALISE_EPS = 1e-4
"""Added to deviations: a dimension that does not vary stays 0."""


class UnitFeatures(Protocol):
    """A way to turn utterances into frames of features."""

    name: str
    hop: int
    """Samples from one frame to the next."""
    dim: int
    min_samples: int
    """Shorter utterances have no frame."""
    threaded: bool
    """Whether several threads may call it at a time with profit."""
    device: torch.device

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [frames, dim] float32 on ``device`` for each [T] float32 waveform."""
        ...


class MfccFeatures:
    """39 MFCC numbers, taken at the MFCC frame nearest to the centre of each encoder frame (HuBERT, iteration 1)."""

    dim = MFCC_DIM
    name = "mfcc"
    threaded = True

    def __init__(self, encoder: SpeechEncoder) -> None:
        import torchaudio.compliance.kaldi  # noqa: F401  # threads that import it first, together, see half of it

        self.hop = int(encoder.hop)
        self.receptive = int(encoder.frontend.receptive)
        self.frames = encoder.frames
        self.min_samples = max(MFCC_WINDOW, self.receptive)
        self.device = torch.device("cpu")

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [frames, 39] float32 for each waveform."""
        return [
            cepstra[nearest_frames(int(self.frames(len(wave))), len(wave), hop=self.hop, receptive=self.receptive)]
            for wave, cepstra in zip(waves, mfcc(waves), strict=True)
        ]


class LayerFeatures:
    """Output of one block of an encoder in evaluation mode (HuBERT, section 3.3: features of the previous iteration).

    Parameters
    ----------
    encoder
        It is put on ``device`` and into evaluation mode.
    layer
        0 is the input of the first block, i the output of block i (models/encoder.py).
    bf16
        Run in bfloat16 autocast.
    """

    threaded = False

    def __init__(self, encoder: SpeechEncoder, layer: int, *, device: torch.device | str, bf16: bool) -> None:
        self.encoder = encoder.to(device).eval()
        self.layer = layer
        self.device = torch.device(device)
        self.bf16 = bf16
        self.name = f"layer {layer}"
        self.hop = int(encoder.hop)
        self.dim = int(encoder.dim)
        self.min_samples = int(encoder.frontend.receptive)

    @torch.inference_mode()
    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [frames, dim] float32 for each waveform; shorter ones are padded, which does not change them."""
        lengths = torch.tensor([len(wave) for wave in waves])
        batch = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        padded = bool((lengths < batch.shape[1]).any())
        lengths = lengths.to(self.device)
        with self._autocast():
            output = self.encoder(batch.to(self.device), lengths if padded else None, stop_at=self.layer)
        frames = [int(self.encoder.frames(len(wave))) for wave in waves]
        return [row[:count].float() for row, count in zip(output.x, frames, strict=True)]

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else exact_float32()


class NormalisedFeatures:
    """Features of another kind with zero mean and unit variance in each dimension over each utterance.

    What stays the same through an utterance (the speaker's vocal tract, the channel) no longer moves its frames to
    other clusters.
    """

    def __init__(self, features: UnitFeatures) -> None:
        self.features = features
        self.name = f"{features.name}, normalised"
        self.hop, self.dim, self.min_samples = features.hop, features.dim, features.min_samples
        self.threaded, self.device = features.threaded, features.device

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [frames, dim] float32 for each waveform; an utterance of one frame becomes 0."""
        return [(row - row.mean(0)) / (row.std(0, correction=0) + NORMALISE_EPS) for row in self.features(waves)]
