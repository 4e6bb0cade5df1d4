"""The page in a real browser: nothing is asked for, nothing complains, nothing is cut, and every word can be read."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.run.build import build_report
from speechssl.reports.run.collect import collect
from speechssl.reports.run.facts import facts_of
from tests.support.browser import Browser, find_browser
from tests.support.fake_run import hypotheses, write_lines, write_run
from tests.support.fake_sound import add_sound

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium or Chrome on this machine: apt-get install chromium"
)

HOSTILE = (
    "<script>alert(1)</script> \"quoted\" 'single' &amp; <img src=x onerror=alert(2)> "
    "\u202eabc\u202c \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} \N{HEADPHONE} \N{WOMAN}\u200d\N{MICROSCOPE} </style>"
)
LOAD = """async function load(a) {
    a.preload = "auto";
    a.load();
    await new Promise((done, failed) => { a.onloadedmetadata = done; a.onerror = () => failed(a.error.message); });
    return [a.getAttribute("aria-label").split(" ").pop(), a.duration];
}"""


def judged(rows):
    """Rows as they come from a model with confidences, before normalisation, with fields of the manifest."""
    rng = np.random.default_rng(0)
    for i, row in enumerate(rows):
        n = len(row["hyp"].split())
        yield {
            **{name: row[name] for name in ("id", "ref", "hyp", "speaker", "duration")},
            "ref_raw": row["ref"].title(),
            "hyp_raw": row["hyp"].title(),
            "confidences": [round(float(c), 3) for c in rng.beta(5, 1, n)],
            "fields": {"source": ("read", "told")[i % 2], "snr_db": float(rng.uniform(0, 40)), "accent": HOSTILE},
        }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write a whole run with every kind of breakdown, hostile texts and sound; return the address of its page."""
    folder = write_run(tmp_path_factory.mktemp("browser") / "libri-mini", scratch=False)
    hostile = {"id": "hostile", "ref": HOSTILE, "hyp": f"{HOSTILE[::-1]} heard {HOSTILE}", "speaker": "<i>s</i>",
               "duration": 3.0}  # fmt: skip
    rows = [*judged(hypotheses(0.16)), {**hostile, "ref_raw": HOSTILE, "fields": {"source": None}}]
    words = {
        word: 1 + i % 30 for i, word in enumerate(sorted({w for row in rows for w in row["ref"].split()})) if i % 9
    }
    write_wer(folder / "evaluate", rows, {"split": "test", "decoder": HOSTILE}, n=200, train_words=words)
    units = {"features": "mfcc", "units": 100, "dead": 3, "perplexity": 80.0, "entropy": 4.4, "largest_share": 0.03}
    write_lines(folder / "pretrain" / "units" / "units.json", [units])
    facts = facts_of(collect(folder))
    shown = {row["id"]: row for row in (*facts.samples, *facts.worst)}
    assert "hostile" in shown
    add_sound(folder / "evaluate", [row for row in shown.values() if row["id"] != facts.samples[0]["id"]],
              folder / "audio")  # fmt: skip
    return build_report(folder)


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


def asked(browser):
    """Addresses of everything that was asked for, data addresses apart."""
    urls = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    return [url for url in urls if not url.startswith("data:")]


def complaints(browser):
    return browser.of("Log.entryAdded") + browser.of("Runtime.consoleAPICalled") + browser.of("Runtime.exceptionThrown")


def test_nothing_is_asked_for_and_nothing_complains(view, page):
    view.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    view.value(f"{LOAD} Promise.all([...document.querySelectorAll('audio')].map(load))")
    for width in (400, 1400):
        view.resize(width)
        view.picture()
    assert asked(view) == [page.as_uri()]
    assert complaints(view) == []


