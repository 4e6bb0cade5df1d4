"""Settings of the encoder and of the pretext tasks."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "EncoderConfig",
    "FrontendConfig",
    "HubertConfig",
    "MaskConfig",
    "ModelConfig",
    "TeacherConfig",
    "Wav2Vec2Config",
]


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


@dataclass(frozen=True)
class ModelConfig:
    """The encoder that every objective shares."""

    normalize: bool = False
    """Zero mean and unit variance for each utterance's waveform (LARGE: true)."""
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)


@dataclass(frozen=True)
class MaskConfig:
    """Span masking of encoder frames (wav2vec 2.0, section 3.1)."""

    prob: float = 0.65
    """Expected share of frames that would be masked if spans never overlapped."""
    length: int = 10
    min_spans: int = 2


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Contrastive objective (wav2vec 2.0, equations 2 to 4)."""

    final_dim: int = 256
    groups: int = 2
    entries: int = 320
    """Codebook entries in each group."""
    negatives: int = 100
    logit_temperature: float = 0.1
    gumbel_start: float = 2.0
    gumbel_end: float = 0.5
    gumbel_decay: float = 0.999995
    diversity_weight: float = 0.1
    penalty_weight: float = 10.0
    """Weight of the mean squared output of the stem."""
    feature_dropout: float = 0.1
    """On the features that the quantiser sees."""


@dataclass(frozen=True)
class HubertConfig:
    """Masked prediction of k-means units (HuBERT, section 3). Each list has one item an iteration."""

    steps: tuple[int, ...] = (250_000, 400_000)
    """Updates in each iteration; their sum replaces ``training.steps``."""
    clusters: tuple[int, ...] = (100, 500)
    layers: tuple[int, ...] = (0, 6)
    """Layer of the previous iteration's encoder whose output is clustered; 0: MFCC. The first is always 0: a model that
    the first iteration learns from is the ``[teacher]``."""
    carry_over: bool = False
    """Start iteration 2 from the encoder of iteration 1 (the paper starts afresh)."""
    kmeans_hours: float = 50.0
    """Audio used to fit the k-means (drawn by key)."""
    kmeans_starts: int = 20
    """Random starts of the k-means, of which the best goes on."""
    units_normalise: bool = False
    """Give each utterance's features zero mean and unit variance before they are clustered: less of the speaker and of
    the channel is then left in the units (not in the paper)."""
    final_dim: int = 256
    logit_temperature: float = 0.1
    penalty_weight: float = 10.0
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked. Above 0 these frames count in the divisor, too (fairseq's
    ``pred_nomask_weight``)."""


@dataclass(frozen=True)
class TeacherConfig:
    """The model whose layer is clustered into the units of HuBERT's first iteration, instead of MFCC."""

    model: str = ""
    """Model folder (ours, or of Hugging Face), or a torchaudio state dict (.pt, .pth), of any size; its frames must lie
    as far apart as those of the new model. Empty: none."""
    layer: int = 0
    """Layer of it, from 1."""
    kmeans: str = ""
    """``units/kmeans.npz`` of an earlier run on the same features: its clusters instead of new ones, so that the units
    of this corpus mean what those of that one did. Empty: clusters are fitted."""
