"""What models have learned, on one page: rates of probes and ABX beside each other, then layers.

In: the folder of ``speechssl understand``. Out: ``understand.html``, one file that requests nothing, and
``understand.txt``.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from speechssl.config import UnderstandConfig
from speechssl.core.environment import environment
from speechssl.core.files import read_json, write_atomic
from speechssl.core.text_table import interval_text, percent, text_table
from speechssl.core.version import __version__
from speechssl.reports.layers_page import bullets, figures, findings, layer_sections, layers_text, write_layers
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.heat_map import HEAT_STYLE
from speechssl.reports.page.html import el
from speechssl.reports.run.tables import table
from speechssl.understanding.layers.compare import read_layers

__all__ = ["ABX", "FOUND", "write_understanding"]

ABX = "abx"
FOUND = "probe.json"
"""What ``probe`` writes."""
REMEDY = "delete the folder to measure it again"
NOTE = (
    "Test errors in %, lower is better, with 95 % intervals. Probes: small heads on the frozen layers. EER: equal "
    "error rate of speaker verification. ABX: the layer with the lowest error; chance is 50."
)


@dataclass(frozen=True)
class Rate:
    """An error of one model."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return percent with the interval."""
        inside = "" if self.low is None else f" ({interval_text(self.low, self.high, 1)})"
        return percent(self.value, 1) + inside


@dataclass(frozen=True)
class Measure:
    """One error of all models."""

    name: str
    rates: dict[str, Rate]
    """Name of the model -> its error."""
    task: str = ""
    """Of a probe: measures of one task differ in the head."""


def write_understanding(output: Path, named: Sequence[tuple[str, str]], cfg: UnderstandConfig) -> Path:
    """Write the page and the text of what was measured; return the path of the page.

    Raises DataError when a result is missing or damaged.
    """
    layers = read_layers(output / "layers" / "layers.json")
    write_layers(layers, output / "layers")
    probes = {task: {name: read_json(output / name / task / FOUND, REMEDY) for name, _ in named} for task in cfg.tasks}
    abx = {name: read_json(output / name / ABX / "abx.json", REMEDY) for name, _ in named} if cfg.alignment else {}
    measures = [*_of_probes(probes), *_of_abx(abx)]
    compared = list(_compared(measures))
    header = ["measure", *(name for name, _ in named)]
    rows = [[each.name, *(str(each.rates[name]) for name, _ in named)] for each in measures]
    parts = [text_table(header, rows), textwrap.fill(NOTE, 100), "\n".join(compared), layers_text(layers)]
    write_atomic(output / "understand.txt", "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n")
    curves = [*_abx_curves(abx), *_weights(probes)]
    sections: list[Section] = [
        ("rates", "Beside each other", [table(NOTE, header, rows) if rows else None, bullets(compared)]),
        ("where", "Where heads and ABX find it", [figures(curves)]),
        ("layers", "Layers", [bullets([*findings(layers), *layers.notes])]),
        *layer_sections(layers),
    ]
    title = f"What {_listed([name for name, _ in named])} learned"
    top = [
        el("p", "speechssl understand", class_="kicker"),
        el("h1", title),
        el("p", f"{datetime.now().astimezone():%d %B %Y, %H:%M}", class_="faint date"),
        *(el("p", f"{name}: {model}", class_="date") for name, model in named),
    ]
    about = ", ".join(f"{name} {value}" for name, value in environment().items())
    path = output / "understand.html"
    head = document_head(f"{title} – speechssl", style=HEAT_STYLE, sound=False)
    write_atomic(path, page(head, top, sections, f"Made by speechssl {__version__}. {about}."))
    return path


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rate(error: float, interval: Sequence[float] | None) -> Rate:
    return Rate(error, *(interval or (None, None)))


def _of_probes(probes: dict[str, dict[str, Any]]) -> Iterator[Measure]:
    """Yield the error of each task and head, and the equal error rate where speakers were verified."""
    for task, by_model in probes.items():
        heads = {name: {head["head"]: head for head in found["heads"]} for name, found in by_model.items()}
        for head in next(iter(heads.values())):
            found = {name: own[head] for name, own in heads.items()}
            rates = {name: _rate(own["error"], own["interval"]) for name, own in found.items()}
            yield Measure(f"{task}, {head}", rates, task)
            if all(own["eer"] is not None for own in found.values()):
                rates = {name: _rate(own["eer"], own["eer_interval"]) for name, own in found.items()}
                yield Measure(f"{task}, {head}, EER", rates, f"{task}, EER")


def _of_abx(abx: dict[str, Any]) -> Iterator[Measure]:
    for mode in next(iter(abx.values()))["counts"] if abx else ():
        rates = {}
        for name, own in abx.items():
            best = min((row[mode] for row in own["layers"]), key=lambda found: found["error"])
            rates[name] = _rate(best["error"], best["interval"])
        yield Measure(f"ABX {mode} speakers", rates)


def _compared(measures: Sequence[Measure]) -> Iterator[str]:
    """Say which model has the lowest error of each measure, and where heads of one task disagree."""
    lowest: dict[str, set[str]] = {}
    for each in measures:
        if len(each.rates) < 2:
            return
        best = min(each.rates, key=lambda name: each.rates[name].value)
        top = each.rates[best]
        near = [
            name
            for name, rate in each.rates.items()
            if name != best and (top.high is None or rate.low is None or rate.low <= top.high)
        ]
        beside = f"; its interval overlaps with that of {_listed(near)}" if near else ""
        yield f"{each.name}: the lowest error is that of {best}, {percent(top.value, 1)} %{beside}."
        if each.task:
            lowest.setdefault(each.task, set()).add(best)
    for task, names in lowest.items():
        if len(names) > 1:
            yield f"{task}: which model is best depends on the head ({_listed(sorted(names))})."


def _abx_curves(abx: dict[str, Any]) -> Iterator[Figure]:
    """Draw the ABX error over the layers; a baseline is a horizontal line."""
    for mode in next(iter(abx.values()))["counts"] if abx else ():
        series, lines = [], []
        for style, (name, own) in enumerate(abx.items()):
            errors = [100 * row[mode]["error"] for row in own["layers"]]
            if len(errors) == 1:
                lines.append((name, errors[0]))
            else:
                series.append(Series(name, [row["layer"] for row in own["layers"]], errors, style=style))
        drawing = line_chart(
            series, x_label="layer", y_label="ABX error (%)", marks=True, whole_x=True, zero=True, references=lines
        )
        if drawing is not None:
            yield Figure(
                drawing, f"ABX error {mode} speakers of each layer: the lower, the better phones are told apart."
            )


def _weights(probes: dict[str, dict[str, Any]]) -> Iterator[Figure]:
    """Draw the weights that heads give to the layers; nearest neighbours take one layer and have none."""
    for task, by_model in probes.items():
        for head in [own["head"] for own in next(iter(by_model.values()))["heads"] if own["head"] != "knn"]:
            series = []
            for style, (name, found) in enumerate(by_model.items()):
                (weights,) = (own["layers"] for own in found["heads"] if own["head"] == head)
                if len(weights) > 1:
                    series.append(Series(name, [int(layer) for layer in weights], list(weights.values()), style=style))
            drawing = line_chart(series, x_label="layer", y_label="weight", marks=True, whole_x=True, zero=True)
            if drawing is not None:
                yield Figure(drawing, f"Weights of the layers that the head {head} has learned for {task}.")
