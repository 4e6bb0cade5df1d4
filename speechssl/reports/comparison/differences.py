"""Charts of differences: intervals on an axis whose zero is drawn, as a figure or as the cell of a table.

In: differences in percentage points. Out: inline SVG in the colours of the page; left of zero is fewer errors.
"""

from collections.abc import Sequence

from speechssl.reports.page.axes import Scale, linear_scale, tick_label
from speechssl.reports.page.html import Html, el

__all__ = ["difference_chart", "difference_mark", "reach"]

Difference = tuple[float, float, float]
"""(value, low, high)."""


def reach(differences: Sequence[Difference | None]) -> float:
    """Return the largest distance from zero: the axis that several marks share goes this far to either side."""
    return max((abs(number) for item in differences if item for number in item), default=0.0)


def difference_chart(rows: Sequence[tuple[str, Difference]], *, x_label: str) -> Html | None:
    """Draw (label, (value, low, high)) in a line each, around zero; None without rows."""
    if not rows:
        return None
    width, line = 680, 30
    left = 14 + 6.8 * max(len(label) for label, _ in rows)
    height = line * len(rows) + 44
    bottom = height - 38.0
    values = [number for _, numbers in rows for number in numbers]
    x = linear_scale(values, left, width - 16, n=6, zero=True)
    parts: list[Html] = []
    for tick in x.ticks:
        parts.append(el("line", class_="grid", x1=x(tick), x2=x(tick), y1=4, y2=bottom))
        parts.append(el("text", tick_label(tick), class_="tick", x=x(tick), y=bottom + 15, text_anchor="middle"))
    parts.append(el("line", class_="axis", x1=x(0.0), x2=x(0.0), y1=0, y2=bottom + 4))
    middle = (left + width - 16) / 2
    parts.append(el("text", x_label, class_="axis-label", x=middle, y=height - 5, text_anchor="middle"))
    for index, (label, item) in enumerate(rows):
        at = 4 + line * (index + 0.5)
        parts.append(el("text", label, class_="row-label", x=left - 12, y=at + 4, text_anchor="end"))
        parts += _interval(x, item, at, cap=5)
    return el("svg", el("title", x_label), *parts, viewBox=f"0 0 {width} {height}", role="img", class_="chart")


def difference_mark(item: Difference | None, far: float) -> Html | None:
    """Draw one difference for a table cell, on an axis from ``-far`` to ``far`` that all cells of the column share."""
    if item is None or not far > 0:
        return None
    x = Scale(-far, far, 4, 156, ())
    axis = el("line", class_="grid", x1=4, x2=156, y1=9, y2=9)
    zero = el("line", class_="axis", x1=80, x2=80, y1=1, y2=17)
    return el("svg", axis, zero, _interval(x, item, 9, cap=3.5), viewBox="0 0 160 18", class_="mark",
              aria_hidden="true")  # fmt: skip


def _interval(x: Scale, item: Difference, at: float, *, cap: float) -> list[Html]:
    """Draw a difference: blue with fewer errors, orange with more, grey where the interval holds zero."""
    value, low, high = item
    style = "s0" if high < 0 else "s1" if low > 0 else "none"
    a, b, top, whole = f"{x(low):.1f}", f"{x(high):.1f}", f"{at - cap:g}", f"{2 * cap:g}"
    path = el("path", class_=f"interval {style}", d=f"M{a} {at:g}H{b}M{a} {top}v{whole}M{b} {top}v{whole}")
    return [path, el("circle", class_=f"dot {style}", cx=x(value), cy=at, r=cap - 0.5)]
