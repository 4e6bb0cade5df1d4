"""The charts of the report as small inline SVG: curves, intervals, bars. Colours come from the page's style sheet.

In: numbers. Out: `Html` that needs no script and no other file, follows the page's light or dark colours, and prints.
Series differ in dash as well as in colour.
"""

import math
from collections.abc import Sequence

from speechssl.reports.page.axes import Scale, Series, linear_scale, log_scale, thin, tick_label
from speechssl.reports.page.html import Html, el

__all__ = ["bar_chart", "interval_chart", "interval_mark", "line_chart", "reliability_chart"]

_WIDTH, _HEIGHT = 520, 248
_LEFT, _TOP, _BOTTOM = 50, 28, 40


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    zero: bool = False,
    marks: bool = False,
    whole_x: bool = False,
    references: Sequence[tuple[str, float]] = (),
) -> Html | None:
    """Draw curves over steps.

    Parameters
    ----------
    series
        Curves; points that are not finite (or, on a logarithmic axis, not positive) are left out as gaps.
    x_label, y_label
        Names of the axes with their units.
    log, zero
        Logarithmic y axis; y axis from zero.
    marks
        A dot at every point (for few points).
    whole_x
        No ticks between whole numbers of x.
    references
        (label, value) of horizontal lines, such as the level of chance.

    Returns
    -------
    None when there is no point to draw.
    """
    whole = [item for item in (_drawable(item, log=log) for item in series) if item.x]
    drawn = [thin(item) for item in whole]
    if not drawn:
        return None
    labelled = len(drawn) > 1
    right = _WIDTH - (12 + (6.4 * max(len(item.name) for item in drawn) if labelled else 0))
    ys = [y for item in drawn for y in (*item.y, *item.low, *item.high)] + [value for _, value in references]
    y = log_scale(ys, _HEIGHT - _BOTTOM, _TOP) if log else linear_scale(ys, _HEIGHT - _BOTTOM, _TOP, n=4, zero=zero)
    xs = [x for item in whole for x in item.x]
    low, high = min(xs), max(xs)
    low = 0.0 if 0 <= low < 0.5 * high else low
    ticks = linear_scale([low, high], 0, 1, n=6).ticks
    shown = tuple(tick for tick in ticks if low <= tick <= high and (not whole_x or tick == round(tick)))
    x = Scale(low, high if high > low else low + 1, _LEFT, right, shown)
    parts: list[Html] = [*_frame(x, y, right, x_label, y_label)]
    parts += _references(references, y, right)
    for item in drawn:
        parts += _curve(item, x, y, marks=marks)
    if labelled:
        ends = [(y(item.y[-1]), item) for item in drawn]
        for at, item in _spread(ends, _TOP, _HEIGHT - _BOTTOM):
            parts.append(el("text", item.name, class_=f"label s{item.style}", x=right + 6, y=at + 3.5))
    title = f"{y_label} over {x_label}"
    return _svg(_WIDTH, _HEIGHT, title, parts, ". ".join([title, *map(_described, whole)]))


def interval_chart(rows: Sequence[tuple[str, float, float | None, float | None]], *, x_label: str) -> Html | None:
    """Draw a point with its interval in a line for each (label, value, low, high), values in the units of the axis."""
    if not rows:
        return None
    left = 14 + 7.6 * max(len(label) for label, *_ in rows)
    width, line = _WIDTH, 30
    height = line * len(rows) + 44
    values = [number for _, *numbers in rows for number in numbers if number is not None]
    x = linear_scale(values, left, width - 16, n=6, zero=min(values) < 0.6 * max(values))
    bottom = height - 38.0
    parts: list[Html] = []
    for tick in x.ticks:
        parts.append(el("line", class_="grid", x1=x(tick), x2=x(tick), y1=4, y2=bottom))
        parts.append(el("text", tick_label(tick), class_="tick", x=x(tick), y=bottom + 15, text_anchor="middle"))
    parts.append(
        el("text", x_label, class_="axis-label", x=(left + width - 16) / 2, y=height - 5, text_anchor="middle")
    )
    for index, (label, value, low, high) in enumerate(rows):
        at = 4 + line * (index + 0.5)
        parts.append(el("text", label, class_="row-label", x=left - 12, y=at + 4, text_anchor="end"))
        parts += _interval(x, value, low, high, at, style=index % 4, cap=5)
    told = [
        f"{label}: {value:.3g}"
        + (f", interval {low:.3g} to {high:.3g}" if low is not None and high is not None else "")
        for label, value, low, high in rows
    ]
    return _svg(width, height, x_label, parts, ". ".join([x_label, *told]))


