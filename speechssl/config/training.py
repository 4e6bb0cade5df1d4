"""Settings of the optimiser, the loop, pretraining and fine-tuning."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.data import AugmentConfig, DataConfig
from speechssl.config.masked_objectives import Wav2Vec2Config
from speechssl.config.model import ModelConfig
from speechssl.config.objectives import ObjectiveConfig
from speechssl.config.old_form import refuse_old_form, refuse_old_overrides
from speechssl.config.validation import ValidationConfig
from speechssl.core.errors import ConfigError

__all__ = [
    "AdaptConfig",
    "CtcConfig",
    "FinetuneConfig",
    "OptimConfig",
    "PretrainConfig",
    "TokensConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: float = 5e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    schedule: Literal["polynomial", "tri-stage", "cosine", "constant"] = "polynomial"
    """How the rate goes on after the warm-up; polynomial is linear."""
    warmup: float = 0.08
    """Share of all steps in which the rate rises linearly to its peak (tri-stage: from ``init_scale``)."""
    hold: float = 0.0
    """Share of all steps at the peak (tri-stage)."""
    init_scale: float = 0.01
    """Rate at the start, relative to the peak (tri-stage)."""
    final_scale: float = 0.0
    """Rate at the end, relative to the peak. tri-stage decays exponentially and needs more than 0."""
    clip: float = 1.0
    """Largest global gradient norm; 0 for no clipping."""


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    steps: int = 400_000
    """Updates of the weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of matrix products. auto: bf16 where the processor or the GPU computes in it, else fp32. A resumed run
    keeps what was chosen."""
    compile: bool = False
    """Compile the model with torch.compile."""
    recompute: bool = False
    """Activation checkpointing: run the transformer's blocks again in the backward pass. Less memory, about a third
    more time, the same numbers."""
    profile: int = 0
    """Steps to record with PyTorch's profiler; ``profile/`` in the run folder gets a trace and a table by component."""
    threads: int = 0
    """CPU threads of torch in each rank; 0 leaves torch's choice."""
    log_every: int = 100
    """Steps between lines of metrics."""
    save_every: int = 5_000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints kept, besides the best; at least 2."""
    validate_every: int = 0
    """Steps between validations. 0: fine-tuning measures dev WER at the end only; pretraining measures its held-out
    loss 50 times a run, or as often as costs 2 % of its time."""
    pause_at: int = 0
    """Validate, save and stop after this step, as if interrupted; 0 for never. Schedules keep the length of ``steps``.
    Started again without it, the run goes on as one that was never stopped."""
    max_skips: int = 10
    """Consecutive steps with non-finite gradients after which the run stops."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What happens when the monitor finds that the model has collapsed."""
    deterministic: bool = False
    """Use only deterministic kernels. On a CPU they always are."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and exported; 0 for none."""


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run."""

    name: str = "pretrain"
    seed: int = 1
    """Key of the order of the data, of masks and dropout, and of the initial weights."""
    output: str = ""
    """Run folder; empty for ``runs/NAME``."""
    init: str = ""
    """Weights to start from (continued pretraining): a model folder (ours, or of Hugging Face), or a torchaudio state
    dict (.pt, .pth). Empty: random weights. Its sizes must be those of ``[model]``."""
    model_from_init: bool = False
    """Take the sizes of the model from ``init``. Dropouts and the gradient scale stay those of ``[model]``."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=Wav2Vec2Config)
    """The pretext task; another ``kind`` has other settings."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    check_form = staticmethod(refuse_old_form)
    check_overrides = staticmethod(refuse_old_overrides)


@dataclass(frozen=True)
class TokensConfig:
    """How transcripts become labels."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocab_size: int = 256
    """Pieces of sentencepiece."""
    normalise: Literal["none", "basic"] = "basic"
    """basic: NFC, lower case, no corpus tags (``<unk>``, ``[noise]``). Punctuation becomes a space, except an
    apostrophe inside a word. Both drop invisible characters."""
    language: str = ""
    """Whose rules of case to follow (``tr``: I is the capital of ı); empty: the language that the manifest gives."""
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
    """Expected share of frames that would be masked if spans never overlapped."""
    time_mask_length: int = 10
    """Frames in a span."""
    channel_mask_prob: float = 0.25
    """As for time, over the channels of the features."""
    channel_mask_length: int = 64
    """Channels in a span."""
    final_dropout: float = 0.0
    """Before the head."""
    activation_dropout: float = 0.1
    """Inside the feed-forward layers; replaces that of ``[model]``."""
    layer_drop: float = 0.1
    """Probability that a block is skipped in a step; replaces that of ``[model]``."""
    head_lr_scale: float = 1.0
    """Learning rate of the head, relative to that of the encoder."""


@dataclass(frozen=True)
class AdaptConfig:
    """Train few of the pretrained weights: adapters of attention (LoRA), the last blocks, or both. The head always."""

    rank: int = 0
    """Rank of an adapter of the queries, keys, values and outputs of each attention; 0: none. Adapters are added to the
    weights in the model folder."""
    alpha: float = 16.0
    """The product of an adapter is multiplied by ``alpha / rank``."""
    layers: int = -1
    """Blocks that are trained, counted from the last. -1: all of the encoder, or with adapters none. From random
    weights all of it is trained."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or self.layers < -1:
            raise ConfigError("adapt: rank is 0 (no adapters) or more, alpha above 0, layers -1 (all) or more")

    @property
    def partial(self) -> bool:
        """Whether some of the encoder's weights are never trained."""
        return self.rank > 0 or self.layers >= 0


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run."""

    name: str = "finetune"
    seed: int = 1
    """Key of the order of the data, of masks and dropout, and of the initial weights."""
    output: str = ""
    """Run folder; empty for ``runs/NAME``."""
    init: str = ""
    """Pretrained weights: a model folder (ours, or of Hugging Face), or a torchaudio state dict (.pt, .pth). Empty:
    train from scratch, with the sizes of ``[model]``."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The encoder. Its sizes count from scratch only, its dropouts always."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    ctc: CtcConfig = field(default_factory=CtcConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
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
