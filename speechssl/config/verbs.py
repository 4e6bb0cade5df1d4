"""Settings of imports and exports, of evaluation and of the whole way."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.data import DataConfig, ManifestConfig, ShardConfig
from speechssl.config.decoding import DecoderConfig
from speechssl.config.training import FinetuneConfig, PretrainConfig
from speechssl.core.errors import ConfigError

__all__ = [
    "EvaluateConfig",
    "ExportConfig",
    "Format",
    "ImportConfig",
    "LabellingConfig",
    "LaunchConfig",
    "RelabelConfig",
    "RunConfig",
    "SelftrainConfig",
]

Format = Literal["hf", "onnx", "onnx-asr", "sherpa", "torchaudio"]


@dataclass(frozen=True)
class ImportConfig:
    """Write a model of another library as a model folder, after a comparison of both on audio."""

    audio: tuple[str, ...] = ()
    """Recordings on which both are compared. Empty: noise with silence in it."""
    seconds: float = 10.0
    """Audio of each recording that is used, from its start; half a second of silence follows."""
    tolerance: float = 1e-4
    """Largest difference of a layer's output, relative to its largest value where that is above 1."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Decode a split with a fine-tuned model and score it."""

    model: str = ""
    """Model folder of a fine-tuning run, or another model with a CTC head and its vocabulary."""
    output: str = ""
    """Where ``hypotheses.jsonl``, ``wer.json`` and ``wer.txt`` go; empty for ``MODEL/../evaluate-SPLIT``."""
    data: DataConfig = field(
        default_factory=lambda: DataConfig(splits=("test",), min_seconds=0.0, max_seconds=60.0, batch_seconds=200.0)
    )
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Search for the words. The greedy word error rate is written as well."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the processor or the GPU computes in it, else fp32. In bf16 one frame in a hundred has another
    best symbol; use fp32 for scores that do not depend on the machine."""
    bootstrap: int = 2_000
    """Resamples for the 95 % interval."""
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class ExportConfig:
    """Write a model for other programs, and compare what they make of it on real recordings."""

    to: Format = "hf"
    """hf: a folder of transformers. onnx: a graph for onnxruntime. onnx-asr, sherpa: the graph with the files that
    onnx-asr and sherpa-onnx read. torchaudio: a state dict of its ``wav2vec2_model``."""
    int8: bool = False
    """Also write an ONNX graph with weights of 8 bits, and print how the word error rate changes."""
    utterances: int = 40
    """Recordings that both programs are run on. Some of them are repeated with digital silence in them."""
    tolerance: float = 0.0
    """Largest difference of an output (float32) with which the export counts as right; above it, none is written. 0:
    1e-4; for ONNX and log-mel stems 1e-3."""
    data: DataConfig = field(
        default_factory=lambda: DataConfig(splits=("dev", "test"), min_seconds=0.1, max_seconds=30.0)
    )
    """Where the recordings come from. Without ``shards``, they are those that the model was trained on."""

    def __post_init__(self) -> None:
        if self.int8 and self.to in ("hf", "torchaudio"):
            raise ConfigError(f"int8 is for ONNX graphs: --to onnx, onnx-asr or sherpa, not {self.to}")
        if self.utterances < 1 or self.tolerance < 0:
            raise ConfigError("export: utterances must be positive, and tolerance not negative")


@dataclass(frozen=True)
class RelabelConfig:
    """The units of each round after the first: clusters of a layer of the fine-tuned model of the round before.

    GigaAM (arXiv 2506.01192) and VietASR (arXiv 2505.21527) pretrain on such units.
    """

    layer: int = 0
    """Layer of that model's encoder whose output is clustered, from 1; 0: the last."""
    clusters: int = 500
    """Clusters of the k-means, which are the units to predict."""
    steps: int = 0
    """Updates of each further pretraining; 0: as many as in the last iteration of the first."""
    carry_over: bool = False
    """Start each further pretraining from the encoder that was pretrained in the round before (VietASR starts afresh).
    Fine-tuned weights are never pretrained further."""


