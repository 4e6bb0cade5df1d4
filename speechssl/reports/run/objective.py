"""What the class of an objective declares for a report, found by the configuration of the run.

In: a configuration as it was written, of any version. Out: title, curves, settings and number of candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from speechssl.config import ObjectiveConfig, PretrainConfig
from speechssl.config.load import from_dict
from speechssl.config.old_form import in_new_form
from speechssl.core.errors import ConfigError
from speechssl.objectives.base import Curve
from speechssl.objectives.build import objective_class
from speechssl.objectives.published import Published, PublishedWer

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """The objective of one training."""

    settings: ObjectiveConfig | None
    """None where this version does not know them."""
    title: str
    """What the objective is called, its ``kind`` when this version does not know it."""
    curves: tuple[Curve, ...]
    """Its curves; those of all objectives where it is not known which one was trained."""
    published: tuple[Published | PublishedWer, ...] = ()
    """What published runs of it reached."""

    @classmethod
    def by(cls, config: Mapping[str, Any]) -> Self:
        """Return the objective that a configuration names."""
        stated = in_new_form(dict(config)).get("objective")
        try:
            settings = None if stated is None else from_dict(PretrainConfig, {"objective": stated}).objective
        except ConfigError:
            settings = None
        if settings is not None:
            declared = objective_class(settings)
            return cls(settings, declared.title, declared.curves, declared.published)
        known = [curve for cfg in get_args(ObjectiveConfig) for curve in objective_class(cfg()).curves]
        curves = sorted(dict.fromkeys(known), key=lambda curve: curve.chance != "loss")
        named = config.get("objective", "")
        return cls(None, str(named.get("kind", "") if isinstance(named, Mapping) else named), tuple(curves))

    def candidates(self, iteration: int) -> int | None:
        """Return among how many equally likely targets it chooses in an iteration, counted from 0."""
        return None if self.settings is None else objective_class(self.settings).candidates(self.settings, iteration)

    def setting(self, name: str) -> Any:
        """Return one of its settings; None where it is not known."""
        return getattr(self.settings, name, None)
