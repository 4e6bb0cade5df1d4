"""The curves of a report: for each phase, the figures for which it has metrics.

In: the trainings of a run. Out: `Figure` records (caption, SVG). Levels of chance are drawn where the configuration
gives them, because a loss cannot be judged without them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from speechssl.objectives.base import Curve
from speechssl.objectives.published import Published
from speechssl.reports.page.axes import LONGEST, Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure
from speechssl.reports.run.collect import Training
from speechssl.reports.run.facts import dev_wer
from speechssl.reports.run.unit_use import use_chart

__all__ = ["finetuning_figures", "pretraining_figures", "training_label"]

_X = "update"
_HELD_OUT = (
    " Held out: on utterances that are never trained on, without dropout. When the model memorises, this loss rises "
    "while the training loss falls."
)
_LOSS = Curve("loss", "Loss (nats per masked frame)", "Loss; lower is better.", held_out=True)
_NEAREST = 2
"""Published sizes of batch that are drawn."""
_FEW = 60
"""Curves of at most this many points get a dot at each."""


def training_label(training: Training, phase: Sequence[Training]) -> str:
    """Return the name that distinguishes a training from the others of its phase."""
    rounds = any(other.round > 1 for other in phase)
    if training.phase == "finetune" and training.scratch:
        return "from scratch"
    if training.phase == "finetune" and rounds:
        return f"round {training.round}"
    if training.phase == "finetune" and any(other.scratch for other in phase):
        return "pretrained"
    label = training.name.rsplit("/", 1)[-1].replace("iteration-", "iteration ") or "this run"
    return f"round {training.round}, {label}" if rounds else label


def pretraining_figures(trainings: Sequence[Training]) -> list[Figure]:
    """Return loss, accuracy and what else the objective declares, learning rate and gradient norm of pretraining."""
    if not trainings:
        return []
    losses, accuracies, chance = _chances(trainings)
    references = {"loss": losses, "accuracy": accuracies, "": []}
    held = _HELD_OUT if any(row for t in trainings for row in t.valid) else ""
    figures = [
        _figure(
            _lines(trainings, curve),
            curve.axis,
            _caption(trainings, curve) + (chance if curve.chance == "loss" else "") + (held if curve.held_out else ""),
            references=references[curve.chance] if curve.level is None else _named([("", curve.level)], "{:.3g}", 1),
            zero=curve.zero,
        )
        for curve in _curves(trainings)
    ]
    chart = use_chart([(training_label(t, trainings), t.units) for t in trainings if t.units is not None])
    if chart is not None:
        figures.append(Figure(chart, "How often each unit is a target: share of the frames, by rank of the unit."))
    directions = _figure(
        _series(trainings, "valid_effective_rank", valid=True),
        "Effective rank (directions)",
        "How many directions the last layer's frames of held-out audio use, whatever the objective is. It falls "
        "towards 1 when a representation collapses.",
        zero=True,
    )
    shown = (*figures, directions, *_optimiser(trainings), *_published_figures(trainings))
    return [figure for figure in shown if figure is not None]


def _curves(trainings: Sequence[Training]) -> list[Curve]:
    """Return the curves of the objectives, the loss first: the whole loss where no loss of an objective was logged."""
    curves = list(dict.fromkeys(curve for t in trainings for curve in t.objective.curves))
    logged = {name for t in trainings for row in t.train for name in row}
    return curves if any(curve.metric in logged for curve in curves if curve.chance == "loss") else [_LOSS, *curves]


def _caption(trainings: Sequence[Training], curve: Curve) -> str:
    most = trainings[0].objective.setting(curve.most) if curve.most else None
    return curve.caption.replace("{most}", f", of {most}" if most else "")


def _lines(trainings: Sequence[Training], curve: Curve) -> list[Series]:
    """Return the lines of a curve: one per training, or the groups of the first training."""
    if not curve.groups:
        return (_with_held_out if curve.held_out else _series)(trainings, curve.metric, curve.scale)
    groups = sorted({name for t in trainings for row in t.train for name in row if name.startswith(f"{curve.metric}_")})
    return [
        Series(
            "all groups" if name == curve.metric else f"group {name.rsplit('_', 1)[-1]}",
            *_points(trainings[0], name),
            style=index % 4,
        )
        for index, name in enumerate(groups or [curve.metric])
    ]


def finetuning_figures(trainings: Sequence[Training]) -> list[Figure]:
    """Return dev WER, CTC loss, learning rate and gradient norm of fine-tuning."""
    if not trainings:
        return []
    wers = [
        Series(
            training_label(training, trainings),
            [float(row["step"]) for row in training.valid if dev_wer(row) is not None],
            [100 * wer for row in training.valid if (wer := dev_wer(row)) is not None],
            style=index % 4,
        )
        for index, training in enumerate(trainings)
    ]
    figures = [
        _figure(wers, "Word error rate on dev (%)", "Word error rate on the dev split, greedy decoding.", zero=True),
        _figure(
            _series(trainings, "loss"),
            "CTC loss (nats per utterance, log scale)",
            "Training loss, with the noise of augmentation and dropout.",
            log=True,
        ),
        _figure(
            _series(trainings, "dev_loss", valid=True),
            "CTC loss on dev (nats per utterance)",
            "Loss on the dev split, without augmentation; it may rise while the word error rate still falls.",
        ),
        _figure(
            _series(trainings, "blank_fraction", scale=100),
            "Blank frames (%)",
            "Share of frames whose best label is the CTC blank. All blank is normal at first, but not for long.",
        ),
        *_optimiser(trainings),
    ]
    return [figure for figure in figures if figure is not None]


def _optimiser(trainings: Sequence[Training]) -> list[Figure | None]:
    peak = max((row["lr"] for t in trainings for row in t.train if isinstance(row.get("lr"), int | float)), default=0)
    power = math.floor(math.log10(peak)) if peak > 0 else 0
    sign = str(power).replace("-", "⁻").translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    rates = _series(trainings, "lr", scale=10.0**-power)
    same = len(rates) > 1 and all((other.x, other.y) == (rates[0].x, rates[0].y) for other in rates)
    return [
        _figure(
            rates[:1] if same else rates,
            f"Learning rate (10{sign})" if power else "Learning rate",
            "Learning rate, the same in all." if same else "Learning rate.",
            zero=True,
            noisy=False,
        ),
        _figure(
            _series(trainings, "grad_norm"),
            "Gradient norm (log scale)",
            "Global gradient norm before clipping.",
            log=True,
        ),
    ]


def _figure(
    series: Sequence[Series],
    y_label: str,
    caption: str,
    *,
    log: bool = False,
    zero: bool = False,
    noisy: bool = True,
    references: Sequence[tuple[str, float]] = (),
) -> Figure | None:
    few = all(len(item.x) <= _FEW for item in series)
    drawing = line_chart(series, x_label=_X, y_label=y_label, log=log, zero=zero, marks=few, references=references)
    if drawing is None:
        return None
    thinned = noisy and any(len(item.x) > LONGEST for item in series)
    return Figure(drawing, caption + (" Line: mean of neighbouring points; band: their range." if thinned else ""))


def _series(trainings: Sequence[Training], name: str, scale: float = 1.0, *, valid: bool = False) -> list[Series]:
    series = []
    for index, training in enumerate(trainings):
        x, y = _points(training, name, valid=valid)
        series.append(Series(training_label(training, trainings), x, [scale * value for value in y], style=index % 4))
    return series


def _with_held_out(trainings: Sequence[Training], name: str, scale: float = 1.0) -> list[Series]:
    """Return the curve of each training, and of the same metric on its held-out part where there is one."""
    known, held = _series(trainings, name, scale), _series(trainings, f"valid_{name}", scale, valid=True)
    if not any(item.x for item in held):
        return known
    series = []
    for index, pair in enumerate(zip(known, held, strict=True)):
        names = ("training", "held out") if len(known) == 1 else (pair[0].name, f"{pair[1].name}, held out")
        series += [replace(item, name=names[i], style=(2 * index + i) % 4) for i, item in enumerate(pair)]
    return series


def _points(training: Training, name: str, *, valid: bool = False) -> tuple[list[float], list[float]]:
    logged = training.valid if valid else training.train
    rows = [row for row in logged if isinstance(row.get(name), int | float)]
    return [float(row["step"]) for row in rows], [float(row[name]) for row in rows]


def _chances(trainings: Sequence[Training]) -> tuple[list[tuple[str, float]], list[tuple[str, float]], str]:
    """Return the levels of chance of the loss (nats) and of the accuracy (%), one line where all agree, and a sentence.

    Chance is a guess among equally likely candidates. Where the units of an iteration were counted, it is a guess by
    the frequency of each unit alone.
    """
    losses: list[tuple[str, float]] = []
    accuracies: list[tuple[str, float]] = []
    counted = False
    for index, training in enumerate(trainings):
        among, units = training.objective.candidates(index), training.units
        loss = math.log(among) if among else None
        accuracy = 100 / among if among else None
        if units is not None and units.entropy and units.largest_share:
            loss, accuracy, counted = units.entropy, 100 * units.largest_share, True
        label = training_label(training, trainings)
        if loss is not None and accuracy is not None:
            losses.append((label, loss))
            accuracies.append((label, accuracy))
    told = " Chance: a model that knows only how frequent each unit is." if counted else ""
    n = len(trainings)
    return _named(losses, "{:.2f}", n), _named(accuracies, "{:.2g} %", n), told


def _named(levels: Sequence[tuple[str, float]], form: str, n: int) -> list[tuple[str, float]]:
    if len(levels) == n and len({value for _, value in levels}) == 1:
        return [(f"chance: {form.format(levels[0][1])}", levels[0][1])]
    return [(f"chance, {name}: {form.format(value)}", value) for name, value in levels]


def _published_figures(trainings: Sequence[Training]) -> list[Figure]:
    """Return metrics over hours of audio, beside published runs.

    A training compares if its objective has the published settings, and it has seen as much audio as the first
    published point. The sizes of batch nearest to its own are drawn.
    """
    figures = [
        _published_figure(training, published)
        for training in trainings
        for published in training.objective.published
        if isinstance(published, Published)
        and all(training.objective.setting(name) == value for name, value in published.settings)
    ]
    return [each for each in figures if each is not None]


def _published_figure(training: Training, published: Published) -> Figure | None:
    data = training.config.get("data", {})
    step_seconds = float(data.get("batch_seconds", 0.0)) * int(data.get("batches_per_step", 1))
    held_out = _values(training.valid, f"valid_{published.metric}")
    own = held_out or _values(training.train, published.metric)
    if not own or step_seconds <= 0:
        return None
    hours = [_hours(step, step_seconds) for step in own]
    series = [Series("this run", hours, [published.scale * value for value in own.values()])]
    for seconds, values in sorted(published.values, key=lambda pair: abs(pair[0] / step_seconds - 1))[:_NEAREST]:
        points = [
            (_hours(step, seconds), published.scale * value)
            for step, value in zip(published.updates, values, strict=True)
            if _hours(step, seconds) <= hours[-1]
        ]
        if points:
            x, y = zip(*points, strict=True)
            series.append(Series(f"{seconds:g} s a step", x, y, style=len(series)))
    if len(series) == 1:
        return None
    drawing = line_chart(series, x_label="hours of audio seen, at most", y_label=published.axis, zero=True, marks=True)
    if drawing is None:
        return None
    return Figure(drawing, f"{published.axis.removesuffix(' (%)')} over audio seen. {published.source}")


def _hours(step: float, seconds: float) -> float:
    return float(f"{step * seconds / 3600:.3g}")


def _values(rows: Sequence[dict[str, object]], name: str) -> dict[float, float]:
    """Return step -> value of a metric."""
    return {float(row["step"]): float(row[name]) for row in rows if isinstance(row.get(name), int | float)}  # type: ignore[arg-type]
