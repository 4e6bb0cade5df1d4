"""Is this run learning, or collapsing? Each finding names what happened, why it matters, and what to try.

In: the metrics of each log line. Out: findings, each once per episode. Self-supervised losses can look good while the
model learns nothing (a dead codebook makes every negative equal), so losses are read together with what the objective's
own rules say.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from speechssl.objectives.base import Plateau, Rule

__all__ = ["Finding", "Health"]

GRACE_SHARE, GRACE_STEPS = 0.1, 500
"""Checks of learning wait for a tenth of the run and for 500 steps: before that, chance level and odd codebooks are
normal."""
AT_CHANCE = 0.97
"""A loss above this share of its chance level has learnt nothing; measured losses that learn leave it within the
grace."""
TOO_GOOD = 0.02
"""No honest masked-prediction loss on speech falls below this share of chance (published runs end above a quarter)."""
EXPLOSION = 10.0
"""Times the running median of the gradient norm."""
WAIT_SHARE = 0.2
"""Share of the time spent waiting for data."""
MEMORISES_SHARE = 0.15
"""Share of the run that must have passed since the lowest validation loss."""
MEMORISES_RISE = 1.01
"""Rise of the validation loss, as a factor of its lowest value, that is more than a ripple."""
DIRECTIONS = Rule(
    "valid_effective_rank",
    "few_directions",
    "{name} has fallen from {peak:.0f} to {value:.1f}: the last layer's frames of held-out audio use few directions, "
    "and little can be read from them. Try a lower optim.lr, or another objective",
    fell=0.1,
    severity="warning",
)
"""For every objective. In docs/understanding.md order prediction has fallen from 131 to 8, and does not help."""
Check = Callable[[int, dict[str, float]], Iterator[tuple[str, "Finding | None"]]]
"""Yields (condition, finding or None when the condition does not hold) for every condition it can judge."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run."""

    name: str
    message: str
    """What was seen, and what to try."""
    severity: Literal["warning", "collapse"] = "warning"
    """collapse: the weights are of no use any more; ``training.on_collapse`` decides whether the run stops."""


