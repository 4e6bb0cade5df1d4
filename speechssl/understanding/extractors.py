"""Frames of every layer of a model, or of a baseline without training.

In: waveforms. Out: [layers, frames, dim] float32 for each, the same whatever it is batched with.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import ConfigError
from speechssl.core.precision import device_kind
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.any_model import load_any_encoder
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import exact_float32
from speechssl.targets.mfcc import MFCC_DIM, MFCC_HOP, MFCC_WINDOW, mfcc

__all__ = ["BASELINES", "EncoderLayers", "Extractor", "Spectra", "open_extractor"]

BASELINES = ("logmel", "mfcc")
MELS = 80
RANDOM = "random:"


class Extractor(Protocol):
    """A way to turn utterances into frames of several layers."""

    name: str
    layers: tuple[int, ...]
    """Numbers of the layers, as in models/encoder.py; a baseline has layer 0."""
    hop: int
    """Samples from one frame to the next."""
    receptive: int
    """Samples that the first frame sees; shorter utterances have no frame."""
    dim: int
    identity: str
    """Digest of what the frames depend on."""

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [layers, frames, dim] float32 on the CPU for each [T] float32 waveform."""
        ...


class EncoderLayers:
    """Layers of an encoder in evaluation mode.

    Raises ConfigError when a layer is not there.
    """

    def __init__(self, encoder: SpeechEncoder, name: str, *, layers: Sequence[int] = (), device: str = "cpu") -> None:
        last = len(encoder.blocks)
        if wrong := [layer for layer in layers if not 0 <= layer <= last]:
            raise ConfigError(f"{name} has the layers 0 to {last}, not {wrong[0]}")
        self.encoder, self.name = encoder.to(device).eval(), name
        self.layers = tuple(layers) or tuple(range(last + 1))
        self.hop, self.receptive, self.dim = int(encoder.hop), int(encoder.frontend.receptive), int(encoder.dim)
        digest = hashlib.blake2b(repr(encoder.cfg).encode(), digest_size=16)
        for key, value in encoder.state_dict().items():
            digest.update(key.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        self.identity = digest.hexdigest()

    @torch.inference_mode()
    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [layers, frames, dim] for each waveform; shorter ones are padded, which does not change them."""
        device = self.encoder.mask_embedding.device
        lengths = torch.tensor([len(wave) for wave in waves])
        batch = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        padded = bool((lengths < batch.shape[1]).any())
        with exact_float32():
            output = self.encoder(
                batch.to(device), lengths.to(device) if padded else None, layers=True, stop_at=max(self.layers)
            )
        stacked = torch.stack([output.layers[layer] for layer in self.layers], dim=1).float().cpu()
        counts = [int(self.encoder.frames(len(wave))) for wave in waves]
        return [row[:, :count].clone() for row, count in zip(stacked, counts, strict=True)]


class Spectra:
    """Log-mel (80 filters of Kaldi) or MFCC with their differences (39), every 10 ms, ``stack`` frames joined into one.

    They are not normalised by utterance: their means say who speaks, and through which channel.
    """

    layers: tuple[int, ...] = (0,)

    def __init__(self, name: str, *, stack: int) -> None:
        self.name, self.stack = name, stack
        self.hop, self.receptive = MFCC_HOP * stack, MFCC_WINDOW + MFCC_HOP * (stack - 1)
        self.dim = stack * (MELS if name == "logmel" else MFCC_DIM)
        self.identity = f"{name} {stack}"

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Return [1, frames, dim] for each waveform."""
        found = mfcc(waves) if self.name == "mfcc" else [_log_mel(wave) for wave in waves]
        whole = [frames[: len(frames) // self.stack * self.stack] for frames in found]
        return [frames.reshape(1, -1, self.dim) for frames in whole]


def _log_mel(wave: np.ndarray) -> Tensor:
    from torchaudio.compliance import kaldi

    scaled = torch.from_numpy(wave)[None] * 32768  # Kaldi's full scale, to which its floor belongs
    return kaldi.fbank(scaled, num_mel_bins=MELS, sample_frequency=SAMPLE_RATE)


def open_extractor(
    model: str, *, layers: Sequence[int] = (), stack: int = 2, seed: int = 1, device: str = "auto"
) -> Extractor:
    """Return what computes the frames of ``model``.

    Parameters
    ----------
    model
        A model folder or file that ``interop`` reads; ``random:`` before one for random weights in its place;
        ``logmel`` or ``mfcc``.
    layers
        Numbers of the layers; empty for all.
    stack
        Frames of 10 ms joined into one, for the baselines.
    seed
        Of the random weights.

    Raises
    ------
    CheckpointError, ConfigError
        The model cannot be read, or has no such layer.
    """
    if model in BASELINES:
        if any(layers):
            raise ConfigError(f"{model} has layer 0 alone")
        return Spectra(model, stack=stack)
    kind = device_kind(device)  # type: ignore[arg-type]
    encoder = load_any_encoder(Path(model.removeprefix(RANDOM)))
    if model.startswith(RANDOM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = SpeechEncoder(encoder.cfg)
    return EncoderLayers(encoder, model, layers=layers, device=kind)
