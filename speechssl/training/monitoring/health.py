"""Is this run learning, or collapsing? Each finding names what happened, why it matters, and what to try.

In: the metrics of each log line. Out: findings, each once per episode. Self-supervised losses can look good while the
model learns nothing (a dead codebook makes every negative equal), so losses are read together with codebook use and
variance.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from speechssl.objectives.base import Rule

__all__ = ["Finding", "Health"]

GRACE_SHARE, GRACE_STEPS = 0.1, 500
"""Checks of learning wait for a tenth of the run and for 500 steps: before that, chance level and odd codebooks are
normal."""
AT_CHANCE = 0.97
"""A loss above this share of its chance level has learnt nothing; measured losses that learn leave it within the
grace."""
TOO_GOOD = 0.02
"""No honest masked-prediction loss on speech falls below this share of chance (published runs end above a quarter)."""
DEAD_PERPLEXITY = 2.0
"""A group of a codebook that uses less than two entries carries no information."""
DEAD_VARIANCE = 0.01
"""Summed variance of unit-length targets: 1 when they point everywhere, 0 when they are all the same."""
MASKED_RANGE = (0.15, 0.85)
"""Share of masked frames that leaves something to predict and something to predict it from (papers: 0.49 to 0.57)."""
EXPLOSION = 10.0
"""Times the running median of the gradient norm."""
WAIT_SHARE = 0.2
"""Share of the time spent waiting for data."""
ALL_BLANK = 0.99
"""Share of frames whose best CTC label is the blank; speech needs about 0.6 to 0.95."""
PLATEAU_BLANK = 0.9
"""A loss that stands still below this share of blanks has simply converged."""
MEMORISES_SHARE = 0.15
"""Share of the run that must have passed since the lowest validation loss."""
MEMORISES_RISE = 1.01
"""Rise of the validation loss, as a factor of its lowest value, that is more than a ripple."""
PLATEAU = (
    "All-blank output is normal for the first part of a run. If it lasts: check the transcripts and the vocabulary in "
    "the ledger, shorten ctc.freeze_steps, or raise optim.lr"
)

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

    def __init__(self, chance: Mapping[str, float], total_steps: int, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self.chance = {name: value for name, value in chance.items() if value > 0}
        self.total = max(1, total_steps)
        self._active: set[tuple[str, str]] = set()
        self._since: dict[str, int] = {}
        self._peaks: dict[str, float] = {}
        self._norms: deque[float] = deque(maxlen=20)
        self._waits: deque[float] = deque(maxlen=3)
        self._losses: list[tuple[int, float]] = []
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
            self._targets,
            self._gradient,
            self._skips,
            self._loader,
            self._ctc,
            self._memorising,
        ]
        return checks if self.total >= GRACE_STEPS else checks[2:]

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
            dead = [
                f"{key} = {x:.2f}" for key, x in values.items() if key.startswith("perplexity") and x < DEAD_PERPLEXITY
            ]
            if values.get("target_variance", 1.0) < DEAD_VARIANCE:
                dead.append(f"target_variance = {values['target_variance']:.4f}")
            message = f"{name} is {value:.4f}, too good to be true (chance: {chance:.3f})"
            if dead:
                message += f", and the targets are all alike ({', '.join(dead)}): a collapse that looks like success. "
                message += "Go back to an earlier checkpoint with a lower optim.lr or a larger diversity weight"
            else:
                message += ". Look for repeated audio, a constant signal, or targets that leak into the input"
            yield f"too_good {name}", Finding("too_good", message, "collapse" if dead else "warning")

    def _ruled(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """The objective's own rules, such as the use of each group of a codebook."""
        for rule, name in [(rule, name) for rule in self.rules for name in values if name.startswith(rule.metric)]:
            value, condition = values[name], f"{rule.finding} {name}"
            peak = self._peaks[name] = max(value, self._peaks.get(name, 0.0))
            if not self._settled(step):
                continue
            if value < rule.dead:
                message = f"{name} is {value:.2f}: {rule.meaning}. {rule.advice}"
                yield condition, Finding(f"{rule.finding}_collapse", message, "collapse")
            elif value < rule.shrunk * peak:
                message = f"{name} fell from {peak:.0f} to {value:.1f}: {rule.shrinking}"
                yield condition, Finding(f"{rule.finding}_shrinking", message)
            else:
                yield condition, None

    def _targets(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        if (variance := values.get("target_variance")) is not None and step >= min(GRACE_STEPS, 0.5 * self.total):
            message = (
                f"target_variance is {variance:.4f}: all targets are nearly the same vector, so there is nothing to "
                "predict. Go back to an earlier checkpoint with a lower optim.lr; check that the audio is not silent"
            )
            finding = Finding("target_collapse", message, "collapse")
            yield "targets", finding if variance < DEAD_VARIANCE else None
        if (masked := values.get("masked_fraction")) is not None:
            message = (
                f"{masked:.0%} of the frames are masked (usual: 49 to 57 %). Check the objective's mask.prob "
                "and mask.length; very short utterances have room for few spans, so raise data.min_seconds"
            )
            fine = MASKED_RANGE[0] <= masked <= MASKED_RANGE[1]
            yield "masked", None if fine else Finding("masked_fraction", message)

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

    def _ctc(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, Finding | None]]:
        """The blank plateau: normal at first, a failure when it lasts."""
        if (blank := values.get("blank_fraction")) is not None and "loss" in values:
            self._losses.append((step, values["loss"]))
            before = [loss for at, loss in self._losses if at <= step - 0.2 * self.total]
            recent = [loss for at, loss in self._losses if at > step - 0.2 * self.total]
            stuck = bool(before) and min(recent) > 0.99 * min(before)
            message = f"{blank:.0%} of the frames are blank after step {step}. {PLATEAU}"
            yield "blank", Finding("ctc_all_blank", message) if blank > ALL_BLANK and self._settled(step, 0.3) else None
            message = f"the CTC loss has not fallen for a fifth of the run ({blank:.0%} blank frames). {PLATEAU}"
            yield "plateau", Finding("ctc_plateau", message) if stuck and blank > PLATEAU_BLANK else None
        if (wer := values.get("dev_wer")) is not None:
            message = (
                f"dev_wer is {wer:.2f} at step {step}: nothing is recognised yet. Look at the samples in the log: "
                "no words at all is the blank plateau (train longer), wrong letters are a vocabulary that does not fit"
            )
            yield "no_words", Finding("ctc_no_words", message) if wer > 0.98 and self._settled(step, 0.5) else None

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
