"""Building HTML and SVG out of escaped pieces: nothing that comes from a file can become markup.

In: tag names, attributes, children. Out: `Html`, a string that is known to be safe. Every child that is not `Html` is
escaped; transcripts, ids and paths are never trusted.
"""

import html
import unicodedata
from collections.abc import Iterable

__all__ = ["Child", "Html", "clean", "el", "join"]


class Html(str):
    """Markup that is safe to place in a page."""

    __slots__ = ()


Child = str | int | float | Iterable["Child"] | None

_VOID = frozenset({"meta", "br", "hr", "img", "link", "col", "circle", "line", "path", "rect", "polyline", "polygon"})
_KEPT_CONTROLS = "\t\n"


def clean(text: str) -> str:
    """Replace control characters and lone surrogates, which neither HTML nor UTF-8 can hold, by U+FFFD."""
    if text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char) in {"Cc", "Cs"} and char not in _KEPT_CONTROLS
        else char
        for char in text
    )


def el(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """Return an element; ``class_`` stands for ``class``, underscores in other names for hyphens, None for absent."""
    written = "".join(
        f' {"class" if key == "class_" else key.rstrip("_").replace("_", "-")}="{html.escape(clean(_number(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Concatenate children, escaping all that is not `Html` and flattening lists."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(html.escape(clean(child)))
        elif isinstance(child, int | float):
            parts.append(_number(child))
        else:
            parts.append(str(join(child)))
    return Html("".join(parts))


def _number(value: str | float) -> str:
    """Write coordinates with at most two decimals, so that drawings stay small."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
