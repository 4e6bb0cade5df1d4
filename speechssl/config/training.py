"""Settings of the optimiser, the loop, pretraining and fine-tuning."""

from dataclasses import dataclass, field, replace
from typing import Literal

from speechssl.config.data import AugmentConfig, DataConfig, PseudoLabelsConfig
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
    "SpecAugmentConfig",
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
    epochs: float = 0.0
    """Passes over the audio in place of ``steps``; 0: none."""
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
    log: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides ``metrics.jsonl``. The settings of each are its own: ``WANDB_MODE``,
    ``MLFLOW_TRACKING_URI`` and the like. Short on the command line: ``--log``."""
    upload: str = ""
    """Address of a folder in an object store (s3, gs, az, hf) that the run folder is copied to after each checkpoint,
    and from which a machine without it goes on."""
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

    patience: int = 0
    """Validations without a lower dev WER after which fine-tuning stops, counted from where the learning rate begins to
    fall; 0: never."""
    average: int = 0
    """Fine-tuning exports the mean of this many best weights if its dev WER is not higher; 0: no mean."""

    def __post_init__(self) -> None:
        if min(self.patience, self.average) < 0:
            raise ConfigError(f"training.patience = {self.patience}, training.average = {self.average}: at least 0")
        if self.validate_every == 0 and (self.patience or self.average > 1):
            raise ConfigError(
                "training.patience and training.average choose among validations: set training.validate_every, "
                f"for example to {max(1, self.steps // 20):,}"
            )
        if self.epochs < 0:
            raise ConfigError(f"training.epochs = {self.epochs}: at least 0, which means that training.steps counts")


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run."""

    name: str = "pretrain"
    seed: int = 1
    """Key of the order of the data, of masks and dropout, and of the initial weights."""
    output: str = ""
    """Run folder; empty for ``runs/NAME``."""
    init: str = ""
    """Weights to start from: a model folder, also of Hugging Face (``hf:org/name``), or a file of fairseq, fairseq2 or
    torchaudio. Empty: random weights. Its sizes must be those of ``[model]``."""
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
class SpecAugmentConfig:
    """SpecAugment on log-mel (Park et al. 2019), keyed by (seed, epoch, id); for the log-mel stem."""

    time_masks: float = 0.0
    """Time masks for each second of an utterance, on average."""
    time_mask_frames: int = 40
    """Largest length of a time mask in frames of 10 ms; lengths are uniform from 0 up to it."""
    time_mask_share: float = 0.2
    """Largest share of an utterance that one time mask hides."""
    mel_masks: int = 0
    """Masks of neighbouring mel channels."""
    mel_mask_channels: int = 27
    """Largest width of a mel mask; widths are uniform from 0 up to it."""
    time_warp: int = 0
    """Largest distance, in frames of 10 ms, by which a point of the utterance moves in time; 0 for no warp."""

    def __post_init__(self) -> None:
        if min(self.time_masks, self.time_mask_frames, self.mel_masks, self.mel_mask_channels, self.time_warp) < 0:
            raise ConfigError("ctc.spec_augment: numbers and lengths are 0 or more")
        if not 0 <= self.time_mask_share <= 1:
            raise ConfigError(f"ctc.spec_augment.time_mask_share = {self.time_mask_share} lies between 0 and 1")

    @property
    def used(self) -> bool:
        """Whether anything is changed."""
        return self.time_masks > 0 or self.mel_masks > 0 or self.time_warp > 0


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
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    cr_weight: float = 0.0
    """CR-CTC (Yao et al. 2024): weight of the divergence between the posteriors of two views of an utterance, whose
    masks are drawn independently. An update takes twice the time and memory. The paper has 0.2; 0: one view."""
    cr_mask_scale: float = 2.5
    """CR-CTC: factor of ``time_mask_prob`` and ``spec_augment.time_masks`` in both views; that of the paper."""
    intermediate_layers: tuple[int, ...] = ()
    """Blocks, from 1, whose outputs get a CTC loss of their own through the same head (intermediate CTC: Lee & Watanabe
    2021). They say half the depth, or a third and two thirds."""
    intermediate_weight: float = 0.3
    """Share of the intermediate losses, which are averaged, in the CTC loss; the last layer has the rest."""
    self_conditioned: bool = False
    """Project the posteriors of the intermediate layers back into the input of the next block, also in recognition
    (self-conditioned CTC: Nozaki & Komatsu 2021)."""
    entropy_weight: float = 0.0
    """Weight of the entropy of the alignments, which is maximised (Liu et al. 2018): it works against outputs that are
    blank but for single frames. 0: none. It is computed frame by frame, which takes time."""
    layer_lr_decay: float = 1.0
    """Learning rate of a block, relative to that of the block above it; stem and projection have that below the first
    block. From random weights always 1."""
    unfreeze_every: int = 0
    """Updates after which one more block is trained, from the last to the first and then stem and projection, once
    ``freeze_steps`` are over; 0: all at once."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_lr_decay <= 1:
            raise ConfigError(f"ctc.layer_lr_decay = {self.layer_lr_decay}: above 0 and at most 1")
        if self.unfreeze_every < 0:
            raise ConfigError(f"ctc.unfreeze_every = {self.unfreeze_every}: at least 0")
        if self.cr_weight < 0:
            raise ConfigError(f"ctc.cr_weight = {self.cr_weight:g}: use 0 (one view) or more, such as 0.2")
        differ = self.view_mask_prob or self.spec_augment.time_masks
        if self.cr_weight and (self.view_mask_prob > 1 or not differ):
            raise ConfigError(
                "ctc.cr_weight needs views with different masks that leave enough to recognise: ctc.time_mask_prob x "
                f"ctc.cr_mask_scale = {self.time_mask_prob:g} x {self.cr_mask_scale:g} must be above 0 and at most 1 "
                "(the paper masks up to 0.375 of the frames), or ctc.spec_augment.time_masks above 0"
            )
        if not 0 <= self.intermediate_weight < 1:
            raise ConfigError(f"ctc.intermediate_weight = {self.intermediate_weight:g}: use 0 or more, and less than 1")
        if self.entropy_weight < 0:
            raise ConfigError(f"ctc.entropy_weight = {self.entropy_weight:g}: use 0 (none) or more, such as 0.1")
        if self.self_conditioned and not self.intermediate_layers:
            raise ConfigError("ctc.self_conditioned needs the layers to condition on: set ctc.intermediate_layers")

    @property
    def view_mask_prob(self) -> float:
        """``time_mask_prob`` of each view."""
        return self.time_mask_prob * self._scale

    @property
    def _scale(self) -> float:
        return self.cr_mask_scale if self.cr_weight else 1.0

    @property
    def view_spec_augment(self) -> SpecAugmentConfig:
        """``spec_augment`` of each view."""
        return replace(self.spec_augment, time_masks=self.spec_augment.time_masks * self._scale)


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
    """Pretrained weights: a model folder, also of Hugging Face (``hf:org/name``), or a file of fairseq, fairseq2 or
    torchaudio. Empty: train from scratch, with the sizes of ``[model]``."""
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
    pseudo: PseudoLabelsConfig = field(default_factory=PseudoLabelsConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=5e-5, eps=1e-8, schedule="tri-stage", warmup=0.1, hold=0.4, final_scale=0.05, weight_decay=0.0
        )
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=13_000, validate_every=1_000))

    def __post_init__(self) -> None:
        if self.pseudo.true_share and self.data.mix.by != "none":
            raise ConfigError("pseudo.true_share and data.mix.by both say which batches come next: give one of them")
