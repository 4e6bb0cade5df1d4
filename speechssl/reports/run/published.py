"""Published curves of wav2vec 2.0 behind those of a run, matched by the hours of audio seen.

In: the trainings of a run. Out: figures in which published points end where the run ends: nothing is extrapolated. The
points are those of Vaessen & van Leeuwen (2024, arXiv 2402.13723; code and tables: nanow2v2, MIT licence): BASE on
LibriSpeech 960 h, a run for each size of batch.
"""

from collections.abc import Mapping, Sequence

from speechssl.config.masked_objectives import Wav2Vec2Config
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure
from speechssl.reports.run.collect import Training

__all__ = ["published_figures"]

NEGATIVES, ENTRIES, GROUPS = 100, 320, 2
"""Settings of the published runs, without which accuracy and perplexity say something else."""
STEPS = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
ACCURACY = {
    87.5: (0.150, 0.163, 0.231, 0.276, 0.306, 0.348, 0.390),
    150.0: (0.144, 0.161, 0.250, 0.307, 0.340, 0.381, 0.427),
    300.0: (0.140, 0.212, 0.276, 0.339, 0.380, 0.422, 0.463),
    600.0: (0.175, 0.234, 0.309, 0.379, 0.423, 0.467, 0.502),
    1200.0: (0.202, 0.263, 0.340, 0.421, 0.463, 0.500, 0.529),
    2400.0: (0.244, 0.308, 0.384, 0.480, 0.513, 0.538, 0.554),
    4800.0: (0.252, 0.322, 0.416, 0.506, 0.536, 0.555, 0.563),
}
"""Seconds of audio in a step -> accuracy among 101 latents on held-out audio after `STEPS`."""
PERPLEXITY = {
    87.5: (20, 27, 59, 75, 94, 113, 127),
    600.0: (15, 37, 68, 83, 124, 152, 211),
    2400.0: (38, 70, 119, 132, 141, 134, 136),
}
"""The same for the perplexity of the first codebook, of 320 entries."""
_SOURCE = (
    "Published: wav2vec 2.0 BASE on LibriSpeech, Vaessen & van Leeuwen (2024), with the size of their batch. Their "
    "curves are drawn as far as this run has come. Other audio, or another size of model, has other curves."
)


def published_figures(trainings: Sequence[Training]) -> list[Figure]:
    """Return held-out accuracy and perplexity over hours of audio, beside published runs; none where none compares.

    A training compares if its objective is wav2vec 2.0 with the published negatives and codebooks, and it has seen as
    much audio as the first published point.
    """
    figures = []
    for training in trainings:
        settings = training.objective.settings
        if not isinstance(settings, Wav2Vec2Config) or settings.negatives != NEGATIVES:
            continue
        drawn = [_figure(training, ACCURACY, ("valid_accuracy", "accuracy"), 100.0, "Accuracy (%)")]
        if (settings.entries, settings.groups) == (ENTRIES, GROUPS):
            names = ("valid_perplexity_0", "perplexity_0")
            drawn.append(_figure(training, PERPLEXITY, names, 1.0, "Perplexity of codebook 0"))
        figures += [each for each in drawn if each is not None]
    return figures


def _figure(
    training: Training, published: Mapping[float, Sequence[float]], names: Sequence[str], scale: float, axis: str
) -> Figure | None:
    data = training.config.get("data", {})
    step_seconds = float(data.get("batch_seconds", 0.0)) * int(data.get("batches_per_step", 1))
    own = next((found for name in names if (found := _points(training, name)).keys()), {})
    if not own or step_seconds <= 0:
        return None
    hours = [_hours(step, step_seconds) for step in own]
    series = [Series("this run", hours, [scale * value for value in own.values()])]
    for seconds in sorted(published, key=lambda batch: abs(batch / step_seconds - 1))[:2]:
        points = [(_hours(step, seconds), scale * value) for step, value in zip(STEPS, published[seconds], strict=True)]
        if inside := [point for point in points if point[0] <= hours[-1]]:
            x, y = zip(*inside, strict=True)
            series.append(Series(f"{seconds:g} s a step", x, y, style=len(series)))
    if len(series) == 1:
        return None
    drawing = line_chart(series, x_label="hours of audio seen, at most", y_label=axis, zero=True, marks=True)
    return None if drawing is None else Figure(drawing, f"{axis.removesuffix(' (%)')} by audio seen. {_SOURCE}")


def _hours(step: float, seconds: float) -> float:
    return float(f"{step * seconds / 3600:.3g}")


def _points(training: Training, name: str) -> dict[float, float]:
    """Return step -> value of a metric: of validation where its name begins with valid."""
    rows = training.valid if name.startswith("valid_") else training.train
    return {float(row["step"]): float(row[name]) for row in rows if isinstance(row.get(name), int | float)}
