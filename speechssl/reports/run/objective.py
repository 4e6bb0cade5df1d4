"""What the class of an objective declares for a report, found by the configuration of the run.

In: a configuration as it was written, of any version. Out: title, curves and number of candidates.
"""

from collections.abc import Mapping
from typing import Any, get_args

from speechssl.config import ObjectiveConfig, PretrainConfig
from speechssl.config.load import from_dict
from speechssl.config.old_form import in_new_form
from speechssl.core.errors import ConfigError
from speechssl.objectives.base import Curve
from speechssl.objectives.build import objective_class

__all__ = ["candidates", "objective_curves", "objective_title", "setting"]


def _settings(config: Mapping[str, Any]) -> ObjectiveConfig | None:
    """Return the settings of the objective; None where this version does not know them."""
    known = in_new_form(dict(config)).get("objective")
    try:
        return None if known is None else from_dict(PretrainConfig, {"objective": known}).objective
    except ConfigError:
        return None


def objective_title(config: Mapping[str, Any]) -> str:
    """Return the title of an objective, or its ``kind`` when this version does not know it."""
    settings = _settings(config)
    if settings is not None:
        return objective_class(settings).title
    stated = config.get("objective", "")
    return str(stated.get("kind", "")) if isinstance(stated, Mapping) else str(stated)


def objective_curves(config: Mapping[str, Any]) -> tuple[Curve, ...]:
    """Return the curves of an objective; of all objectives where it is not known which one was trained."""
    settings = _settings(config)
    if settings is not None:
        return objective_class(settings).curves
    known = [curve for cfg in get_args(ObjectiveConfig) for curve in objective_class(cfg()).curves]
    return tuple(sorted(dict.fromkeys(known), key=lambda curve: curve.chance != "loss"))


def candidates(config: Mapping[str, Any], iteration: int) -> int | None:
    """Return the number of equally likely targets in an iteration, counted from 0."""
    settings = _settings(config)
    return None if settings is None else objective_class(settings).candidates(settings, iteration)


def setting(config: Mapping[str, Any], name: str) -> Any:
    """Return one setting of the objective; None where it is not known."""
    return getattr(_settings(config), name, None)
