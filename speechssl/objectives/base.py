"""What every objective offers to the training loop: a preparer, and a loss of what it prepared.

The preparer draws masks, negatives and targets (pure functions of seed, epoch and utterance id) where batches are
built, so the number of targets is known before the forward pass and the loss is a sum that can be normalised over
micro-batches and ranks.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from speechssl.data.batches.augment import Sounds
from speechssl.data.batches.batch import Batch, Prepared
from speechssl.objectives.published import Published, PublishedWer

__all__ = [
    "Curve",
    "Loss",
    "Objective",
    "OfflineTargets",
    "Plateau",
    "Prepared",
    "PreparedT",
    "Preparer",
    "Ranks",
    "Rule",
]

PreparedT = TypeVar("PreparedT", bound=Prepared)
Prepared_co = TypeVar("Prepared_co", bound=Prepared, covariant=True)


@dataclass(frozen=True)
class Loss:
    """A loss as a sum, so that it can be normalised over accumulation and ranks."""

    sum: Tensor
    """Scalar, float32: the sum over targets, regularisers already multiplied by ``n_targets``."""
    n_targets: int
    """Frames with a target (pretraining) or utterances (CTC) that the sum runs over."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Scalars on the device, detached, each a mean over this micro-batch; the loop averages them by their weight."""
    metrics_weight: int | None = None
    """Weight of the metrics in an average over micro-batches; None: ``n_targets``."""


@dataclass(frozen=True)
class Rule:
    """A metric out of its bounds, and what to try then. training/monitoring/health.py evaluates it."""

    metric: str
    """Beginning of the metric's name; each metric that begins so is watched by itself."""
    finding: str
    """Name of the finding."""
    message: str
    """What was seen and what to try, without the last full stop; may hold ``{name}``, ``{value}`` and ``{step}``, and
    ``{peak}`` for the highest value so far."""
    low: float = -math.inf
    high: float = math.inf
    """Bounds of the metric, which are in order themselves."""
    fell: float = 0.0
    """Share of its highest value that the metric must not fall below; 0: any."""
    after: float | None = 0.1
    """Share of the run after which the metric is judged, and not before 500 updates; None: from the first line."""
    severity: Literal["warning", "collapse"] = "collapse"
    """collapse: the weights are of no use any more."""


@dataclass(frozen=True)
class Plateau:
    """A loss that no longer falls, while another metric shows that it has not converged."""

    metric: str
    share: float
    """Part of the run without a fall by 1 %."""
    while_above: tuple[str, float]
    """The other metric, and the value above which the model has not learnt yet."""
    finding: str
    message: str
    """As in `Rule`; ``{value}`` is that of the other metric."""


@dataclass(frozen=True)
class Curve:
    """A figure of the report: one metric over the updates. reports/run/curves.py draws it where it was logged."""

    metric: str
    """Name of the metric."""
    axis: str
    """What the y axis shows, with its unit."""
    caption: str
    """Whole sentences. ``{most}`` stands for the largest possible value, where ``most`` names it."""
    chance: Literal["", "loss", "accuracy"] = ""
    """Level of chance to draw: that of a loss in nats, or of an accuracy (``Objective.candidates``)."""
    level: float | None = None
    """Level of chance of this metric where it is the same for all settings, and no choice among candidates."""
    scale: float = 1.0
    """Factor from the metric to the unit of the axis."""
    zero: bool = False
    """The axis begins at 0."""
    held_out: bool = False
    """The metric is also measured on held-out audio, as ``valid_NAME``."""
    groups: bool = False
    """The metric is logged for each group, as ``NAME_0``, ``NAME_1`` ...; each is a line."""
    most: str = ""
    """Setting of the objective that is the largest possible value."""


