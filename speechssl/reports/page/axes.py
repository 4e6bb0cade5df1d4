"""Axes of the charts: round ticks, their labels, and the thinning of long curves.

Pure functions of numbers; charts.py draws what they return.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LONGEST", "Scale", "Series", "linear_scale", "log_scale", "thin", "tick_label"]


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """With ``high``: least and greatest value behind each point of a thinned curve."""
    high: Sequence[float] = ()
    style: int = 0
    """Index of colour and dash."""


@dataclass(frozen=True)
class Scale:
    """A mapping from data to pixels."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside the range are moved to its nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_scale(values: Sequence[float], start: float, end: float, *, n: int = 5, zero: bool = False) -> Scale:
    """Return a scale over the values, widened to round ticks (1, 2, 2.5 or 5 times a power of ten apart)."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    magnitude = max(abs(low), abs(high), 1e-300)
    if high - low < magnitude * 1e-9:  # ticks have twelve digits, which cannot distinguish nearer values
        pad = magnitude * 0.05 if magnitude > 1e-300 else 0.5
        low, high = (low, low + 2 * pad) if zero or magnitude == 1e-300 else (low - pad, high + pad)
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale over positive values with at least two or three round ticks."""
    low, high = min(values), max(values)
    if high <= low * 1.2:
        low, high = low / 1.5, high * 1.5
    decades = math.log10(high) - math.log10(low)
    every = max(1, round(decades / 6))
    choices = ((1,), (1, 3), (1, 2, 5))
    for factors in choices[0 if decades > 2.5 else 1 if decades > 1.2 else 2 :]:
        ticks = [
            float(f"{factor * 10.0**power:.6g}")
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, every)
            for factor in factors
        ]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) >= 3:
            break
    else:  # less than a decade: round numbers an equal distance apart
        inside = tuple(tick for tick in linear_scale([low, high], 0, 1, n=5).ticks if low <= tick <= high)
    return Scale(low, high, start, end, inside, log=True)


def tick_label(value: float, largest: float = 0.0) -> str:
    """Return a short label (20k, 1.5M, 0.05, 5e-4), in the unit that suits the ``largest`` value of the axis."""
    size = max(abs(value), largest) if value else 0.0
    if size >= 1_000_000:
        text = f"{value / 1_000_000:.6g}M"
    elif size >= 10_000:
        text = f"{value / 1_000:.6g}k"
    elif 0 < abs(value) < 0.001:
        mantissa, power = f"{value:.4e}".split("e")
        text = f"{float(mantissa):g}e{int(power)}"
    else:
        text = f"{value:.6g}"
    return text.replace("-", "−")


LONGEST = 180
"""Points of a curve above which it is thinned."""


def thin(series: Series, n: int = 120) -> Series:
    """Return a curve of more than ``LONGEST`` points as n means over equal stretches of x, with their ranges."""
    if len(series.x) <= LONGEST:
        return series
    first, last = series.x[0], series.x[-1]
    width = (last - first) / n or 1.0
    bins: dict[int, list[tuple[float, float]]] = {}
    for x, y in zip(series.x, series.y, strict=True):
        bins.setdefault(min(int((x - first) / width), n - 1), []).append((x, y))
    groups = [bins[index] for index in sorted(bins)]
    return Series(
        series.name,
        [sum(x for x, _ in group) / len(group) for group in groups],
        [sum(y for _, y in group) / len(group) for group in groups],
        [min(y for _, y in group) for group in groups],
        [max(y for _, y in group) for group in groups],
        series.style,
    )
