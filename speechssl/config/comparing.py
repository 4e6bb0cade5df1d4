"""Settings of comparisons: of evaluations, and of objectives."""

from dataclasses import dataclass, field

from speechssl.config.data import ManifestConfig, ShardConfig
from speechssl.config.training import FinetuneConfig, PretrainConfig
from speechssl.config.understanding import ProbeConfig
from speechssl.config.verbs import EvaluateConfig

__all__ = ["CompareConfig", "CompareObjectivesConfig"]


@dataclass(frozen=True)
class CompareConfig:
    """Compare systems that were scored on the same utterances."""

    output: str = "compare"
    """Folder for ``compare.html``, ``compare.json`` and ``compare.txt``."""
    baseline: str = ""
    """Name of the system that the others are compared with; empty for the first."""
    common: bool = False
    """Compare on the utterances that all systems share, instead of refusing systems scored on different ones."""
    shown: int = 10
    """Utterances listed as better, and as worse, for each system."""
    bootstrap: int = 2_000
    """Resamples for the 95 % intervals."""
    seed: int = 1
    """Seed of the resampling."""


@dataclass(frozen=True)
class CompareObjectivesConfig:
    """Train objectives on equal terms, fine-tune each on the same labels, and compare."""

    output: str = "runs/compare-objectives"
    """Folder for everything; the results are ``objectives.html``, ``objectives.json`` and ``objectives.txt``."""
    corpus: str = ""
    """Folder of audio, as ``run`` takes it, from which shards are made. Empty: ``pretrain.data.shards`` has them."""
    arms: tuple[str, ...] = ()
    """Objectives: presets or TOML files of ``pretrain``, of which ``[objective]`` and ``[optim]`` count. Overrides may
    follow, as on the command line; NAME=PRESET gives a name. Empty: a preset of every kind, chosen by ``size``."""
    size: str = "cpu"
    """End of the names of the presets that are chosen where ``arms`` is empty."""
    reference: str = "wav2vec2"
    """Kind of the objective that costs are relative to."""
    labels: tuple[str, ...] = ()
    """Label sets, NAME=TRAIN,DEV,TEST: three files with one utterance id a line. Empty: one set, the splits of
    ``finetune.data``, ``finetune.dev`` and ``evaluate.data``."""
    pretrain_rates: tuple[float, ...] = ()
    """Learning rates of pretraining that each objective tries. Empty: the one of its preset."""
    learning_rates: tuple[float, ...] = (1e-3,)
    """Learning rates of fine-tuning, tried from each pretrained model; dev chooses among all."""
    scratch_rates: tuple[float, ...] = ()
    """Learning rates from random weights: as many as an objective has candidates. Empty: ``learning_rates``."""
    halve_at: tuple[float, ...] = ()
    """Shares of the updates of fine-tuning after which the worse half of the remaining rates ends."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of every arm: of pretraining and of fine-tuning."""
    finalists: int = 0
    """How many of the best objectives, by dev WER, and the arms from random weights are trained again."""
    finalist_seeds: tuple[int, ...] = (2,)
    """With these seeds."""
    jobs: int = 0
    """Arms at a time, each in a process of its own. 0: one a GPU, or one a core."""
    only: tuple[str, ...] = ()
    """Train these arms alone, NAME-seed-SEED, in this process, and make no page: to share arms out over machines."""
    manifest: ManifestConfig = field(default_factory=ManifestConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """What all objectives share: data, encoder, updates. ``objective`` and ``optim`` are those of each arm."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    probes: tuple[str, ...] = ()
    """Tasks of ``probe`` on the frozen model of each arm, beside fine-tuning; ``layers``: the effective rank of the
    last layer, and PNMI with ``probe.alignment``; ``abx``. Empty: none."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Settings of those probes. Without ``data`` they read ``pretrain.data.shards``."""
