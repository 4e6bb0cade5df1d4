"""Settings of the objectives that predict masked frames, and of what they share: masks, targets, bottleneck.

In a configuration: a table ``[objective]`` with ``kind = "hubert"`` and the fields of that objective only. What several
objectives share is a table inside it.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BestRqConfig",
    "BottleneckConfig",
    "Data2VecConfig",
    "DinoSrConfig",
    "HubertConfig",
    "MaskConfig",
    "MaskedReconstructionConfig",
    "MaskedUnitsConfig",
    "TargetsConfig",
    "TeacherConfig",
    "Wav2Vec2Config",
    "WavLmConfig",
]


@dataclass(frozen=True)
class MaskConfig:
    """Span masking of encoder frames (wav2vec 2.0, section 3.1)."""

    prob: float = 0.65
    """Expected share of frames that would be masked if spans never overlapped."""
    length: int = 10
    """Frames in a span."""
    min_spans: int = 2
    """Fewest spans of an utterance."""


@dataclass(frozen=True)
class TeacherConfig:
    """The model whose layer is clustered into the units of the first iteration, instead of MFCC."""

    model: str = ""
    """Model folder (ours, or of Hugging Face), or a torchaudio state dict (.pt, .pth), of any size; its frames must lie
    as far apart as those of the new model. Empty: none."""
    layer: int = 0
    """Its layer, from 1."""
    kmeans: str = ""
    """``units/kmeans.npz`` of an earlier run on the same features, to use its clusters. Empty: fit them."""


@dataclass(frozen=True)
class TargetsConfig:
    """Targets that are made offline (HuBERT, section 3): k-means units. Each list has one item an iteration."""

    steps: tuple[int, ...] = (250_000, 400_000)
    """Updates in each iteration; their sum replaces ``training.steps``."""
    clusters: tuple[int, ...] = (100, 500)
    """Clusters of the k-means, which are the units to predict."""
    layers: tuple[int, ...] = (0, 6)
    """Layer of the previous iteration's encoder whose output is clustered; 0: MFCC. The first is always 0: give a model
    for the first iteration as ``teacher``."""
    carry_over: bool = False
    """Start iteration 2 from the encoder of iteration 1 (the paper starts afresh)."""
    kmeans_hours: float = 50.0
    """Hours of audio used to fit the k-means."""
    kmeans_starts: int = 20
    """Random starts of the k-means, of which the best is kept."""
    units_normalise: bool = False
    """Give each utterance's features zero mean and unit variance before clustering. Less of the speaker and of the
    channel is then left in the units (not in the paper)."""
    units: str = ""
    """Targets of the first iteration that were made elsewhere. An .npz file with an integer array for each utterance
    id, or JSON lines with ``id`` and ``units``."""
    units_hop: int = 0
    """Samples at 16 kHz from one unit of the file to the next, where it does not say (``hop``)."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Contrastive objective (wav2vec 2.0, equations 2 to 4)."""

    kind: Literal["wav2vec2"] = "wav2vec2"
    final_dim: int = 256
    """Width of the space in which outputs and targets are compared."""
    groups: int = 2
    """Codebooks of the quantiser."""
    entries: int = 320
    """Entries of each codebook."""
    negatives: int = 100
    """Distractors of each masked frame, drawn from the masked frames of its utterance."""
    logit_temperature: float = 0.1
    """Divisor of the cosine similarities."""
    gumbel_start: float = 2.0
    """Temperature of the Gumbel softmax at the first update."""
    gumbel_end: float = 0.5
    """Lowest temperature of the Gumbel softmax."""
    gumbel_decay: float = 0.999995
    """Factor of the temperature at each update."""
    diversity_weight: float = 0.1
    """Weight of the loss that keeps all codebook entries in use."""
    penalty_weight: float = 10.0
    """Weight of the mean squared output of the stem."""
    feature_dropout: float = 0.1
    """Dropout on the features that the quantiser sees."""
    mask: MaskConfig = field(default_factory=MaskConfig)


