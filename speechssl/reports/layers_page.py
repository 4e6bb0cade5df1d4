"""Layers beside each other: a page with curves and heat maps, a table, and sentences on what is where.

In: what ``understanding/layers`` found. Out: ``layers.html``, one file that requests nothing, and ``layers.txt``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechssl.core.files import write_atomic
from speechssl.core.text_table import text_table
from speechssl.reports.page.axes import Series
from speechssl.reports.page.charts import line_chart
from speechssl.reports.page.figure import Figure, figure, prose
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.heat_map import HEAT_STYLE, heat_map
from speechssl.reports.page.html import Html, el
from speechssl.understanding.layers.compare import Layers, LayersResult

__all__ = ["bullets", "figures", "findings", "layer_sections", "layers_text", "write_layers"]

CHANCE = 0.02
"""Held-out correlation up to which both halves count as unrelated."""
CCA, MI, PROBE = "mean canonical correlation", "share of the entropy", "share of frames"
MEASURES = {
    "cca_logmel": ("CCA log-mel", CCA, "CCA with the log-mel frame at the same instant."),
    "cca_phones": ("CCA phones", CCA, "CCA with phone identity (one-hot)."),
    "cca_words": ("CCA words", CCA, "CCA of the mean over each spoken word with word identity (one-hot)."),
    "cca_speakers": ("CCA speakers", CCA, "CCA with speaker identity (one-hot)."),
    "probe_phones": ("probe phones", PROBE, "Frames whose phone a linear classifier (LDA) names."),
    "probe_speakers": ("probe speakers", PROBE, "Frames whose speaker a linear classifier (LDA) names."),
    "mi_phones": ("MI phones", MI, "Mutual information of k-means clusters and phones, over the phones' entropy."),
    "mi_speakers": ("MI speakers", MI, "Mutual information of k-means clusters and speakers, over their entropy."),
    "effective_rank": ("effective rank", "directions", "Effective rank: exp of the entropy of the singular values."),
    "anisotropy": ("mean cosine", "mean cosine", "Anisotropy: mean cosine of all pairs of frames."),
}
"""Measure -> its column, the unit of its axis, the caption."""
SHAPE = ("effective_rank", "anisotropy")
SUBJECTS = {"logmel": "log-mel is", "phones": "phones are", "words": "words are", "speakers": "speakers are"}


def write_layers(result: LayersResult, output: Path) -> Path:
    """Write ``layers.txt`` and ``layers.html`` into a folder; return the page."""
    write_atomic(output / "layers.txt", layers_text(result))
    path = output / "layers.html"
    write_atomic(path, _page(result))
    return path


def layers_text(result: LayersResult) -> str:
    """Return tables and findings for a terminal."""
    parts = [_about(result)]
    for item in result.models:
        header, rows = _rows(item)
        parts.append(f"{item.name}: {item.model}\n{text_table(header, rows)}")
    parts += ["\n".join([*findings(result), *result.notes])]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def findings(result: LayersResult) -> list[str]:
    """Return sentences: where each kind of information is best, what the last layers do, how models differ."""
    said = []
    for item in result.models:
        if len(item.layers) > 1:
            said += [_best(item, subject) for subject in SUBJECTS if f"cca_{subject}" in item.values]
            said.append(_towards_input(item))
    for (a, b), values in result.cka.items():
        first, second = result.models[a], result.models[b]
        if a != b and len(first.layers) > 1 and first.layers == second.layers:
            same = np.diag(values)
            most, least = int(same.argmax()), int(same.argmin())
            said.append(
                f"{first.name} and {second.name}: the same layers are most alike at layer {first.layers[most]} "
                f"(CKA {same[most]:.2f}) and least at layer {first.layers[least]} ({same[least]:.2f})."
            )
    return said


def _best(item: Layers, subject: str) -> str:
    """Say which layer has most of a kind of information; layers within the spread of the halves are named too."""
    values, spread = item.values[f"cca_{subject}"], item.values[f"cca_{subject}_spread"]
    best = int(np.argmax(values))
    if values[best] - spread[best] <= CHANCE:
        return f"{item.name}: {SUBJECTS[subject]} in no layer (CCA at most {values[best]:.2f})."
    tied = [
        str(layer)
        for layer, value, own in zip(item.layers, values, spread, strict=True)
        if layer != item.layers[best] and values[best] - value <= max(own, spread[best])
    ]
    beside = f"; within the difference of the halves: {', '.join(tied)}" if tied else ""
    said = (
        f"{item.name}: {SUBJECTS[subject]} best predicted from layer {item.layers[best]} (CCA {values[best]:.2f}"
        f"{beside}). Layer {item.layers[0]} has {values[0]:.2f}, the last layer {values[-1]:.2f}."
    )
    if probed := item.values.get(f"probe_{subject}"):
        most = int(np.argmax(probed))
        said += f" A linear probe has {probed[most]:.0%} of the frames right at layer {item.layers[most]}"
        said += f" and {probed[-1]:.0%} at the last."
    if shared := item.values.get(f"mi_{subject}"):
        chance = item.values[f"mi_{subject}_chance"]
        most = int(np.argmax(shared))
        said += f" By clusters it is layer {item.layers[most]} (MI {shared[most]:.2f}, chance {chance[most]:.2f})."
    return said


def _towards_input(item: Layers) -> str:
    """Say whether log-mel returns in the last layers (Pasad et al. 2021 call it autoencoder-style behaviour)."""
    values, spread = item.values["cca_logmel"], item.values["cca_logmel_spread"]
    least = int(np.argmin(values))
    rise = values[-1] - values[least]
    first, last = item.layers[least], item.layers[-1]
    if 0 < least < len(values) - 1 and rise > max(spread[least], spread[-1], CHANCE):
        return (
            f"{item.name}: after layer {first} the layers come nearer to log-mel again, as in an autoencoder "
            f"(CCA {values[least]:.2f} to {values[-1]:.2f} at layer {last})."
        )
    return f"{item.name}: the last layers do not come nearer to log-mel again (no autoencoder behaviour)."


def _about(result: LayersResult) -> str:
    facts = result.facts
    said = f"{facts['frames']:,} frames of {facts['utterances']:,} utterances ({facts['seconds'] / 60:.1f} min)"
    labels = [f"{facts[name]} {name}" for name in ("phones", "words", "speakers") if facts[name]]
    return ", ".join([said, *labels]) + "."


def _rows(item: Layers) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in MEASURES if name in item.values]
    rows = [
        [str(layer), *(f"{item.values[name][place]:.{1 if name == 'effective_rank' else 3}f}" for name in shown)]
        for place, layer in enumerate(item.layers)
    ]
    return ["layer", *(MEASURES[name][0] for name in shown)], rows


def _page(result: LayersResult) -> str:
    names = ", ".join(item.name for item in result.models)
    title = f"Layers of {result.models[0].model}" if len(result.models) == 1 else f"Layers of {names}"
    said = findings(result)
    sections: list[Section] = [
        ("findings", "Findings", [bullets([*said, *result.notes])]),
        *layer_sections(result),
    ]
    top = [
        el("p", "speechssl layers", class_="kicker"),
        el("h1", title),
        el("p", _about(result), class_="subtitle"),
        *(el("p", f"{item.name}: {item.model}", class_="date") for item in result.models if len(result.models) > 1),
    ]
    footer = "Made by speechssl. The figures: layers.json beside this page."
    return page(document_head(title, style=HEAT_STYLE, sound=False), top, sections, footer)


def layer_sections(result: LayersResult) -> list[Section]:
    """Return curves, heat maps and tables as sections of a page."""
    return [
        ("information", "Information", [
            prose("Correlations and probes are fitted to one half of the utterances and taken on the other, and the "
                  "other way round. Chance of a correlation is 0."),
            figures([_curves(result.models, name) for name in MEASURES if name not in SHAPE]),
        ]),
        ("shape", "Shape", [figures([_curves(result.models, name) for name in SHAPE])]),
        ("similarity", "Similarity", [figures([*_maps(result), _same(result)])]),
        ("table", "Table", [_table(item) for item in result.models]),
    ]  # fmt: skip


def bullets(sentences: Sequence[str]) -> Html | None:
    """Return sentences as a list; None without any."""
    return el("ul", [el("li", text) for text in sentences], class_="findings") if sentences else None


def figures(items: Sequence[Figure | None]) -> Html | None:
    """Return the drawings that there are, beside each other."""
    drawn = [figure(item) for item in items if item is not None]
    return el("div", drawn, class_="figures") if drawn else None


def _curves(models: Sequence[Layers], measure: str) -> Figure | None:
    """Draw a measure over the layers of all models that have it; a baseline is a horizontal line."""
    _, unit, caption = MEASURES[measure]
    series, lines = [], []
    chance: list[float] = []
    for style, item in enumerate(models):
        values = item.values.get(measure)
        if values is None:
            continue
        if len(values) == 1:
            lines.append((item.name, values[0]))
        else:
            series.append(Series(item.name, item.layers, values, style=style))
        chance += item.values.get(f"{measure}_chance", [])
    if chance:
        lines.append(("most frequent" if unit == PROBE else "permuted labels", float(np.mean(chance))))
    drawing = line_chart(
        series, x_label="layer", y_label=unit, marks=True, whole_x=True, zero=measure != "anisotropy", references=lines
    )
    return None if drawing is None else Figure(drawing, caption)


def _maps(result: LayersResult) -> list[Figure]:
    found = []
    for (a, b), values in result.cka.items():
        first, second = result.models[a], result.models[b]
        if len(first.layers) == len(second.layers) == 1:
            continue
        drawing = heat_map(
            values, first.layers, second.layers, x_label=f"layer of {second.name}", y_label=f"layer of {first.name}",
            what="CKA",
        )  # fmt: skip
        who = f"the layers of {first.name}" if a == b else f"layers of {first.name} and of {second.name}"
        found.append(Figure(drawing, f"Linear CKA of {who}: 0 is unrelated, 1 the same up to rotation and scale."))
    return found


def _same(result: LayersResult) -> Figure | None:
    """Draw the CKA of the same layer of two models, such as before and after fine-tuning."""
    series: list[Series] = []
    for (a, b), values in result.cka.items():
        first, second = result.models[a], result.models[b]
        if a != b and first.layers == second.layers and len(values) > 1:
            name = f"{first.name}, {second.name}"
            series.append(Series(name, first.layers, np.diag(values).tolist(), style=len(series) % 4))
    drawing = line_chart(series, x_label="layer", y_label="CKA", marks=True, whole_x=True, zero=True)
    caption = "CKA of the same layer of two models: the lower, the more the layer differs."
    return None if drawing is None else Figure(drawing, caption)


def _table(item: Layers) -> Html:
    header, rows = _rows(item)
    lines = [el("tr", el("th", row[0]), [el("td", cell, class_="n") for cell in row[1:]]) for row in rows]
    head = el("thead", el("tr", [el("th", name, class_="n" if place else None) for place, name in enumerate(header)]))
    return el("div", el("table", el("caption", item.name), head, el("tbody", lines)), class_="scroll")