@dataclass(frozen=True)
class LabellingConfig:
    """Self-training: which pseudo-labels are kept, and how often they are made again."""

    rounds: int = 3
    """Most rounds of transcribing and fine-tuning. They end as soon as the error rate of dev does not fall."""
    max_error: float = 0.15
    """Keep utterances of at least that confidence at which the utterances of dev have this error rate together."""
    share: float = 0.0
    """Keep instead this share of the utterances, the most confident ones; 0: ``max_error`` decides."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Search for the words, of dev and of the pseudo-labels. ``lm`` empty: that of the first teacher's model folder."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rounds < 0:
            raise ConfigError(f"labelling: rounds = {self.rounds} must not be negative")
        if not 0 <= self.max_error <= 1 or not 0 <= self.share <= 1:
            raise ConfigError("labelling: max_error and share lie within 0 and 1")


@dataclass(frozen=True)
class SelftrainConfig:
    """Self-training: fine-tune on what a fine-tuned model transcribes, beside the true transcripts.

    Kahn et al. 2020 (arXiv 1909.09116), repeated as in Xu et al. 2020 (iterative pseudo-labelling, arXiv 2005.09267).
    """

    name: str = "selftrain"
    output: str = ""
    """Folder of everything that is made; empty for ``runs/NAME``."""
    model: str = ""
    """Model folder of a fine-tuning run, the first teacher. Empty: one is fine-tuned first, on the true transcripts."""
    labelling: LabellingConfig = field(default_factory=LabellingConfig)
    unlabelled: DataConfig = field(
        default_factory=lambda: DataConfig(min_seconds=0.5, max_seconds=30.0, batch_seconds=200.0)
    )
    """Utterances of the same shards to transcribe. Those of dev and test, their copies, and those with a true
    transcript are left out."""
    test: DataConfig = field(default_factory=lambda: DataConfig(splits=("test",)))
    """Utterances that are to be scored later, and so never transcribed for training. Nothing else is done with them."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Fine-tuning of every student (and of the first teacher where ``model`` is empty): its ``data`` are the true
    transcripts, its ``dev`` sets the lowest confidence and chooses the best model."""


@dataclass(frozen=True)
class RunConfig:
    """From a folder of audio to a report, stage by stage."""

    name: str = ""
    """Empty: the folder's name."""
    output: str = ""
    """Empty: ``runs/NAME``."""
    init: str = ""
    """Model that pretraining continues from, with its sizes, as ``init`` of ``pretrain``. Empty: ``pretrain.init``."""
    budget_hours: float = 0.0
    """Hours of training that set the updates. 0: none."""
    scratch: bool = False
    """Also fine-tune the model from random weights, with the same labels, updates and learning rates, to compare."""
    learning_rates: tuple[float, ...] = ()
    """Fine-tune with each of these rates and keep the one with the lowest dev WER. Empty: ``finetune.optim.lr``."""
    halve_at: tuple[float, ...] = ()
    """Shares of the updates after which the worse half of the remaining rates ends, judged by dev CER. Empty: all rates
    are trained to their end."""
    jobs: int = 1
    """Fine-tunings at a time, each in a process of its own."""
    rounds: int = 1
    """Rounds of pretraining and fine-tuning. Each after the first pretrains on the units of ``relabel``."""
    relabel: RelabelConfig = field(default_factory=RelabelConfig)
    selftrain: LabellingConfig = field(default_factory=lambda: LabellingConfig(rounds=0))
    """Self-training after the last round, on the untranscribed training speech; ``rounds = 0``: none."""
    manifest: ManifestConfig = field(default_factory=ManifestConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@dataclass(frozen=True)
class LaunchConfig:
    """A job of a cluster."""

    slurm: str = ""
    """File that gets the sbatch script. Empty: standard output."""
    nodes: int = 1
    gpus: int = 0
    """GPUs of each node, with a process for each. 0: one process a node, on its processors."""
    cpus: int = 8
    """Cores of each process."""
    memory: str = ""
    """Of each node, such as 64G. Empty, here and below: the cluster's default."""
    time: str = ""
    """Limit of the job, as SLURM writes it: 24:00:00, 2-00:00:00."""
    partition: str = ""
    account: str = ""
    name: str = ""
    """Name of the job. Empty: speechssl-VERB."""
    options: tuple[str, ...] = ()
    """Further options of sbatch without their dashes, such as constraint=a100."""
    parts: int = 0
    """Of ``shard``: an array of N tasks, each of which makes one part. 0: no array."""
    notice: int = 120
    """Seconds before the limit at which the command is asked to save and stop."""
    restarts: int = 100
    """Most times that a stopped job is queued again."""

    def __post_init__(self) -> None:
        least = {"nodes": 1, "gpus": 0, "cpus": 1, "parts": 0, "notice": 1, "restarts": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"launch: {name} = {getattr(self, name)} must be at least {low}")
        texts = (self.memory, self.time, self.partition, self.account, self.name, *self.options)
        if any(set(text) & set("\n\r") for text in texts):
            raise ConfigError("launch: a setting must not hold a line break")