class Health:
    """Watches the metrics of one run.

    Parameters
    ----------
    chance
        Metric -> value of a model that has learnt nothing (``Objective.chance``). Names that contain ``accuracy`` are
        better when higher, all others when lower.
    total_steps
        Length of the run.
    rules
        The objective's own (``Objective.rules``).
    """

    def __init__(self, chance: Mapping[str, float], total_steps: int, rules: Sequence[Rule | Plateau] = ()) -> None:
        self.rules = [*(rule for rule in rules if isinstance(rule, Rule)), DIRECTIONS]
        self.plateaus = [rule for rule in rules if isinstance(rule, Plateau)]
        self.chance = {name: value for name, value in chance.items() if value > 0}
        self.total = max(1, total_steps)
        self._active: set[tuple[str, str]] = set()
        self._since: dict[str, int] = {}
        self._peaks: dict[str, float] = {}
        self._norms: deque[float] = deque(maxlen=20)
        self._waits: deque[float] = deque(maxlen=3)
        self._losses: dict[str, list[tuple[int, float]]] = {}
        self._trained: list[float] = []
        self._validated: list[tuple[int, float, float]] = []

    def watch(self, step: int, metrics: Mapping[str, Any]) -> list[Finding]:
        """Return the findings that are new at ``step`` (steps done); what has ended may be found again later."""
        values = {name: float(x) for name, x in metrics.items() if isinstance(x, int | float) and math.isfinite(x)}
        new: list[Finding] = []
        for check in self._checks():
            for names, finding in check(step, values):
                if finding is None:
                    self._active = {item for item in self._active if item[0] != names}
                elif (names, finding.severity) not in self._active:
                    self._active.add((names, finding.severity))
                    new.append(finding)
        return new

    def _checks(self) -> list[Check]:
        checks: list[Check] = [
            self._learning,
            self._ruled,
            self._falling,
            self._gradient,
            self._skips,
            self._loader,
            self._memorising,
        ]
        return checks if self.total >= GRACE_STEPS else checks[1:]

    def _settled(self, step: int, share: float = GRACE_SHARE) -> bool:
        return step >= max(GRACE_STEPS, share * self.total)

    def _learning(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """Chance level (a loss of ln(1 + negatives) means a uniform guess), and losses too good to be true."""
        for name, chance in self.chance.items():
            if name not in values or "accuracy" in name:
                continue
            value = values[name]
            if value < AT_CHANCE * chance:
                self._since.pop(name, None)
                yield f"not_learning {name}", None
            else:
                since = self._since.setdefault(name, step)
                if self._settled(step):
                    message = (
                        f"{name} is {value:.3f}, no better than chance ({chance:.3f}), since step {since}. Try a lower "
                        "optim.lr with a longer warmup, a larger batch, and listen to a few utterances of the manifest"
                    )
                    late = self._settled(step, 0.3)
                    yield f"not_learning {name}", Finding("not_learning", message, "collapse" if late else "warning")
            if not self._settled(step) or value > TOO_GOOD * chance:
                yield f"too_good {name}", None
                continue
            message = f"{name} is {value:.4f}, too good to be true (chance: {chance:.3f})"
            broken = [(rule, key) for rule in self.rules for key in values if self._broken(rule, key, values)]
            dead = [_said(rule, key, values[key]) for rule, key in broken if rule.severity == "collapse"]
            if dead:
                message += f": a collapse that looks like success. {dead[0]}"
            else:
                message += ". Look for repeated audio, a constant signal, or targets that leak into the input"
            yield f"too_good {name}", Finding("too_good", message, "collapse" if dead else "warning")

    def _ruled(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """The objective's own rules, such as the use of each group of a codebook."""
        for name, value in values.items():
            self._peaks[name] = max(value, self._peaks.get(name, value))
            told = False
            for rule in self.rules:
                if name.startswith(rule.metric) and (rule.after is None or self._settled(step, rule.after)):
                    found = not told and self._broken(rule, name, values)
                    message = _said(rule, name, value, step=step, peak=self._peaks[name])
                    yield f"{rule.finding} {name}", Finding(rule.finding, message, rule.severity) if found else None
                    told = told or found

    def _broken(self, rule: Rule, name: str, values: dict[str, float]) -> bool:
        value = values[name]
        least = max(rule.low, rule.fell * self._peaks.get(name, 0.0)) if rule.fell else rule.low
        return name.startswith(rule.metric) and not least <= value <= rule.high

    def _falling(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """Losses that must go on falling: the objective's plateaus."""
        for rule in self.plateaus:
            witness, most = rule.while_above
            if rule.metric not in values or witness not in values:
                continue
            losses = self._losses.setdefault(rule.finding, [])
            losses.append((step, values[rule.metric]))
            begin = step - rule.share * self.total
            before = [loss for at, loss in losses if at <= begin]
            recent = [loss for at, loss in losses if at > begin]
            stuck = bool(before) and min(recent) > 0.99 * min(before) and values[witness] > most
            message = rule.message.format(name=rule.metric, value=values[witness], step=step)
            yield rule.finding, Finding(rule.finding, message) if stuck else None

    def _gradient(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        del step
        if (norm := values.get("grad_norm")) is None:
            return
        if len(self._norms) >= 5:
            median = statistics.median(self._norms)
            message = (
                f"the gradient norm is {norm:.3g}, {norm / max(median, 1e-12):.0f} times its running median. One spike "
                "is harmless when optim.clip is on; if the loss rises too, lower optim.lr or lengthen the warmup"
            )
            yield "gradient", Finding("gradient_explosion", message) if norm > EXPLOSION * median else None
        self._norms.append(norm)

    def _skips(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        if (skipped := values.get("skipped")) is not None:
            message = (
                f"{skipped:.0f} of {step} steps gave no update. The ledger lists their utterances; lower optim.lr, or "
                "try training.precision = 'fp32' to see whether the numbers or the data are to blame"
            )
            yield "skips", Finding("skipped_steps", message) if skipped >= max(3, 0.01 * step) else None

    def _loader(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        del step
        if (wait := values.get("loader_wait")) is not None:
            self._waits.append(wait)
            message = (
                f"{wait:.0%} of the time goes into waiting for data. Raise data.workers, or put the shards on a faster "
                "disk"
            )
            slow = len(self._waits) == 3 and min(self._waits) > WAIT_SHARE
            if slow or wait < WAIT_SHARE / 2:
                yield "loader", Finding("slow_loader", message) if slow else None

    def _memorising(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """Held-out loss that has risen for long while the training loss went on falling."""
        if "valid_loss" not in values:
            self._trained += [values["loss"]] if "loss" in values else []
            return
        if not self._trained:
            return
        self._validated.append((step, values["valid_loss"], statistics.fmean(self._trained)))
        self._trained = []
        best, lowest, then = min(self._validated, key=lambda item: item[1])
        recent = [loss for at, loss, _ in self._validated[-3:] if at > best]
        now = self._validated[-1][2]
        risen = len(recent) == 3 and min(recent) > MEMORISES_RISE * lowest
        message = (
            f"valid_loss was lowest at step {best} ({lowest:.3f}) and is {values['valid_loss']:.3f} now, while the "
            f"training loss fell from {then:.3f} to {now:.3f}: the model memorises its training audio, and later "
            "weights are worse on new audio. Use more audio, a smaller model or more dropout, or stop near "
            f"training.steps = {best}"
        )
        lasting = step - best >= MEMORISES_SHARE * self.total
        yield "memorises", Finding("memorises", message) if risen and lasting and now < then else None


def _said(rule: Rule, name: str, value: float, *, step: int = 0, peak: float = 0.0) -> str:
    return rule.message.format(name=name, value=value, step=step, peak=peak)
