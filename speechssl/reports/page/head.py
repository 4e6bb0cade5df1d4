"""The frame of every page: a head that forbids requests, the style sheets, links to the sections, a footer.

In: a title, style sheets and sections. Out: a page, which is one file that requests nothing and runs no script.
"""

from collections.abc import Sequence
from importlib import resources

from speechssl.reports.page.html import Html, el

__all__ = ["Section", "document_head", "page"]

Section = tuple[str, str, list[Html | None]]
"""(anchor, title, content); a section without content is left out."""


def page(
    head: Html,
    header: Sequence[Html],
    sections: Sequence[Section],
    footer: str,
    *,
    notes: Html | None = None,
    linked: int | None = None,
) -> str:
    """Return a whole page; its header ends with links to the first ``linked`` sections (None: to all)."""
    shown = [section for section in sections if any(part is not None for part in section[2])]
    links = [el("a", title, href=f"#{anchor}") for anchor, title, _ in shown[:linked]]
    body = [el("section", el("h2", title), parts, id=anchor) for anchor, title, parts in shown]
    top = el("header", *header, el("nav", links, aria_label="Contents"))
    main = el("main", top, notes, body, el("footer", footer))
    return f"<!DOCTYPE html>\n{el('html', head, el('body', main), lang='en')}\n"


def document_head(title: str, *sheets: str, style: str = "", sound: bool = True) -> Html:
    """Return the head of a page with ``report.css``, other style sheets from beside it, and rules of its own.

    ``sound``: the page may hold recordings (as ``data:`` addresses).
    """
    files = resources.files("speechssl.reports.page")
    rules = "".join(files.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", *sheets))
    media = "media-src data:; " if sound else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; {media}base-uri 'none'; form-action 'none'"
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("link", rel="icon", href="data:,"),  # otherwise a browser requests one from the server
        Html(f"<style>{rules}{style}</style>"),
    )
