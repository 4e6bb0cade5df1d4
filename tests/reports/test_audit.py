"""The page of an audit in a real browser: nothing asked for, nothing complains, every word can be read."""

import json
import os
from collections import Counter

import numpy as np
import pytest

from speechssl.config import AuditConfig
from speechssl.data.audit.audit import audit
from speechssl.reports.audit import write_audit
from tests.reports.run.test_browser import CONTRAST, HOSTILE, LOAD, asked, brightness, complaints
from tests.support.browser import Browser, find_browser
from tests.support.voices import voice, write

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium or Chrome on this machine: apt-get install chromium"
)
NAME = "<b>\"x\"&amp; 'y' \u202eabc\u202c \N{HEBREW LETTER SHIN} \N{WOMAN}\u200d\N{MICROSCOPE} " + "long" * 20 + ".wav"


def hostile_name():
    return "".join(c for c in NAME if c not in '<>"') if os.name == "nt" else NAME


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A corpus with faults of many kinds, hostile texts, names, speakers and splits; the address of its page."""
    folder = tmp_path_factory.mktemp("audit")
    rows = []
    for number in range(60):
        wave = voice(1.5 + 0.05 * number, seed=number, pause=0.1 + 0.01 * number)
        row = {"speaker": f"s{number % 7}", "text": f"some words of number {chr(97 + number % 26)}", "split": "train"}
        name = f"{number}.wav"
        if number == 3:
            name, row = hostile_name(), {"speaker": HOSTILE, "text": HOSTILE, "split": "test", "duration": 9.0}
        elif number == 4:
            wave = np.concatenate([np.zeros(48_000, np.float32), wave])
        elif number == 5:
            row["text"] = "an even longer transcript than anyone could say in so short a time " * 5
        elif number == 6:
            wave = np.clip(wave, -0.01, 0.01) + np.float32(0.1)
        elif number == 7:
            row["text"] = ("w" * 300) + " [noise]"
        elif number == 8:
            wave, row["split"] = voice(1.5, seed=0, pause=0.1), "test"
        elif number == 9:
            row["split"] = "s" * 90
        elif number == 10:
            wave = np.stack([wave, -wave], axis=1)
        write(folder / name, wave)
        if number == 11:
            (folder / name).write_bytes(b"")
        row = {"id": f"u{number}", "path": name, "sample_rate": 16_000, "channels": wave.ndim,
               "duration": len(wave) / 16_000} | row  # fmt: skip
        rows.append(json.dumps(row, ensure_ascii=False))
    rows.append(f'{{"id": {json.dumps(HOSTILE)}, "path": 3, "sample_rate": 1, "channels": 1}}')
    rows.append(HOSTILE)
    (folder / "list.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = audit(folder / "list.jsonl", AuditConfig(workers=1))
    assert len(Counter(f.check for f in found.findings)) >= 10
    return write_audit(found, AuditConfig(), folder / "out")


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
    view.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    view.value(f"{LOAD} Promise.all([...document.querySelectorAll('audio')].map(load))")
    for width in (400, 1400):
        view.resize(width)
        view.picture()
    assert asked(view) == [page.as_uri()]
    assert complaints(view) == []


def test_every_recording_plays_and_every_picture_is_drawn(view):
    found = json.loads(
        view.value(f"""(async () => {{
        {LOAD}
        const sounds = [...document.querySelectorAll("audio")], pictures = [...document.querySelectorAll("img")];
        await Promise.all(sounds.map(load));
        await Promise.all(pictures.map(p => p.decode()));
        return JSON.stringify({{seconds: sounds.map(a => a.duration), widths: pictures.map(p => p.naturalWidth)}});
    }})()""")
    )
    assert len(found["seconds"]) == len(found["widths"]) >= 8
    assert all(1.4 < seconds <= 12.2 for seconds in found["seconds"])
    assert min(found["widths"]) > 1


def test_hostile_text_is_text(view):
    assert view.value("document.scripts.length") == 0
    assert not view.of("Page.javascriptDialogOpening")
    assert view.value("document.querySelectorAll('img[src=x], main i, main b').length") == 0
    assert view.value("document.querySelectorAll('style').length") == 1
    told = view.value("document.body.textContent").replace("\u00a0", " ")
    assert HOSTILE in told
    assert hostile_name() in told


def test_hostile_text_does_not_turn_the_text_around_it(view):
    """Each text of the corpus stands in an element of its own that isolates its direction."""
    loose = view.value("""[...document.querySelectorAll("main *")].filter(e =>
        [...e.childNodes].some(n => n.nodeType === 3 && n.data.includes("\\u202e"))
        && !getComputedStyle(e).unicodeBidi.match(/isolate|plaintext/)).map(e => e.tagName + "." + e.className)""")
    assert loose == []


@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_nothing_is_wider_than_the_window(view, width):
    view.resize(width)
    view.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert view.value("document.documentElement.scrollWidth") <= width
    outside = view.value(f"""[...document.querySelectorAll("main *")].filter(e => {{
        const box = e.getBoundingClientRect();
        return box.right > {width} + 1 && !e.closest(".scroll, pre, svg, .spectrogram");
    }}).map(e => e.tagName + "." + e.className).join(" ")""")
    assert outside == ""


@pytest.mark.parametrize("look", [{"scheme": "light"}, {"scheme": "dark"}, {"kind": "print", "scheme": "dark"}])
def test_every_word_has_contrast(view, look):
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    view.media(**look)
    found = json.loads(view.value(CONTRAST))
    assert found["seen"] > 300 and found["bad"] == []


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
