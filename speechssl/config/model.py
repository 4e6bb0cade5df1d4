"""Settings of the encoder that every objective shares."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["EncoderConfig", "FrontendConfig", "ModelConfig"]


@dataclass(frozen=True)
class FrontendConfig:
    """Waveform convolution stem (wav2vec 2.0, section 2) or log-mel stem."""

    kind: Literal["waveform", "logmel"] = "waveform"
    conv_layers: tuple[tuple[int, int, int], ...] = (
        (512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2),
    )  # fmt: skip
    """(channels, kernel, stride) of each layer of the waveform stem."""
    norm: Literal["group", "layer"] = "group"
    """group: one group norm after the first layer (BASE). layer: layer norm after every layer (LARGE)."""
    bias: bool = False
    n_mels: int = 80
    """log-mel stem: channels of a 25 ms window every 10 ms."""
    stack: int = 4
    """log-mel stem: 10 ms frames joined into one encoder frame (4: 25 frames a second)."""
    statistics: Literal["utterance", "past"] = "utterance"
    """log-mel stem: frames over which the mean and variance of a channel are taken. past: those up to the frame itself,
    as a causal encoder needs."""
    grad_scale: float = 0.1
    """Scale of the gradient that enters the waveform stem (feature_grad_mult)."""


@dataclass(frozen=True)
class EncoderConfig:
    """Feature projection, convolutional positional embedding, transformer."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    ffn_dim: int = 3072
    norm: Literal["post", "pre"] = "post"
    """post: BASE. pre: LARGE (layer_norm_first)."""
    pos_kernel: int = 128
    pos_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    input_dropout: float = 0.1
    """On projected features."""
    layer_drop: float = 0.05
    causal: bool = False
    """No frame sees a later one: causal attention, and a positional convolution that is padded on the left."""


@dataclass(frozen=True)
class ModelConfig:
    """The encoder that every objective shares."""

    normalize: bool = False
    """Zero mean and unit variance for each utterance's waveform (LARGE: true)."""
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
