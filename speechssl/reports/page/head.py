"""The head of every page: a policy that forbids requests, and the style sheets, light and dark.

In: a title and style sheets. Out: the ``<head>`` element. A page is one file that requests nothing and runs no script.
"""

from importlib import resources

from speechssl.reports.page.html import Html, el

__all__ = ["document_head"]


def document_head(title: str, *sheets: str, style: str = "", sound: bool = True) -> Html:
    """Return the head of a page.

    Parameters
    ----------
    sheets
        Style sheets of this package beside ``report.css``, which always comes first.
    style
        Further rules of the page itself.
    sound
        Whether the page may hold recordings (as ``data:`` addresses).
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
