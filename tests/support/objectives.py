"""Changes deep inside the settings of an objective, in one call."""

from dataclasses import replace

from speechssl.config import PretrainConfig

__all__ = ["with_objective", "with_targets"]


def with_objective(cfg: PretrainConfig, **changes: object) -> PretrainConfig:
    """Return a configuration with other settings of its objective."""
    return replace(cfg, objective=replace(cfg.objective, **changes))  # type: ignore[arg-type]


def with_targets(cfg: PretrainConfig, **changes: object) -> PretrainConfig:
    """Return a configuration whose offline targets are made otherwise."""
    return with_objective(cfg, targets=replace(cfg.objective.targets, **changes))  # type: ignore[union-attr, arg-type]
