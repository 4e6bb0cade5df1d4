"""The page of a comparison in a real browser: nothing asked for, nothing complains, every word can be read."""

import json

import pytest

from speechssl.config import CompareConfig
from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.comparison.compare import build_comparison
from tests.reports.run.test_browser import CONTRAST, HOSTILE, asked, brightness, complaints
from tests.support.browser import Browser, find_browser
from tests.support.fake_run import hypotheses

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium or Chrome on this machine: apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three systems with hostile texts and fields, on a part of the utterances; the address of their page."""
    place = tmp_path_factory.mktemp("compare")
    words = []
    for k, (name, rate) in enumerate((("scratch <b>", 0.3), ("wav2vec2", 0.1), ("hubert", 0.12))):
        rows = [{**row, "fields": {"source": HOSTILE if i % 2 else "read", "snr_db": float(i % 45)}}
                for i, row in enumerate(hypotheses(rate))]  # fmt: skip
        hyp = f"{HOSTILE[::-1]} heard {HOSTILE} so" if k == 0 else HOSTILE
        rows += [{"id": f"hostile {HOSTILE}", "ref": HOSTILE, "hyp": hyp, "speaker": "<i>s</i>", "duration": 3.0}]
        write_wer(place / name, rows[k:], {"split": "test", "decoder": HOSTILE, "text": HOSTILE}, n=5)
        words.append(f"{name}={place / name}")
    return build_comparison(words, CompareConfig(output=str(place / "out"), common=True, bootstrap=100))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def view(browser, page):
    """The browser with the page open, and only the page's events."""
    browser.events.clear()
    browser.resize(1200)
    browser.media()
    browser.open(page.as_uri())
    return browser


def test_nothing_is_asked_for_and_nothing_complains(view, page):
    for width in (400, 1400):
        view.resize(width)
        view.picture()
    assert asked(view) == [page.as_uri()]
    assert complaints(view) == []


def test_hostile_text_is_text(view):
    assert view.value("document.scripts.length") == 0
    assert not view.of("Page.javascriptDialogOpening")
    assert view.value("document.querySelectorAll('img, i, main b, style').length") == 1
    told = view.value("[...document.querySelectorAll('.col .ref')].map(e => e.textContent).join(' ')")
    assert HOSTILE in told
    assert f"hostile {HOSTILE}" in view.value("document.body.textContent")
    assert "NOT ALL UTTERANCES ARE COMPARED" in view.value("document.querySelector('aside.loud').textContent")


def test_rows_of_an_utterance_stand_in_line(view):
    """Reference and systems: the same row in every column has the same height on the page."""
    uneven = view.value("""[...document.querySelectorAll(".columns")].filter(line => {
        const tops = new Map();
        for (const col of line.querySelectorAll(".col")) {
            const own = [...col.children].map(w => Math.round(w.getBoundingClientRect().bottom));
            const key = Math.round(col.getBoundingClientRect().top);
            const others = tops.get(key) ?? tops.set(key, own).get(key);
            if (col.children.length !== 4 || own.some((y, k) => Math.abs(y - others[k]) > 3)) return true;
        }
        return false;
    }).length""")
    assert view.value("document.querySelectorAll('.columns').length") > 30
    assert uneven == 0


@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_nothing_is_wider_than_the_window(view, width):
    view.resize(width)
    assert view.value("document.documentElement.scrollWidth") <= width
    outside = view.value(f"""[...document.querySelectorAll("main *")].filter(e => {{
        const box = e.getBoundingClientRect();
        return box.right > {width} + 1 && !e.closest(".scroll, pre, svg");
    }}).map(e => e.tagName + "." + e.className).join(" ")""")
    assert outside == ""


@pytest.mark.parametrize("look", [{"scheme": "light"}, {"scheme": "dark"}, {"kind": "print", "scheme": "dark"}])
def test_every_word_has_contrast(view, look):
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    view.media(**look)
    found = json.loads(view.value(CONTRAST))
    assert found["seen"] > 500 and found["bad"] == []


def test_light_dark_and_print(view):
    light = view.picture()
    view.media(scheme="dark")
    dark = view.picture()
    view.media("print", "dark")
    (paper, ink), (night, shine), (sheet, type_) = map(brightness, (light, dark, view.picture()))
    assert paper > 0.9 and night < 0.15 and sheet > 0.95 and min(ink, shine, type_) > 0.02
    assert view.pdf().startswith(b"%PDF-")


def test_tables_fit_the_printed_page(view):
    """A4 less its margins is 178 mm wide: 673 px."""
    view.media("print")
    view.resize(673)
    wide = view.value("""[...document.querySelectorAll("table")].filter(t => t.getBoundingClientRect().width > 674)
        .map(t => t.getBoundingClientRect().width + " " + t.caption.textContent).join(" | ")""")
    assert wide == ""
