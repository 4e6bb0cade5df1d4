"""Settings of the objectives: one dataclass an objective, told apart by ``kind``.

In a configuration: a table ``[objective]`` with ``kind = "hubert"`` and the fields of that objective only. What several
objectives share (masks, targets that are made offline) is a table inside it.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ApcConfig",
    "BestRqConfig",
    "CpcConfig",
    "HubertConfig",
    "MaskConfig",
    "ObjectiveConfig",
    "TargetsConfig",
    "TeacherConfig",
    "Wav2Vec2Config",
    "offline_targets",
]


@dataclass(frozen=True)
class MaskConfig:
    """Span masking of encoder frames (wav2vec 2.0, section 3.1)."""

    prob: float = 0.65
    """Expected share of frames that would be masked if spans never overlapped."""
    length: int = 10
    min_spans: int = 2


@dataclass(frozen=True)
class TeacherConfig:
    """The model whose layer is clustered into the units of the first iteration, instead of MFCC."""

    model: str = ""
    """Model folder (ours, or of Hugging Face), or a torchaudio state dict (.pt, .pth), of any size; its frames must lie
    as far apart as those of the new model. Empty: none."""
    layer: int = 0
    """Layer of it, from 1."""
    kmeans: str = ""
    """``units/kmeans.npz`` of an earlier run on the same features: its clusters instead of new ones, so that the units
    of this corpus mean what those of that one did. Empty: clusters are fitted."""


@dataclass(frozen=True)
class TargetsConfig:
    """Targets that are made offline (HuBERT, section 3): k-means units. Each list has one item an iteration."""

    steps: tuple[int, ...] = (250_000, 400_000)
    """Updates in each iteration; their sum replaces ``training.steps``."""
    clusters: tuple[int, ...] = (100, 500)
    layers: tuple[int, ...] = (0, 6)
    """Layer of the previous iteration's encoder whose output is clustered; 0: MFCC. The first is always 0: a model that
    the first iteration learns from is the ``teacher``."""
    carry_over: bool = False
    """Start iteration 2 from the encoder of iteration 1 (the paper starts afresh)."""
    kmeans_hours: float = 50.0
    """Audio used to fit the k-means (drawn by key)."""
    kmeans_starts: int = 20
    """Random starts of the k-means, of which the best goes on."""
    units_normalise: bool = False
    """Give each utterance's features zero mean and unit variance before they are clustered: less of the speaker and of
    the channel is then left in the units (not in the paper)."""
    units: str = ""
    """Targets of the first iteration that were made elsewhere. An .npz file with an integer array for each utterance
    id, or JSON lines with ``id`` and ``units``."""
    units_hop: int = 0
    """Samples at 16 kHz from one of these units to the next, where the file does not say (``hop``)."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Contrastive objective (wav2vec 2.0, equations 2 to 4)."""

    kind: Literal["wav2vec2"] = "wav2vec2"
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
    mask: MaskConfig = field(default_factory=MaskConfig)


@dataclass(frozen=True)
class HubertConfig:
    """Masked prediction of k-means units (HuBERT, section 3)."""

    kind: Literal["hubert"] = "hubert"
    final_dim: int = 256
    logit_temperature: float = 0.1
    penalty_weight: float = 10.0
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked. Above 0 these frames count in the divisor, too (fairseq's
    ``pred_nomask_weight``)."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)


@dataclass(frozen=True)
class BestRqConfig:
    """Masked prediction of the codes of a frozen random quantiser (BEST-RQ, section 3)."""

    kind: Literal["best_rq"] = "best_rq"
    n_mels: int = 80
    """Log-mel channels of the speech that is quantised, whatever the encoder sees."""
    codebooks: int = 1
    """Quantisers, each with a projection and a softmax of its own; the loss is their mean."""
    entries: int = 8192
    """Codes of each codebook."""
    code_dim: int = 16
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.4, length=20, min_spans=1))
    """400 ms of a waveform stem, begun at one in a hundred frames of 10 ms (section 4)."""


@dataclass(frozen=True)
class ApcConfig:
    """Prediction of the log-mel of coming frames by a causal encoder (APC, section 2)."""

    kind: Literal["apc"] = "apc"
    n_mels: int = 80
    """Log-mel channels that are predicted, whatever the encoder sees."""
    ahead: int = 3
    """n: encoder frames from the last one seen to the predicted one; enough that they share no sample."""


@dataclass(frozen=True)
class CpcConfig:
    """Telling the latents of coming frames from those of others (CPC, section 2)."""

    kind: Literal["cpc"] = "cpc"
    steps: int = 12
    """K: coming frames that are predicted, each by a predictor of its own."""
    first: int = 1
    """Frames from the last one seen to the first that is predicted. At 1, receptive fields may overlap."""
    within: int = 64
    """Negatives of each frame out of its own utterance."""
    across: int = 64
    """Negatives of each frame out of the other utterances of the micro-batch."""


ObjectiveConfig = Wav2Vec2Config | HubertConfig | BestRqConfig | ApcConfig | CpcConfig
"""The settings of any objective; ``kind`` says which."""


def offline_targets(cfg: ObjectiveConfig) -> TargetsConfig | None:
    """Return how an objective's targets are made before training, None for one that needs none."""
    return getattr(cfg, "targets", None)
