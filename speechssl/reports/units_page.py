"""Units beside phones: a page with the qualities of every seed and the unit-phone matrix as a picture.

In: what ``understanding/units.py`` found. Out: ``units.html``, one file that requests nothing.
"""

import base64
import io
from pathlib import Path

import numpy as np

from speechssl.core.files import write_atomic
from speechssl.core.text_table import text_table
from speechssl.reports.page.figure import Figure, figure, prose
from speechssl.reports.page.head import Section, document_head, page
from speechssl.reports.page.html import Html, el
from speechssl.understanding.units import UnitsResult

__all__ = ["units_text", "write_units_page"]

CELL = 8
"""Pixels of a cell's side."""
NAMES = {
    "perplexity": "perplexity", "dead": "dead units", "frames_per_run": "frames a run", "bit_rate": "bit/s",
    "bit_rate_without_repeats": "bit/s, no repeats", "pnmi": "PNMI", "phone_purity": "phone purity",
    "cluster_purity": "cluster purity",
}  # fmt: skip


def _rows(result: UnitsResult) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in NAMES if name in result.quality[0]]
    rows = []
    for found in result.quality:
        seed = "loaded" if found["seed"] is None else f"seed {found['seed']}"
        rows.append(
            [
                seed,
                *(
                    f"{found[name]:.3f}" if found[name] < 10 and name != "dead" else f"{found[name]:.0f}"
                    for name in shown
                ),
            ]
        )
    return ["k-means", *(NAMES[name] for name in shown)], rows


def units_text(result: UnitsResult) -> str:
    """Return the qualities as a table for a terminal."""
    header, rows = _rows(result)
    return f"{result.model}, layer {result.layer}: {result.quality[0]['units']} units\n{text_table(header, rows)}"


def write_units_page(result: UnitsResult, output: Path) -> Path:
    """Write ``units.html`` into a folder."""
    header, rows = _rows(result)
    lines = [el("tr", el("th", row[0]), [el("td", cell, class_="n") for cell in row[1:]]) for row in rows]
    table = el("table", el("thead", el("tr", [el("th", name) for name in header])), el("tbody", lines))
    said = "The units that were written are those of the first line."
    sections: list[Section] = [("quality", "Quality", [table, prose(said)])]
    if result.counts is not None:
        sections.append(("phones", "Units and phones", [_matrix(result)]))
    title = f"Units of {result.model}, layer {result.layer}"
    top = [el("p", "speechssl units", class_="kicker"), el("h1", title)]
    footer = "Made by speechssl. The figures: quality.json beside this page."
    path = output / "units.html"
    write_atomic(path, page(document_head(title, sound=False), top, sections, footer))
    return path


def matrix_order(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of phones (most frequent first) and of units (by their most frequent phone, then by share)."""
    phones = np.argsort(-counts.sum(axis=1), kind="stable")
    share = counts[phones] / np.maximum(counts.sum(axis=0), 1)
    used = np.flatnonzero(counts.sum(axis=0))
    units = used[np.lexsort((-share.max(axis=0)[used], share.argmax(axis=0)[used]))]
    return phones, units


def _matrix(result: UnitsResult) -> Html:
    """Draw P(phone | unit): phones in rows, units in columns."""
    from PIL import Image

    assert result.counts is not None
    phones, units = matrix_order(result.counts)
    share = result.counts[np.ix_(phones, units)] / result.counts[:, units].sum(axis=0)
    dark = np.round(255 * (1 - np.sqrt(share))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(dark, np.ones((CELL, CELL), dtype=np.uint8))).save(buffer, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    names = ", ".join(result.phones[phone] for phone in phones)
    label = f"Share of each of {len(phones)} phones among the frames of each of {len(units)} units"
    drawing = el("img", src=address, alt=label, style="width:100%;image-rendering:pixelated")
    caption = (
        f"P(phone | unit): dark is 1, white is 0. Rows from the top: {names}. Columns: units, by their main phone."
    )
    return figure(Figure(drawing, caption), wide=True)
