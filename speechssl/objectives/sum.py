"""The sum of two pretext tasks on one pass of the encoder; the form of w2v-BERT (Chung et al. 2021, arXiv 2108.06209).

In: masked audio. Out: ``L = w1 L1 + w2 L2`` (the paper's equation: contrastive and masked prediction), where each part
is a mean over the same N masked frames. A part that sums over n values (log-mel: several a frame) is multiplied by
N / n. Every batch has the same N / n, so the mean over micro-batches and ranks is right, too.

A frame is masked if both parts have a target there. Both read the encoder's last output; w2v-BERT's contrastive part
reads a block halfway, and its masked part predicts the contrastive part's codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, Self, cast

import torch
from torch import Tensor

from speechssl.config.objectives import PartConfig, SumConfig, offline_targets
from speechssl.core.errors import ConfigError
from speechssl.data.batches.batch import Batch, with_tensors
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Curve, Loss, Objective, Plateau, Prepared, Ranks, Rule
from speechssl.objectives.shared.masked import (
    MaskedObjective,
    MaskedPrepared,
    MaskPreparer,
    draw_masks,
    empty_loss,
    frame_counts,
)

__all__ = ["Sum", "SumPrepared", "SumPreparer", "sum_of"]

SHARED = ("batch", "mask", "masked", "lengths", "frame_lengths")
"""Fields of `MaskedPrepared` that are the same for both parts."""


@dataclass(frozen=True)
class SumPrepared(Prepared):
    """One batch as both parts prepared it. ``n_targets`` counts masked frames."""

    first: MaskedPrepared
    second: MaskedPrepared

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``; what the parts share is moved once."""
        first = self.first.to(device)
        own = with_tensors(_sharing(self.second, first), lambda tensor: tensor.to(device, non_blocking=True))
        return replace(self, batch=first.batch, first=first, second=own)


def _sharing(second: MaskedPrepared, first: MaskedPrepared) -> MaskedPrepared:
    return replace(second, **{name: getattr(first, name) for name in SHARED})


@dataclass(frozen=True)
class SumPreparer:
    """Draws one mask for both parts, as each alone would draw it, and what else each needs."""

    first: MaskPreparer[Any]
    second: MaskPreparer[Any]

    def __call__(self, batch: Batch) -> SumPrepared:
        """Return the batch as both parts prepare it; a frame without a target in either is not masked."""
        first, second = self.first, self.second
        rows, width = frame_counts(first.grid, batch)
        mask = draw_masks(batch, rows, width, first.mask, first.seed)
        for part in (first, second, first):  # what the second leaves out may be missing in a row of the first
            mask = part.predictable(batch, rows, mask)
        one, two = first.prepared(batch, rows, mask), second.prepared(batch, rows, mask)
        return SumPrepared(batch, int(mask.sum()), one, _sharing(two, one))


