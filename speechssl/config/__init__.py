"""Every setting of every verb, as frozen dataclasses: the defaults are the documentation.

``load.py`` reads TOML and ``--a.b value`` overrides into these; nothing here imports anything heavy.
"""

from speechssl.config.audit import AuditConfig
from speechssl.config.comparing import CompareConfig, CompareObjectivesConfig
from speechssl.config.corpus import CorpusConfig
from speechssl.config.data import AugmentConfig, DataConfig, ManifestConfig, MixConfig, PseudoLabelsConfig, ShardConfig
from speechssl.config.decoding import DecoderConfig, LmConfig, TuneConfig
from speechssl.config.masked_objectives import HubertConfig, MaskConfig, TargetsConfig, TeacherConfig, Wav2Vec2Config
from speechssl.config.model import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.config.objectives import ObjectiveConfig
from speechssl.config.scoring import ScoreConfig
from speechssl.config.training import (
    AdaptConfig,
    CtcConfig,
    FinetuneConfig,
    OptimConfig,
    PretrainConfig,
    SpecAugmentConfig,
    TokensConfig,
    TrainingConfig,
)
from speechssl.config.transcription import AlignConfig, CaptionConfig, LiveConfig, TranscribeConfig
from speechssl.config.understanding import FeaturesConfig, ProbeConfig, UnitsConfig
from speechssl.config.understanding.abx import AbxConfig
from speechssl.config.understanding.layers import LayersConfig
from speechssl.config.understanding.understand import UnderstandConfig
from speechssl.config.validation import ValidationConfig
from speechssl.config.verbs import (
    EvaluateConfig,
    ExportConfig,
    ImportConfig,
    LabellingConfig,
    LaunchConfig,
    RelabelConfig,
    RunConfig,
    SelftrainConfig,
)

__all__ = [
    "AbxConfig",
    "AdaptConfig",
    "AlignConfig",
    "AuditConfig",
    "AugmentConfig",
    "CaptionConfig",
    "CompareConfig",
    "CompareObjectivesConfig",
    "CorpusConfig",
    "CtcConfig",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FeaturesConfig",
    "FinetuneConfig",
    "FrontendConfig",
    "HubertConfig",
    "ImportConfig",
    "LabellingConfig",
    "LaunchConfig",
    "LayersConfig",
    "LiveConfig",
    "LmConfig",
    "ManifestConfig",
    "MaskConfig",
    "MixConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PretrainConfig",
    "ProbeConfig",
    "PseudoLabelsConfig",
    "RelabelConfig",
    "RunConfig",
    "ScoreConfig",
    "SelftrainConfig",
    "ShardConfig",
    "SpecAugmentConfig",
    "TargetsConfig",
    "TeacherConfig",
    "TokensConfig",
    "TrainingConfig",
    "TranscribeConfig",
    "TuneConfig",
    "UnderstandConfig",
    "UnitsConfig",
    "ValidationConfig",
    "Wav2Vec2Config",
]
