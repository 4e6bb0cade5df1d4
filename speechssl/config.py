"""Every setting of every verb, as frozen dataclasses: the defaults are the documentation.

``settings.py`` reads TOML and ``--a.b value`` overrides into these; nothing here imports anything heavy.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "AugmentConfig",
    "CtcConfig",
    "DataConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "FrontendConfig",
    "HubertConfig",
    "ManifestConfig",
    "MaskConfig",
    "ModelConfig",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
    "ShardConfig",
    "TokensConfig",
    "TrainingConfig",
    "TranscribeConfig",
    "Wav2Vec2Config",
]

# --------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class ManifestConfig:
    """How a folder of audio becomes ``manifest.jsonl``."""

    min_seconds: float = 0.1
    """Shorter recordings are rejected."""
    max_seconds: float = 30.0
    """Longer recordings are segmented at pauses (unlabelled) or rejected (labelled: a transcript cannot be cut)."""
    max_file_seconds: float = 6 * 3600.0
    """Longer files are rejected before they are decoded."""
    segmenter: Literal["auto", "energy", "silero"] = "auto"
    """``auto`` takes silero-vad when it is installed."""
    dev_fraction: float = 0.05
    test_fraction: float = 0.05
    """Shares of labelled utterances (of speakers, where speakers are known) kept for selection and for reporting."""
    max_bad_fraction: float = 0.5
    """Stop when more than this share of the audio files is unusable (needs at least 20 files)."""
    follow_links: bool = False
    workers: int = 0
    """Processes that probe files; 0 takes one per core."""


@dataclass(frozen=True)
class ShardConfig:
    """How a manifest becomes webdataset shards at 16 kHz mono."""

    name: str = "shard"
    shard_seconds: float = 3600.0
    """Audio in one shard."""
    encoding: Literal["flac"] = "flac"
    channels: Literal["mean", "first"] = "mean"
    """How several channels become one."""
    seed: int = 0
    """Order of utterances over shards: keyed by (seed, id), so that each shard is a fair sample of the corpus."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a window of 1,000 utterances, or 100 in a row, cannot be decoded."""
    workers: int = 0
    """Processes; 0 takes one per core. The bytes written do not depend on it."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of fine-tuning audio; each keyed by (seed, epoch, id)."""

    speeds: tuple[float, ...] = ()
    """Speed factors drawn uniformly, such as (0.9, 1.0, 1.1); empty for none."""
    gain_db: float = 0.0
    """Half-width of a uniform gain, in decibels."""
    noise_snr_db: tuple[float, float] | None = None
    """Range of signal-to-noise ratios for added white-to-pink noise; None for none."""
    noise_prob: float = 0.5


@dataclass(frozen=True)
class DataConfig:
    """Which utterances make batch k (data/plan.py) and how they are read (data/stream.py)."""

    shards: str = ""
    """Folder of shards, or an http(s) URL of one (read through a local cache)."""
    cache: str = ""
    """Where remote shards are kept; empty for ``~/.cache/speechssl``."""
    splits: tuple[str, ...] = ("train",)
    ids: tuple[str, ...] = ()
    """Files with one utterance id a line; when given, only these utterances (of any split) are used."""
    min_seconds: float = 2.0
    """Shorter utterances are left out."""
    max_seconds: float = 15.6
    """Pretraining crops longer utterances to this; fine-tuning leaves longer ones out and lists them."""
    batch_seconds: float = 87.5
    """Audio in one micro-batch, padding included."""
    batches_per_step: int = 1
    """Micro-batches in one optimiser step, over all ranks; accumulation is this divided by the number of ranks."""
    buckets: int = 16
    """Length buckets; utterances of one batch come from one bucket."""
    window_shards: int = 16
    """Utterances are mixed within windows of this many consecutive shards, so that reading stays nearly sequential."""
    workers: int = 2
    """Loader processes. Batches do not depend on it."""
    timeout: float = 300.0
    """Seconds after which a hanging loader is an error."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a window of 1,000 utterances, or 100 in a row, cannot be read."""


# -------------------------------------------------------------------------------------------------- model


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