def interval_mark(
    value: float | None, low: float | None, high: float | None, top: float, reference: float | None = None
) -> Html | None:
    """Draw one interval for a table cell, on an axis from 0 to ``top`` that all cells of the column share.

    ``reference`` is a value that all cells mark by a line, such as the rate of the whole test set.
    """
    if value is None or not top > 0:
        return None
    x = Scale(0.0, top, 4, 156, ())
    parts = [el("line", class_="grid", x1=4, x2=156, y1=9, y2=9)]
    if reference is not None:
        parts.append(el("line", class_="whole", x1=x(reference), x2=x(reference), y1=0, y2=18))
    return el("svg", parts, _interval(x, value, low, high, 9, style=0, cap=3.5), viewBox="0 0 160 18", class_="mark",
              aria_hidden="true")  # fmt: skip


def reliability_chart(points: Sequence[tuple[float, float, float | None, float | None]]) -> Html | None:
    """Draw the share of right words over confidence, both from 0 to 1, with the line on which the two are equal.

    Points are (mean confidence, share of right words, low, high) of each bin; low and high bound an interval or are
    None.
    """
    if not points:
        return None
    side = 300.0
    bottom, right = side - _BOTTOM, side - 12
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    x, y = Scale(0, 1, _LEFT, right, ticks), Scale(0, 1, bottom, _TOP, ticks)
    parts = [*_frame(x, y, right, "confidence", "Share of words that are right", height=side)]
    parts.append(el("line", class_="reference", x1=x(0), y1=y(0), x2=x(1), y2=y(1)))
    path = " ".join(f"{x(confidence):.1f},{y(share):.1f}" for confidence, share, _, _ in points)
    parts.append(el("polyline", class_="curve s0", points=path))
    for confidence, share, low, high in points:
        if low is not None and high is not None:
            at = f"{x(confidence):.1f}"
            parts.append(el("path", class_="interval s0", d=f"M{at} {y(low):.1f}V{y(high):.1f}"))
        hint = el("title", f"{100 * share:.1f} % right at confidence {confidence:.2f}")
        parts.append(el("circle", hint, class_="dot s0", cx=x(confidence), cy=y(share), r=3.5))
    told = [f"{100 * share:.0f} % at {confidence:.2f}" for confidence, share, _, _ in points]
    title = "Share of right words over confidence"
    return _svg(side, side, title, parts, f"{title}: {', '.join(told)}")


def bar_chart(bars: Sequence[tuple[float, float, float]], *, x_label: str, y_label: str) -> Html | None:
    """Draw a histogram from (left edge, right edge, height)."""
    if not bars or not any(height for _, _, height in bars):
        return None
    right = _WIDTH - 12.0
    y = linear_scale([height for *_, height in bars], _HEIGHT - _BOTTOM, _TOP, n=4, zero=True)
    low, high = bars[0][0], bars[-1][1]
    ticks = linear_scale([low, high], 0, 1, n=6).ticks
    x = Scale(low, high, _LEFT, right, tuple(tick for tick in ticks if low <= tick <= high))
    parts: list[Html] = [*_frame(x, y, right, x_label, y_label)]
    for first, last, height in bars:
        top = y(height)
        parts.append(
            el("rect", el("title", f"{first:g} to {last:g}: {height:.3g}"), class_="bar", x=x(first) + 0.5, y=top,
               width=max(x(last) - x(first) - 1, 0.5), height=_HEIGHT - _BOTTOM - top)
        )  # fmt: skip
    title = f"{y_label} over {x_label}"
    most = max(bars, key=lambda bar: bar[2])
    told = f"{title}, from {low:g} to {high:g}; most, {most[2]:.3g}, from {most[0]:g} to {most[1]:g}"
    return _svg(_WIDTH, _HEIGHT, title, parts, told)


def _drawable(series: Series, *, log: bool) -> Series:
    kept = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)
    ]
    return Series(series.name, [x for x, _ in kept], [y for _, y in kept], style=series.style)


