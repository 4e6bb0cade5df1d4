"""A drawing with its caption, and prose that does not break before a unit.

In: SVG and text. Out: `Html`.
"""

import re
from dataclasses import dataclass

from speechssl.reports.page.html import Html, el

__all__ = ["Figure", "figure", "prose"]


@dataclass(frozen=True)
class Figure:
    """A drawing and its caption."""

    drawing: Html
    caption: str


def figure(item: Figure, *, wide: bool = False) -> Html:
    """Return a figure; the style sheet numbers it."""
    return el("figure", item.drawing, el("figcaption", item.caption), class_="wide" if wide else None)


def prose(text: str, class_: str | None = None) -> Html:
    """Return a paragraph in which no line begins with a percent sign or a unit."""
    return el("p", re.sub(r"(?<=\d) (?=%|points|words)", "\N{NO-BREAK SPACE}", text), class_=class_)