# --------------------------------------------------------------------------------------------- objectives


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
    """Layer of the previous iteration's encoder whose output is clustered; 0 in the first iteration: MFCC."""
    carry_over: bool = False
    """Start iteration 2 from the encoder of iteration 1 (the paper starts afresh)."""
    kmeans_hours: float = 50.0
    """Audio used to fit the k-means (drawn by key)."""
    kmeans_starts: int = 20
    """Random starts of the k-means, of which the best goes on."""
    final_dim: int = 256
    logit_temperature: float = 0.1
    penalty_weight: float = 10.0
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked."""


# ----------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    schedule: Literal["polynomial", "tri-stage", "cosine", "constant"] = "polynomial"
    warmup: float = 0.08
    """Share of all steps; the rate rises linearly (tri-stage: from ``init_scale``)."""
    hold: float = 0.0
    """Share of all steps at the peak (tri-stage)."""
    init_scale: float = 0.01
    final_scale: float = 0.0
    """Rate at the end, relative to the peak (tri-stage decays exponentially, so it needs more than 0)."""
    clip: float = 1.0
    """Largest global gradient norm; 0 for no clipping."""


@dataclass(frozen=True)
class TrainingConfig:
    """The loop."""

    steps: int = 400_000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    threads: int = 0
    """CPU threads of torch in each rank; 0 leaves torch's choice."""
    log_every: int = 100
    save_every: int = 5_000
    keep: int = 3
    """Checkpoints kept, besides the best; at least 2."""
    validate_every: int = 0
    """Steps between validations (fine-tuning: dev WER); 0 for the end only."""
    max_skips: int = 10
    """Consecutive steps with non-finite gradients after which the run stops."""
    on_collapse: Literal["warn", "stop"] = "warn"
    deterministic: bool = False
    """Only deterministic kernels (a CPU needs nothing for this)."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights and evaluate and export it; 0 for none."""


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run."""

    name: str = "pretrain"
    seed: int = 1
    output: str = ""
    """Run folder; empty for ``runs/NAME``."""
    init: str = ""
    """Model folder to start from (continued pretraining); empty for random weights."""
    objective: Literal["wav2vec2", "hubert"] = "wav2vec2"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    wav2vec2: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    hubert: HubertConfig = field(default_factory=HubertConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class TokensConfig:
    """How transcripts become labels."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocab_size: int = 256
    """sentencepiece only."""
    normalise: Literal["none", "basic"] = "basic"
    """basic: NFC, lower case, punctuation (except an apostrophe inside a word) becomes a space, spaces collapsed."""
    min_count: int = 1
    """Characters seen fewer times in the training transcripts are left out and reported."""


@dataclass(frozen=True)
class CtcConfig:
    """CTC fine-tuning (wav2vec 2.0, section 4.3; fairseq's published settings)."""

    freeze_steps: int = 10_000
    """Updates during which only the head is trained (the waveform stem stays frozen throughout)."""
    freeze_frontend: bool = True
    """Keep the stem frozen for the whole run."""
    time_mask_prob: float = 0.65
    time_mask_length: int = 10
    channel_mask_prob: float = 0.25
    channel_mask_length: int = 64
    final_dropout: float = 0.0
    activation_dropout: float = 0.1
    layer_drop: float = 0.1
    head_lr_scale: float = 1.0
    """Learning rate of the head, relative to the encoder's."""


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run."""

    name: str = "finetune"
    seed: int = 1
    output: str = ""
    """Run folder; empty for ``runs/NAME``."""
    init: str = ""
    """Model folder with pretrained weights; empty trains from scratch with ``model``."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Used from scratch only; dropouts come from here in both cases."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    ctc: CtcConfig = field(default_factory=CtcConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(min_seconds=0.1, max_seconds=30.0, batch_seconds=200.0))
    dev: DataConfig = field(
        default_factory=lambda: DataConfig(splits=("dev",), min_seconds=0.0, max_seconds=60.0, batch_seconds=200.0)
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=5e-5, eps=1e-8, schedule="tri-stage", warmup=0.1, hold=0.4, final_scale=0.05, weight_decay=0.0
        )
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=13_000, validate_every=1_000))


# --------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class EvaluateConfig:
    """Decode a split with a fine-tuned model and score it."""

    model: str = ""
    """Model folder of a fine-tuning run."""
    output: str = ""
    """Where ``hypotheses.jsonl``, ``wer.json`` and ``wer.txt`` go; empty for ``MODEL/../evaluate-SPLIT``."""
    data: DataConfig = field(
        default_factory=lambda: DataConfig(splits=("test",), min_seconds=0.0, max_seconds=60.0, batch_seconds=200.0)
    )
    decoder: Literal["greedy", "beam"] = "greedy"
    beam: int = 50
    bootstrap: int = 2_000
    """Resamples for the 95 % interval."""
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class TranscribeConfig:
    """Transcribe audio files with a fine-tuned model."""

    model: str = ""
    """Model folder of a fine-tuning run."""
    chunk_seconds: float = 20.0
    overlap_seconds: float = 4.0
    batch_seconds: float = 120.0
    output: str = ""
    """JSONL file; empty for standard output (one line a file: path, tab, text)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class RunConfig:
    """The whole way: folder -> manifest -> shards -> pretraining -> fine-tuning -> evaluation -> report."""

    name: str = ""
    """Empty: the folder's name."""
    output: str = ""
    """Empty: ``runs/NAME``."""
    scratch: bool = False
    """Also fine-tune the same model from random weights, for comparison: same labels, updates and tuning."""
    learning_rates: tuple[float, ...] = ()
    """Fine-tune with each of these rates and keep the one with the lowest dev WER; empty: ``finetune.optim.lr``."""
    jobs: int = 1
    """Fine-tunings at a time, each in a process of its own."""
    manifest: ManifestConfig = field(default_factory=ManifestConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
