"""From settings to an objective: the one place that knows every objective.

In: an ``ObjectiveConfig`` and an encoder, and targets where the objective needs them. Out: the objective, or its class,
which declares how it is called and what a report draws of it.
"""

from typing import Any

from speechssl.config.masked_objectives import (
    BestRqConfig,
    Data2VecConfig,
    DinoSrConfig,
    HubertConfig,
    MaskedReconstructionConfig,
    Wav2Vec2Config,
    WavLmConfig,
)
from speechssl.config.objectives import (
    ApcConfig,
    CpcConfig,
    DenoiseConfig,
    MocoConfig,
    NextSampleConfig,
    ObjectiveConfig,
    SegmentOrderConfig,
    SimClrConfig,
    SumConfig,
    TransformationConfig,
    offline_targets,
)
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.apc import Apc
from speechssl.objectives.base import Objective, OfflineTargets
from speechssl.objectives.best_rq import BestRq
from speechssl.objectives.classification.segment_order import SegmentOrder
from speechssl.objectives.classification.transformation import Transformation
from speechssl.objectives.cpc import Cpc
from speechssl.objectives.data2vec import Data2Vec
from speechssl.objectives.denoise import Denoise
from speechssl.objectives.dinosr import DinoSr
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.masked_reconstruction import MaskedReconstruction
from speechssl.objectives.next_sample import NextSample
from speechssl.objectives.shared.reconstruction import variational
from speechssl.objectives.sum import sum_of
from speechssl.objectives.two_views.moco import Moco
from speechssl.objectives.two_views.simclr import SimClr
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.objectives.wavlm import WavLm

__all__ = ["build_objective", "objective_class"]


def objective_class(cfg: ObjectiveConfig) -> type[Objective[Any]]:
    """Return the class that the settings belong to."""
    match cfg:
        case Wav2Vec2Config():
            return Wav2Vec2
        case HubertConfig():
            return Hubert
        case WavLmConfig():
            return WavLm
        case BestRqConfig():
            return BestRq
        case MaskedReconstructionConfig():
            return variational(MaskedReconstruction, cfg.bottleneck)
        case DenoiseConfig():
            return variational(Denoise, cfg.bottleneck)
        case Data2VecConfig():
            return Data2Vec
        case DinoSrConfig():
            return DinoSr
        case ApcConfig():
            return Apc
        case NextSampleConfig():
            return NextSample
        case CpcConfig():
            return Cpc
        case SimClrConfig():
            return SimClr
        case MocoConfig():
            return Moco
        case SumConfig(first=first, second=second):
            return sum_of(cfg, (objective_class(first), objective_class(second)))
        case TransformationConfig():
            return Transformation
        case SegmentOrderConfig():
            return SegmentOrder


def build_objective(
    cfg: ObjectiveConfig, encoder: SpeechEncoder, targets: OfflineTargets | None, seed: int
) -> Objective[Any]:
    """Return an objective around an encoder.

    Parameters
    ----------
    targets
        Targets that were made offline; needed where ``offline_targets(cfg)`` says how they are made, and only there.
    seed
        Key of what its preparer draws.

    Raises
    ------
    ConfigError
        The objective predicts what follows, and the encoder sees it; or parts of a sum do not go together.
    ValueError
        Targets are missing, or lie on another frame grid.
    """
    build: Any = objective_class(cfg)
    objective: Objective[Any]
    if build.causal and not encoder.cfg.encoder.causal:
        raise ConfigError(f"{build.title} predicts what follows a frame: set model.encoder.causal = true")
    if isinstance(cfg, SumConfig):
        needed = [targets if offline_targets(part) else None for part in cfg.parts]
        parts = [build_objective(part, encoder, given, seed) for part, given in zip(cfg.parts, needed, strict=True)]
        objective = build(encoder, cfg, parts, seed=seed)
    elif offline_targets(cfg) is None:
        objective = build(encoder, cfg, seed=seed)
    elif targets is None:
        raise ValueError(f"{build.title} needs targets that are made offline")
    else:
        objective = build(encoder, cfg, targets, seed=seed)
    return objective
