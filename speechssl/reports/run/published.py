"""Published curves behind those of a run, matched by the hours of audio seen.

In: the trainings of a run. Out: figures in which published points end where the run ends: nothing is extrapolated.
"""

from collections.abc import Sequence

from speechssl.objectives.base import Published
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure
from speechssl.reports.run.collect import Training

__all__ = ["published_figures"]

NEAREST = 2
"""Published sizes of batch that are drawn."""


def published_figures(trainings: Sequence[Training]) -> list[Figure]:
    """Return metrics over hours of audio, beside published runs.

    A training compares if its objective has the published settings, and it has seen as much audio as the first
    published point. The sizes of batch nearest to its own are drawn.
    """
    figures = [
        _figure(training, published)
        for training in trainings
        for published in training.objective.published
        if all(training.objective.setting(name) == value for name, value in published.settings)
    ]
    return [each for each in figures if each is not None]


def _figure(training: Training, published: Published) -> Figure | None:
    data = training.config.get("data", {})
    step_seconds = float(data.get("batch_seconds", 0.0)) * int(data.get("batches_per_step", 1))
    held_out = _points(training.valid, f"valid_{published.metric}")
    own = held_out or _points(training.train, published.metric)
    if not own or step_seconds <= 0:
        return None
    hours = [_hours(step, step_seconds) for step in own]
    series = [Series("this run", hours, [published.scale * value for value in own.values()])]
    for seconds, values in sorted(published.values, key=lambda pair: abs(pair[0] / step_seconds - 1))[:NEAREST]:
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


def _points(rows: Sequence[dict[str, object]], name: str) -> dict[float, float]:
    """Return step -> value of a metric."""
    return {float(row["step"]): float(row[name]) for row in rows if isinstance(row.get(name), int | float)}  # type: ignore[arg-type]