class OfflineTargets(Protocol):
    """Units that were made before training, on the frame grid of the encoder (``targets.table.UnitTable``)."""

    @property
    def hop(self) -> int:
        """Samples from one unit to the next."""
        ...

    @property
    def n_units(self) -> int:
        """Number of different units."""
        ...

    def get(self, item: str, start: int = 0, frames: int | None = None) -> np.ndarray | None:
        """Return the units of a stretch of an utterance, None when it has none."""
        ...

    def entropy(self) -> float:
        """Return the entropy of the unit distribution, in nats."""
        ...

    def largest_share(self) -> float:
        """Return the share of the most frequent unit."""
        ...


class Ranks(Protocol):
    """What an objective needs of the ranks of a run (``training.parallel.Parallel``)."""

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over ranks, as a tensor of its own (a collective)."""
        ...

    def rows(self, value: Tensor) -> list[Tensor]:
        """Return the rows [N, ...] of every rank, detached, in the order of ranks (a collective; N may differ)."""
        ...


class Preparer(Protocol[Prepared_co]):
    """Draws masks and targets for a CPU batch, whose samples may be int16. Rows of weight 0 get no targets.

    A function of the batch alone, that holds no weights of the model: it is pickled and sent to loader processes, or
    called from several loader threads.
    """

    def __call__(self, batch: Batch) -> Prepared_co:
        """Return what the objective computes with."""
        ...


class Objective(nn.Module, Generic[PreparedT]):
    """Base of pretext tasks and of CTC fine-tuning."""

    title: ClassVar[str] = ""
    """What reports call it."""
    curves: ClassVar[tuple[Curve, ...]] = ()
    """What the report draws, its loss first."""
    rules: ClassVar[tuple[Rule | Plateau, ...]] = ()
    """What tells that a run of this objective goes wrong, each with its own advice. Of the rules that one metric
    breaks, the first is reported."""
    published: ClassVar[tuple[Published | PublishedWer, ...]] = ()
    """What published runs of it reached."""
    causal: ClassVar[bool] = False
    """It predicts what follows, and so needs a causal encoder."""
    chance: dict[str, float]
    """Metric name -> value that a model which has learnt nothing would show: the first line of ``metrics.jsonl``, and
    what training/monitoring/health.py compares with."""
    seed: int = 0
    """Key of what the preparer draws."""
    ranks: Ranks | None = None
    """The ranks of the run, for what ``forward`` gathers; None outside a run. Every rank runs ``forward`` equally often
    in training, not in validation."""
    sounds: Sounds = Sounds()
    """Where its preparer takes noise and rooms from (``data.noise``, ``data.reverb``)."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = {}

    @staticmethod
    def candidates(cfg: Any, iteration: int) -> int | None:
        """Return among how many equally likely targets an objective of these settings chooses, where that is known.

        ``iteration`` counts from 0. It gives the chance level that a report draws, from ``config.toml`` alone.
        """
        del cfg, iteration
        return None

    def preparer(self, seed: int | None = None) -> Preparer[PreparedT]:
        """Return what prepares batches for this objective, as it is set now.

        ``seed`` is the key of what it draws; None for the objective's own. Validation draws by a key of its own.
        """
        raise AssertionError(f"{type(self).__name__} does not define preparer (seed {seed})")

    def prepare(self, batch: Batch) -> PreparedT:
        """Prepare one batch here and now."""
        return self.preparer()(batch)

    def forward(self, prepared: PreparedT) -> Loss:
        """Return the loss of one prepared micro-batch (on the model's device)."""
        raise AssertionError(f"{type(self).__name__} does not define forward ({prepared.n_targets} targets)")

    def begin_step(self, step: int) -> bool:
        """Set what depends on the step (temperature, freezing); return whether the trainable parameters changed."""
        del step
        return False

    def exported(self) -> dict[str, Tensor]:
        """Return the heads that a continued pretraining takes back, by name: everything but the encoder.

        An objective with a second encoder (a teacher) overrides this, and leaves it out.
        """
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    def after_update(self, step: int, parallel: Ranks) -> None:
        """Do what follows an optimiser step: move an EMA teacher, or codebooks by sums over all ranks.

        Called on every rank, after the same updates. ``step`` is the number of updates made so far.
        """
        del step, parallel
