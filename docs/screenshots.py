"""The pictures of the documentation, made anew from a real run in a headless Chromium or Chrome.

usage: python docs/screenshots.py RUN [COMPARISON.html]

Writes the report of RUN (a run folder) beside this script as report.png (light, from the top) and report-dark.png
(dark, the worst utterances), and the top of a page of `speechssl compare` as compare.png. Needs the checkout, for
tests/support/browser.py.
"""

import base64
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from speechssl.reports.run.build import build_report  # noqa: E402
from tests.support.browser import Browser, find_browser  # noqa: E402

WIDTH = 1200
LARGEST = 400_000
"""Bytes of a picture: a README is loaded by people on trains."""


def draw(browser: Browser, page: Path, picture: str, *, scheme: str, start: str, height: int) -> None:
    """Write a picture of a page from an element downwards."""
    browser.resize(WIDTH, 1000)
    browser.media(scheme=scheme)
    browser.open(page.resolve().as_uri())
    box = browser.value(
        f"(e => JSON.stringify([e.getBoundingClientRect().top + scrollY, document.documentElement.scrollHeight]))"
        f"(document.querySelector({json.dumps(start)}))"
    )
    top, bottom = json.loads(str(box))
    top = max(0.0, top - 28) if top > 100 else 0.0
    clip = {"x": 0, "y": top, "width": WIDTH, "height": min(height, bottom - top), "scale": 1}
    shot = browser("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    data = base64.b64decode(shot["data"])
    if len(data) > LARGEST:
        raise SystemExit(
            f"{picture}: {len(data):,} bytes, at most {LARGEST:,}; lower its height in {Path(__file__).name}"
        )
    (HERE / picture).write_bytes(data)
    print(f"{picture}: {len(data):,} bytes")


def main(run: str, comparison: str = "") -> None:
    """Make all pictures."""
    program = find_browser()
    if program is None:
        raise SystemExit("no chromium, chromium-browser or google-chrome on this machine; install one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        page = build_report(Path(run), Path(scratch) / "report.html")
        browser = Browser(program, Path(scratch) / "profile")
        try:
            draw(browser, page, "report.png", scheme="light", start="main", height=1670)
            draw(browser, page, "report-dark.png", scheme="dark", start="#utterances h3:last-of-type", height=830)
            if comparison:
                draw(browser, Path(comparison), "compare.png", scheme="light", start="main", height=1400)
        finally:
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