def _frame(x: Scale, y: Scale, right: float, x_label: str, y_label: str, *, height: float = _HEIGHT) -> list[Html]:
    bottom = height - _BOTTOM
    parts = [el("text", y_label, class_="axis-label", x=2, y=12)]
    for tick in y.ticks:
        parts.append(el("line", class_="grid", x1=_LEFT, x2=right, y1=y(tick), y2=y(tick)))
        parts.append(el("text", tick_label(tick), class_="tick", x=_LEFT - 7, y=y(tick) + 3.5, text_anchor="end"))
    parts.append(el("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    for tick in x.ticks:
        parts.append(el("line", class_="axis", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4))
        parts.append(
            el("text", tick_label(tick, x.high), class_="tick", x=x(tick), y=bottom + 16, text_anchor="middle")
        )
    middle = (_LEFT + right) / 2
    parts.append(el("text", x_label, class_="axis-label", x=middle, y=height - 5, text_anchor="middle"))
    return parts


def _references(references: Sequence[tuple[str, float]], y: Scale, right: float) -> list[Html]:
    """Draw horizontal lines; lines too close for a label each share the label of the uppermost."""
    parts: list[Html] = []
    labels: list[tuple[float, str]] = []
    for label, value in sorted(references, key=lambda reference: y(reference[1])):
        at = y(value)
        parts.append(el("line", class_="reference", x1=_LEFT, x2=right, y1=at, y2=at))
        if labels and at - labels[-1][0] < 14:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]} · {label}")
        else:
            labels.append((at, label))
    for at, label in labels:
        above = at - 5 if at - 5 > _TOP + 8 else at + 13
        parts.append(el("text", label, class_="reference-label", x=right, y=above, text_anchor="end"))
    return parts


def _curve(item: Series, x: Scale, y: Scale, *, marks: bool) -> list[Html]:
    parts = []
    if item.low:
        there = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(item.x, item.high, strict=True)]
        back = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(item.x, item.low, strict=True)]
        parts.append(el("polygon", class_=f"band s{item.style}", points=" ".join([*there, *reversed(back)])))
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(item.x, item.y, strict=True))
    parts.append(el("polyline", class_=f"curve s{item.style}", points=points))
    if marks or len(item.x) == 1:
        for a, b in zip(item.x, item.y, strict=True):
            title = el("title", f"{item.name}: {b:.4g} at {a:g}")
            parts.append(el("circle", title, class_=f"dot s{item.style}", cx=x(a), cy=y(b), r=2.6))
    return parts


def _interval(
    x: Scale, value: float, low: float | None, high: float | None, at: float, *, style: int, cap: float
) -> list[Html]:
    parts = []
    if low is not None and high is not None:
        a, b, top, whole = f"{x(low):.1f}", f"{x(high):.1f}", f"{at - cap:g}", f"{2 * cap:g}"
        path = f"M{a} {at:g}H{b}M{a} {top}v{whole}M{b} {top}v{whole}"
        parts.append(el("path", class_=f"interval s{style}", d=path))
    parts.append(el("circle", class_=f"dot s{style}", cx=x(value), cy=at, r=cap - 0.5))
    return parts


def _spread(ends: list[tuple[float, Series]], top: float, bottom: float) -> list[tuple[float, Series]]:
    """Move labels apart so that they do not overlap, keeping their order."""
    gap = 14.0
    placed: list[tuple[float, Series]] = []
    for at, item in sorted(ends, key=lambda end: end[0]):
        placed.append((max(at, placed[-1][0] + gap) if placed else max(at, top), item))
    over = placed[-1][0] - bottom
    if over > 0:
        limit = bottom
        for index in range(len(placed) - 1, -1, -1):
            placed[index] = (min(placed[index][0], limit), placed[index][1])
            limit = placed[index][0] - gap
    return placed


def _described(item: Series) -> str:
    """Return a description of the curves, for screen readers."""
    first, last, least, most = item.y[0], item.y[-1], min(item.y), max(item.y)
    return f"{item.name}: from {first:.3g} at {item.x[0]:g} to {last:.3g} at {item.x[-1]:g}, {least:.3g} to {most:.3g}"


def _svg(width: float, height: float, title: str, parts: Sequence[Html], described: str) -> Html:
    return el("svg", el("title", title), *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", class_="chart",
              aria_label=described, style=f"max-width:{1.2 * width:g}px")  # fmt: skip
