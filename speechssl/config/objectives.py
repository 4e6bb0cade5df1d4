"""Settings of the objectives: one dataclass an objective, told apart by ``kind``; the union of all.

Those that predict masked frames have theirs in ``masked_objectives``.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from speechssl.config.data import AugmentConfig
from speechssl.config.masked_objectives import (
    BestRqConfig,
    BottleneckConfig,
    Data2VecConfig,
    DinoSrConfig,
    HubertConfig,
    MaskConfig,
    MaskedReconstructionConfig,
    TargetsConfig,
    Wav2Vec2Config,
    WavLmConfig,
)

__all__ = [
    "ApcConfig",
    "CpcConfig",
    "DenoiseConfig",
    "MocoConfig",
    "NextSampleConfig",
    "ObjectiveConfig",
    "PartConfig",
    "SegmentOrderConfig",
    "SimClrConfig",
    "SumConfig",
    "TransformationConfig",
    "offline_targets",
    "with_updates",
]


@dataclass(frozen=True)
class DenoiseConfig:
    """Clean log-mel of all frames from noisy, band-limited, reverberant speech (denoising autoencoder)."""

    kind: Literal["denoise"] = "denoise"
    n_mels: int = 80
    """Log-mel channels that are predicted, whatever the encoder sees."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Range of the signal-to-noise ratio, in decibels."""
    band_hz: tuple[float, float] = (1000.0, 8000.0)
    """Range of the frequency above which nothing is left, in hertz; from 8000 on everything is."""
    reverb_prob: float = 0.0
    """Share of the utterances that are heard in a room."""
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)


@dataclass(frozen=True)
class ApcConfig:
    """Prediction of the log-mel of coming frames by a causal encoder (APC, section 2)."""

    kind: Literal["apc"] = "apc"
    n_mels: int = 80
    """Log-mel channels that are predicted, whatever the encoder sees."""
    ahead: int = 3
    """n: encoder frames from the last one seen to the predicted one; enough that they share no sample."""


@dataclass(frozen=True)
class NextSampleConfig:
    """Prediction of the classes of coming samples by a causal encoder (the loss of WaveNet, section 2)."""

    kind: Literal["next_sample"] = "next_sample"
    classes: int = 256
    """Steps of the mu-law that samples are quantised with."""
    samples: int = 8
    """Samples that are predicted from each frame, with a softmax each."""
    every: int = 1
    """Samples from one of them to the next."""
    ahead: int = 1
    """Samples from the last one that a frame sees to the first that is predicted."""


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


VIEWS = AugmentConfig(gain_db=6.0, noise_snr_db=(0.0, 20.0), noise_prob=0.8, reverb_prob=0.5)