class Sum(Objective[SumPrepared]):
    """Two objectives around one encoder; `sum_of` gives the class that declares their curves and rules.

    Parameters
    ----------
    parts
        The objectives of ``cfg.first`` and ``cfg.second``, around ``encoder`` and with the same seed.

    Raises
    ------
    ConfigError
        The parts have different masks; one needs another output than that at the masked frames; a weight is negative.
    """

    first: MaskedObjective[Any]
    second: MaskedObjective[Any]

    def __init__(
        self, encoder: SpeechEncoder, cfg: SumConfig, parts: Sequence[MaskedObjective[Any]], *, seed: int
    ) -> None:
        super().__init__()
        if min(cfg.weights) < 0:
            raise ConfigError(f"objective.weights = {list(cfg.weights)}: use 0 or more")
        masks = [part.cfg.mask for part in parts]
        if masks[0] != masks[1]:
            raise ConfigError(
                "the parts of a sum share one pass over masked audio, so objective.first.mask and "
                f"objective.second.mask must say the same, not {masks[0]} and {masks[1]}"
            )
        for place, part in zip(("first", "second"), parts, strict=True):
            if part.refused_in_sum:
                raise ConfigError(
                    f"objective.{place}.{part.refused_in_sum} changes what the encoder hears or for which frames its "
                    "output is needed, and the parts of a sum share one pass: leave it out"
                )
            # A plain attribute: one encoder, of this module, in state_dict and checkpoints.
            del part._modules["encoder"]
            object.__setattr__(part, "encoder", encoder)
            setattr(self, place, part)
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.chance = {f"{kind}_{name}": value for kind, part in self._parts() for name, value in part.chance.items()}

    def _parts(self) -> list[tuple[str, MaskedObjective[Any]]]:
        """Return both parts, each with its ``kind``."""
        return [(self.cfg.first.kind, self.first), (self.cfg.second.kind, self.second)]

    @staticmethod
    def candidates(cfg: SumConfig, iteration: int) -> int | None:
        """Return the number of units of the part that predicts units; curves have the level of chance of others."""
        targets = offline_targets(cfg)
        return None if targets is None else dict(enumerate(targets.clusters)).get(iteration)

    def preparer(self, seed: int | None = None) -> SumPreparer:
        """Return what prepares for both parts."""
        return SumPreparer(self.first.preparer(seed), self.second.preparer(seed))

    def exported(self) -> dict[str, Tensor]:
        """Return the heads of both parts."""
        parts = {"first": self.first, "second": self.second}
        return {f"{place}.{name}": value for place, part in parts.items() for name, value in part.exported().items()}

    def begin_step(self, step: int) -> bool:
        """Begin a step of both parts."""
        changed = [part.begin_step(step) for _, part in self._parts()]
        return any(changed)

    def after_update(self, step: int, parallel: Ranks) -> None:
        """End an update of both parts."""
        for _, part in self._parts():
            part.after_update(step, parallel)

    def forward(self, prepared: SumPrepared) -> Loss:
        """Return the weighted sum of both losses on one output of the encoder."""
        n = prepared.n_targets
        if n == 0:
            return empty_loss(self.parameters())
        output = self.first.encode(prepared.first)
        terms: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for weight, (kind, part), item in zip(
            self.cfg.weights, self._parts(), (prepared.first, prepared.second), strict=True
        ):
            loss = part.loss(output, item)
            terms.append(weight * (n / loss.n_targets) * loss.sum)
            metrics |= {f"{kind}_{name}": value for name, value in loss.metrics.items()}
        return Loss(sum=terms[0] + terms[1], n_targets=n, metrics=metrics)


def sum_of(cfg: SumConfig, classes: tuple[type[Objective[Any]], type[Objective[Any]]]) -> type[Sum]:
    """Return the class of a sum, whose title, curves and rules are those of its parts.

    Raises
    ------
    ConfigError
        The parts are of one kind; or one does not learn from masked audio by one pass of the encoder.
    """
    curves: list[Curve] = []
    rules: list[Rule | Plateau] = []
    if cfg.first.kind == cfg.second.kind:
        raise ConfigError(f'objective.first and objective.second are both "{cfg.first.kind}": sum two kinds')
    for place, part, each in zip(("first", "second"), cfg.parts, classes, strict=True):
        if not issubclass(each, MaskedObjective):
            raise ConfigError(
                f'objective.{place}.kind = "{part.kind}": the parts of a sum share one pass of the encoder over masked '
                f"audio, and {each.title} {'needs a causal encoder' if each.causal else 'encodes another input'}"
            )
        curves += [_curve(curve, part, each) for curve in each.curves]
        rules += [_rule(rule, part.kind, place) for rule in each.rules]
    declared = {"title": " + ".join(each.title for each in classes), "curves": tuple(curves), "rules": tuple(rules)}
    return cast(type[Sum], type("Sum", (Sum,), declared | {"__doc__": Sum.__doc__}))


def _curve(curve: Curve, part: PartConfig, each: type[Objective[Any]]) -> Curve:
    """Return a curve under the part's name, with its own level of chance where it is known before training."""
    level = curve.level
    among = None if offline_targets(part) else each.candidates(part, 0)
    if curve.chance and level is None and among is not None:
        level = log(among) if curve.chance == "loss" else curve.scale / among
    return replace(
        curve,
        metric=f"{part.kind}_{curve.metric}",
        axis=f"{each.title}: {curve.axis}",
        caption=curve.caption.replace("{most}", f", of {getattr(part, curve.most)}" if curve.most else ""),
        most="",
        level=level,
    )


def _rule(rule: Rule | Plateau, kind: str, place: str) -> Rule | Plateau:
    """Return a rule about the part's metrics, whose advice names the part's settings."""
    metric, message = f"{kind}_{rule.metric}", rule.message.replace("objective.", f"objective.{place}.")
    if isinstance(rule, Plateau):
        witness, most = rule.while_above
        return replace(rule, metric=metric, message=message, while_above=(f"{kind}_{witness}", most))
    return replace(rule, metric=metric, message=message)
