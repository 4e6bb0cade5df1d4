"""Every setting of every verb, as frozen dataclasses: the defaults are the documentation.

``load.py`` reads TOML and ``--a.b value`` overrides into these; nothing here imports anything heavy.
"""

from speechssl.config.audit import AuditConfig
from speechssl.config.comparing import CompareConfig, CompareObjectivesConfig
from speechssl.config.corpus import CorpusConfig
from speechssl.config.data import AugmentConfig, DataConfig, ManifestConfig, ShardConfig
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
    TokensConfig,
    TrainingConfig,
)
from speechssl.config.transcription import AlignConfig, CaptionConfig, LiveConfig, TranscribeConfig
from speechssl.config.validation import ValidationConfig
from speechssl.config.verbs import EvaluateConfig, ExportConfig, RelabelConfig, RunConfig

__all__ = [
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
    "FinetuneConfig",
    "FrontendConfig",
    "HubertConfig",
    "LiveConfig",
    "LmConfig",
    "ManifestConfig",
    "MaskConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PretrainConfig",
    "RelabelConfig",
    "RunConfig",
    "ScoreConfig",
    "ShardConfig",
    "TargetsConfig",
    "TeacherConfig",
    "TokensConfig",
    "TrainingConfig",
    "TranscribeConfig",
    "TuneConfig",
    "ValidationConfig",
    "Wav2Vec2Config",
]
