"""A matrix as a picture in SVG, in the colours of the page.

In: values from 0 to 1. Out: `Html`.
"""

from collections.abc import Sequence

import numpy as np

from speechssl.reports.page.html import Html, el

__all__ = ["HEAT_STYLE", "heat_map"]

HEAT_STYLE = "svg .cell { fill: var(--c0); stroke: var(--hair); stroke-width: 0.5; }"
"""Rule that the page needs."""
_SIDE, _LEFT, _BOTTOM, _TOP, _KEY = 300.0, 44.0, 36.0, 26.0, 62.0


def heat_map(
    values: np.ndarray, rows: Sequence[int], columns: Sequence[int], *, x_label: str, y_label: str, what: str
) -> Html:
    """Draw [R, C] values with the first row at the bottom; the page's paper is 0 (or less), full colour 1.

    ``rows`` and ``columns`` are the numbers on the axes, ``what`` names a value. Each cell shows its value as a hint.
    """
    size = min(_SIDE / max(values.shape), 40.0)
    high, wide = (size * count for count in values.shape)
    width, height = _LEFT + wide + _KEY, _TOP + high + _BOTTOM
    parts = [el("text", y_label, class_="axis-label", x=2, y=12)]
    every = -(-max(values.shape) // 13)
    for r, row in enumerate(rows):
        y = _TOP + high - (r + 1) * size
        if r % every == 0:
            parts.append(el("text", row, class_="tick", x=_LEFT - 7, y=y + size / 2 + 4, text_anchor="end"))
        for c, column in enumerate(columns):
            hint = el("title", f"{y_label} {row}, {x_label} {column}: {values[r, c]:.2f}")
            parts.append(_cell(_LEFT + c * size, y, size, float(values[r, c]), hint))
    for c, column in enumerate(columns):
        if c % every == 0:
            middle = _LEFT + (c + 0.5) * size
            parts.append(el("text", column, class_="tick", x=middle, y=_TOP + high + 15, text_anchor="middle"))
    place = _LEFT + wide / 2
    parts.append(el("text", x_label, class_="axis-label", x=place, y=height - 4, text_anchor="middle"))
    for step in range(5):
        y = _TOP + (4 - step) * 14.0
        parts.append(_cell(_LEFT + wide + 16, y, 14.0, step / 4))
        parts.append(el("text", f"{step / 4:g}", class_="tick", x=_LEFT + wide + 35, y=y + 11))
    told = f"{what} of {len(rows)} by {len(columns)} layers, from {values.min():.2f} to {values.max():.2f}"
    return el("svg", el("title", what), parts, viewBox=f"0 0 {width:g} {height:g}", role="img", class_="chart",
              aria_label=told, style=f"max-width:{width:g}px")  # fmt: skip


def _cell(x: float, y: float, side: float, value: float, hint: Html | None = None) -> Html:
    shade = min(max(value, 0.0), 1.0)
    return el("rect", hint, class_="cell", x=x, y=y, width=side, height=side, fill_opacity=shade)