@dataclass(frozen=True)
class SimClrConfig:
    """Telling the other view of an utterance, or of a moment in it, from others (SimCLR, section 2)."""

    kind: Literal["simclr"] = "simclr"
    level: Literal["frame", "utterance"] = "frame"
    """frame: the frames of an utterance are told apart; utterance: the utterances of a micro-batch."""
    final_dim: int = 128
    """Width of the space in which views are compared."""
    logit_temperature: float = 0.1
    """Divisor of the cosine similarities."""
    gather: bool = False
    """Utterances are told apart over the micro-batches of all ranks. The result then depends on the number of ranks."""
    crop: float = 0.6
    """Share of the utterance that each view holds. Nearer to 1, a frame's position in the view tells which it is."""
    augment: AugmentConfig = field(default_factory=lambda: VIEWS)
    """What changes each view. Speeds only at the level of utterances."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.2, min_spans=1))


@dataclass(frozen=True)
class MocoConfig:
    """SimCLR's task with keys of a momentum encoder, and a queue of earlier keys (MoCo, section 3)."""

    kind: Literal["moco"] = "moco"
    level: Literal["frame", "utterance"] = "frame"
    """frame: the frames of an utterance are told from each other and from the queue; utterance: from the queue."""
    final_dim: int = 128
    """Width of the space in which views are compared."""
    logit_temperature: float = 0.07
    """Divisor of the cosine similarities."""
    queue: int = 4096
    """Keys of earlier updates that are negatives (the paper: 65,536 of images)."""
    momentum: float = 0.999
    """Decay of the momentum encoder's moving average."""
    crop: float = 0.6
    """Share of the utterance that each view holds. Nearer to 1, a frame's position in the view tells which it is."""
    augment: AugmentConfig = field(default_factory=lambda: VIEWS)
    """What changes each view. Speeds only at the level of utterances."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.2, min_spans=1))
    """Of the queries alone."""


@dataclass(frozen=True)
class TransformationConfig:
    """Telling which transformation was applied to an utterance (in the manner of arXiv 1803.07728)."""

    kind: Literal["transformation"] = "transformation"
    classes: tuple[Literal["none", "fast", "slow", "higher", "lower", "reversed", "band_limited", "polarity"], ...] = (
        "none",
        "fast",
        "slow",
        "reversed",
        "band_limited",
    )
    """Transformations that are told apart. ``fast`` and ``slow`` change speed and pitch, ``higher`` and ``lower`` the
    pitch alone. Log-mel cannot show ``polarity``."""
    factor: float = 1.25
    """How many times as fast ``fast`` is, and as high ``higher``; ``slow`` and ``lower`` have its inverse."""
    band_hz: tuple[float, float] = (1000.0, 4000.0)
    """Range of the frequency above which ``band_limited`` leaves nothing, in hertz."""


@dataclass(frozen=True)
class SegmentOrderConfig:
    """Telling the order in which the segments of an utterance were shuffled (in the manner of arXiv 1603.09246)."""

    kind: Literal["segment_order"] = "segment_order"
    segments: int = 4
    """Segments of an utterance."""
    permutations: int = 12
    """Orders that are told apart, chosen to differ in many places."""
    share: float = 0.9
    """Part of an equal share of the utterance that a segment fills; the rest is the gap to the next."""


PartConfig = (
    Wav2Vec2Config
    | HubertConfig
    | WavLmConfig
    | BestRqConfig
    | MaskedReconstructionConfig
    | DenoiseConfig
    | Data2VecConfig
    | DinoSrConfig
    | ApcConfig
    | NextSampleConfig
    | CpcConfig
    | SimClrConfig
    | MocoConfig
    | TransformationConfig
    | SegmentOrderConfig
)
"""The settings of one objective."""


@dataclass(frozen=True)
class SumConfig:
    """Two objectives on one pass of the encoder over masked audio (the form of w2v-BERT, arXiv 2108.06209)."""

    kind: Literal["sum"] = "sum"
    weights: tuple[float, float] = (1.0, 1.0)
    """Weights of the two losses, each a mean over masked frames."""
    first: PartConfig = field(default_factory=Wav2Vec2Config)
    second: PartConfig = field(default_factory=lambda: BestRqConfig(mask=MaskConfig()))
    """Another kind than the first, with the same mask."""

    @property
    def parts(self) -> tuple[PartConfig, PartConfig]:
        """Both objectives."""
        return self.first, self.second


ObjectiveConfig = PartConfig | SumConfig
"""The settings of any objective; ``kind`` says which."""


def offline_targets(cfg: ObjectiveConfig) -> TargetsConfig | None:
    """Return how an objective's targets are made before training, None for one that needs none."""
    parts = cfg.parts if isinstance(cfg, SumConfig) else (cfg,)
    return next((part.targets for part in parts if hasattr(part, "targets")), None)


def with_updates(objective: ObjectiveConfig, steps: int) -> ObjectiveConfig:
    """Return an objective whose iterations, if it has any, have ``steps`` updates in all, shared out as before."""
    changes: dict[str, Any] = {}
    for item in fields(objective):
        part = getattr(objective, item.name)
        if isinstance(part, TargetsConfig):
            ends = [round(steps * sum(part.steps[: n + 1]) / sum(part.steps)) for n in range(len(part.steps))]
            shares = tuple(max(1, end - start) for start, end in zip([0, *ends], ends, strict=False))
            changes[item.name] = replace(part, steps=shares)
        elif hasattr(part, "targets"):  # an objective inside another
            changes[item.name] = with_updates(part, steps)
    return replace(objective, **changes)