def test_what_the_other_tests_look_for_would_be_found(view, page, tmp_path):
    """A page with a script and a picture from elsewhere: the policy stops both, and the browser says so."""
    text = page.read_text(encoding="utf-8")
    bad = tmp_path / "bad.html"
    evil = "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/x.png' alt=''>"
    bad.write_text(text.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    view.open(bad.as_uri())
    assert view.value("document.title") == "libri-mini – speechssl report"
    said = " ".join(entry["entry"]["text"] for entry in view.of("Log.entryAdded"))
    assert "Content Security Policy" in said and "script" in said and "x.png" in said
    bad.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", bad.read_text()), encoding="utf-8")
    view.open(bad.as_uri())
    assert view.value("document.title") == "run"
    assert any("x.png" in url for url in asked(view))


def test_hostile_text_is_text(view):
    assert view.value("document.scripts.length") == 0
    assert not view.of("Page.javascriptDialogOpening")
    told = view.value("[...document.querySelectorAll('.alignment .ref')].map(e => e.textContent).join(' ')")
    assert HOSTILE in told
    assert view.value("document.querySelector('dl.raw dd').textContent.length") > 0
    assert HOSTILE in view.value("document.body.textContent").replace("\u00a0", " ")
    assert view.value("document.querySelectorAll('img[src=x], style').length") == 1


def test_every_recording_plays_and_every_picture_is_drawn(view):
    found = json.loads(view.value(f"""(async () => {{
        {LOAD}
        const seconds = await Promise.all([...document.querySelectorAll("audio")].map(load));
        const drawn = [...document.images].map(i => i.naturalWidth > 0 && i.getBoundingClientRect().height > 50);
        return JSON.stringify({{seconds, drawn}});
    }})()"""))  # fmt: skip
    assert len(found["seconds"]) >= 12 and len(found["drawn"]) == len(found["seconds"]) and all(found["drawn"])
    durations = {row["id"]: row["duration"] for row in hypotheses(0.16)} | {"hostile": 3.0}
    for name, seconds in found["seconds"]:
        assert seconds == pytest.approx(durations[name], abs=0.1)
    assert "Its recording is not in the shards." in view.value("document.body.textContent")


@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_nothing_is_wider_than_the_window(view, width):
    view.resize(width)
    assert view.value("document.documentElement.scrollWidth") <= width
    outside = view.value(f"""[...document.querySelectorAll("main *")].filter(e => {{
        const box = e.getBoundingClientRect();
        return box.right > {width} + 1 && !e.closest(".scroll, pre, svg, details:not([open])");
    }}).map(e => e.tagName + "." + e.className).join(" ")""")
    assert outside == ""


CONTRAST = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
                           return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const part = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = c => 0.2126 * part(c[0] / 255) + 0.7152 * part(c[1] / 255) + 0.0722 * part(c[2] / 255);
    const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
                          if (c[3] > 250) return c; } return [255, 255, 255]; };
    const bad = new Set(); let seen = 0;
    for (const e of document.querySelectorAll("main, main *")) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || ["TITLE", "title", "STYLE"].includes(e.tagName) || !e.checkVisibility()) continue;
        const style = getComputedStyle(e);
        const ink = rgba(e instanceof SVGElement ? style.fill : style.color), paper = behind(e);
        const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
        seen += 1;
        if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(`${e.tagName}.${e.getAttribute("class")} ${ink} on ${paper}`);
    }
    return JSON.stringify({seen, bad: [...bad]});
})()"""


@pytest.mark.parametrize("look", [{"scheme": "light"}, {"scheme": "dark"}, {"kind": "print", "scheme": "dark"}])
def test_every_word_has_contrast(view, look):
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    view.media(**look)
    found = json.loads(view.value(CONTRAST))
    assert found["seen"] > 500 and found["bad"] == []


def brightness(picture):
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float).mean(-1) / 255
    return float(np.median(image)), float(image.std())


def test_light_dark_and_print_are_drawn_and_differ(view):
    light = view.picture()
    view.media(scheme="dark")
    dark = view.picture()
    view.media("print", "dark")
    printed = view.picture()
    (paper, ink), (night, shine), (sheet, type_) = map(brightness, (light, dark, printed))
    assert paper > 0.9 and night < 0.15 and sheet > 0.95
    assert min(ink, shine, type_) > 0.03 and len({light, dark, printed}) == 3


def test_a_print_has_no_players_and_all_configurations(view):
    hidden = "[...document.querySelectorAll('audio, nav')].filter(e => e.checkVisibility()).length"
    written = "[...document.querySelectorAll('details pre')].every(e => e.getBoundingClientRect().height > 0)"
    assert view.value(hidden) > 5
    view.media("print", "dark")
    assert view.value(hidden) == 0
    assert view.value(written) is True
    cut = view.value("""[...document.querySelectorAll(".scroll")]
        .filter(e => getComputedStyle(e).overflowX !== "visible").length""")
    assert cut == 0
    document = view.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b", document))
    assert document.startswith(b"%PDF-") and 6 <= pages <= 40


def test_tables_fit_the_printed_page(view):
    """A4 less its margins is 178 mm wide: 673 px."""
    view.media("print")
    view.resize(673)
    wide = view.value("""[...document.querySelectorAll("table")].filter(t => t.getBoundingClientRect().width > 674)
        .map(t => t.caption.textContent).join(" | ")""")
    assert wide == ""
