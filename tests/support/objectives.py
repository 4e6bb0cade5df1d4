"""Every objective of the configuration at toy size, batches for it, and changes deep inside its settings."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import torch

from speechssl.config import EncoderConfig, FrontendConfig, MaskConfig, ModelConfig, ObjectiveConfig, PretrainConfig
from speechssl.config.objectives import offline_targets
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Loss, Objective
from speechssl.objectives.build import build_objective, objective_class
from speechssl.targets.table import UnitTable
from speechssl.training.monitoring.health import Health

__all__ = [
    "KINDS",
    "MASK",
    "MODEL",
    "N_UNITS",
    "SMALL",
    "STEMS",
    "build",
    "causal",
    "findings",
    "fit",
    "make_batch",
    "settings",
    "table",
    "with_objective",
    "with_targets",
]

KINDS = {cfg().kind: cfg for cfg in get_args(ObjectiveConfig)}
"""Kind -> class of settings, of every objective there is."""
MODEL = ModelConfig(
    frontend=FrontendConfig(conv_layers=((8, 10, 5), (8, 8, 4), (8, 4, 4), (8, 4, 4)), norm="group"),
    encoder=EncoderConfig(dim=16, layers=1, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2, layer_drop=0.0),
)
STEMS = {
    "group": MODEL.frontend,
    "layer": replace(MODEL.frontend, norm="layer"),
    "logmel": FrontendConfig(kind="logmel", n_mels=20, stack=2),
    "conv2d": FrontendConfig(kind="logmel", n_mels=20, stack=2, conv2d=4, grad_scale=1.0),
}
MASK = MaskConfig(prob=0.65, length=3, min_spans=2)
SMALL = {"mask": MASK, "clones": 2, "decoder_dim": 16, "mix_prob": 0.5, "queue": 16, "crop": 0.8}
"""Settings of any objective that are not its defaults here: short masks, less work, and more that is mixed."""
N_UNITS = 11


def table(ids=("u0", "u1", "u2"), frames=60, hop=320) -> UnitTable:
    """Return random units of utterances."""
    rng = np.random.default_rng(1)
    return UnitTable({item: rng.integers(0, N_UNITS, frames) for item in ids}, n_units=N_UNITS, hop=hop)


def build(kind: str, *, model: ModelConfig = MODEL, seed: int = 3, weights: int = 0, **changes: Any) -> Objective[Any]:
    """Return an objective of default settings but for ``SMALL`` and ``changes``; settings it lacks are passed over.

    ``weights`` is the key of its random weights, ``seed`` that of what it prepares. An objective that needs a causal
    encoder gets one, with the same stem but for statistics of whole utterances.
    """
    cfg = settings(kind, **changes)
    model = causal(model) if objective_class(cfg).causal else model
    torch.manual_seed(weights)
    return build_objective(cfg, SpeechEncoder(model), table() if offline_targets(cfg) else None, seed)


def settings(kind: str, **changes: Any) -> Any:
    """Return default settings of an objective but for ``SMALL`` and ``changes``, as far as it has them."""
    return _changed(KINDS[kind](), SMALL | changes)


def _changed(cfg: Any, changes: dict[str, Any]) -> Any:
    """Return settings with those of ``changes`` that they have, in a sum those of its parts."""
    values = {item.name: changes.get(item.name, getattr(cfg, item.name)) for item in fields(cfg)}
    parts = {name: _changed(value, changes) for name, value in values.items() if hasattr(value, "kind")}
    return replace(cfg, **values | parts)


def causal(model: ModelConfig) -> ModelConfig:
    """Return a causal model that is otherwise the same, as far as can be."""
    frontend = replace(model.frontend, norm="layer", statistics="past")
    return replace(model, frontend=frontend, encoder=replace(model.encoder, causal=True))


def make_batch(lengths, ids=None, weights=None, epoch=0, total=None) -> Batch:
    """Return float64 noise, a function of each row's id (``u0``, ``u1`` ...); ``total`` adds padding."""
    rng = np.random.default_rng(5)
    waves = [rng.normal(size=16_000) for _ in range(8)]
    wave = torch.zeros(len(lengths), total or max(lengths), dtype=torch.float64)
    ids = ids or tuple(f"u{i}" for i in range(len(lengths)))
    for row, (item, length) in enumerate(zip(ids, lengths, strict=True)):
        wave[row, :length] = torch.from_numpy(waves[int(item[1:])][:length])
    return Batch(
        wave=wave,
        lengths=torch.tensor(lengths),
        starts=torch.zeros(len(lengths), dtype=torch.int64),
        weights=torch.ones(len(lengths)) if weights is None else torch.tensor(weights),
        ids=ids,
        epoch=epoch,
    )


def with_objective(cfg: PretrainConfig, **changes: object) -> PretrainConfig:
    """Return a configuration with other settings of its objective."""
    return replace(cfg, objective=replace(cfg.objective, **changes))  # type: ignore[arg-type]


def with_targets(cfg: PretrainConfig, **changes: object) -> PretrainConfig:
    """Return a configuration whose offline targets are made otherwise."""
    return with_objective(cfg, targets=replace(cfg.objective.targets, **changes))  # type: ignore[union-attr, arg-type]


def fit(objective: Objective[Any], batches: Iterable[Batch], lr: float) -> Loss:
    """Make an update of Adam for each batch; return the last loss, computed before the last update."""
    optimiser = torch.optim.Adam([value for value in objective.parameters() if value.requires_grad], lr=lr)
    loss = None
    for batch in batches:
        loss = objective(objective.prepare(batch))
        optimiser.zero_grad()
        (loss.sum / loss.n_targets).backward()
        optimiser.step()
    assert loss is not None
    return loss


def findings(objective: Objective[Any], loss: Loss) -> set[str]:
    """Return the names of what the health rules find in the metrics of a loss, half-way through a run."""
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    return {finding.name for finding in Health(objective.chance, 1000, objective.rules).watch(500, metrics)}