@dataclass(frozen=True)
class MaskedUnitsConfig:
    """What objectives share that predict units which are made offline."""

    kind: str = ""
    final_dim: int = 256
    """Width of the space in which outputs and targets are compared."""
    logit_temperature: float = 0.1
    """Divisor of the cosine similarities."""
    penalty_weight: float = 10.0
    """Weight of the mean squared output of the stem."""
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked (fairseq's ``pred_nomask_weight``). Above 0 these frames count
    in the divisor, too."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)


@dataclass(frozen=True)
class HubertConfig(MaskedUnitsConfig):
    """Masked prediction of k-means units (HuBERT, section 3)."""

    kind: Literal["hubert"] = "hubert"


@dataclass(frozen=True)
class WavLmConfig(MaskedUnitsConfig):
    """Masked prediction of the k-means units of clean speech from mixed speech (WavLM, section III)."""

    kind: Literal["wavlm"] = "wavlm"
    mix_prob: float = 0.2
    """Share of the utterances that speech of another one, or noise, is mixed into."""
    noise_share: float = 0.1
    """Share of the mixed utterances that get noise. One that is alone in its micro-batch gets noise, too."""
    speech_db: tuple[float, float] = (-5.0, 5.0)
    """Range of the energy ratio of an utterance to the speech mixed in, in decibels."""
    noise_db: tuple[float, float] = (-5.0, 20.0)
    """The same for noise."""


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
    """Dimensions in which speech and codes are compared."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.4, length=20, min_spans=1))
    """Section 4: a span of 400 ms begins at each frame of 10 ms with probability 0.01. At 20 ms a frame that is a share
    of 0.4 (if spans never overlapped), in spans of 20 frames."""


@dataclass(frozen=True)
class BottleneckConfig:
    """Variational bottleneck between the encoder and the head (arXiv 1312.6114); an extension of the autoencoders."""

    dim: int = 0
    """Latent variables of each frame; 0: no bottleneck."""
    beta: float = 1.0
    """Weight of their divergence from the prior, in nats a frame, beside the L1 loss summed over the frame."""


@dataclass(frozen=True)
class MaskedReconstructionConfig:
    """Log-mel of masked speech from the speech around it (TERA, arXiv 2007.06028)."""

    kind: Literal["masked_reconstruction"] = "masked_reconstruction"
    n_mels: int = 80
    """Log-mel channels that are predicted, whatever the encoder sees."""
    channels: int = 0
    """Most neighbouring mel channels that are hidden in all frames of an utterance, and predicted, too (the paper: 16).
    Their number is drawn, from 0 to this. Only for a log-mel stem with ``n_mels`` channels."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.15, length=4, min_spans=1))
    """The paper's 15 % in spans of 70 ms, here 80 ms of a waveform stem."""
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)


@dataclass(frozen=True)
class Data2VecConfig:
    """Regression of a teacher's layers from masked views (data2vec 2.0, section 3)."""

    kind: Literal["data2vec"] = "data2vec"
    clones: int = 8
    """Masked views of each utterance, which share one target."""
    top_layers: int = 8
    """Last blocks of the teacher that the target is the mean of; all blocks of a smaller encoder."""
    ema_start: float = 0.999
    """Decay of the teacher's moving average at the first update."""
    ema_end: float = 0.99999
    ema_steps: int = 75_000
    """Updates over which the decay goes from ``ema_start`` to ``ema_end``."""
    visible_only: bool = True
    """The blocks see the frames that are not masked, and no others. False: they see the mask embedding plus noise in
    place of each masked frame."""
    mask_noise: float = 0.01
    """Deviation of the noise: what the decoder reads in place of masked frames where the blocks have not seen any."""
    decoder_dim: int = 384
    decoder_layers: int = 4
    decoder_kernel: int = 7
    decoder_groups: int = 16
    decoder_dropout: float = 0.1
    """On what the encoder gives the decoder."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.7, length=5))
    """Spans overlap, so this masks half of the frames, which is the published share."""


@dataclass(frozen=True)
class DinoSrConfig:
    """Masked prediction of the clusters of a teacher's layers (DinoSR, section 2)."""

    kind: Literal["dinosr"] = "dinosr"
    entries: int = 256
    """Codes of each layer."""
    top_layers: int = 8
    """Last blocks of the teacher that are clustered; all blocks of a smaller encoder."""
    codebook_decay: float = 0.9
    """Decay of the moving averages that the codebooks are made of."""
    codebook_deviation: float = 1.0
    """Standard deviation of the entries at the start; targets have 1. With 0.1 more codes come into use where a step
    has few frames."""
    student_layer: Literal["last", "same"] = "last"
    """Block of the student that the codes of a layer are predicted from: its last one, or the same one (SpidR)."""
    ema_start: float = 0.999
    """Decay of the teacher's moving average at the first update."""
    ema_end: float = 0.9999
    ema_steps: int = 30_000
    """Updates over which the decay goes from ``ema_start`` to ``ema_end``; exponential: the time constant."""
    ema_schedule: Literal["linear", "exponential"] = "linear"
    """How the decay goes there (SpidR: exponential, to 1)."""
    freeze_after: int = 200_000
    """Updates after which the teacher is frozen, with the stem and the projection that it shares; 0: never."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.8, min_spans=1))
