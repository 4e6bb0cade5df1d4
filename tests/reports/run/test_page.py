"""The page as a screen reader, a keyboard and a printer find it: structure, names and bounds."""

import html.parser
import itertools
import re

import pytest

from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.run.build import build_report
from tests.support.fake_run import hypotheses, write_lines, write_run
from tests.support.fake_sound import add_sound

VOID = {"meta", "br", "hr", "col", "link", "img"}


class Tree(html.parser.HTMLParser):
    """Elements as (tag, attributes, path of tags, text)."""

    def __init__(self, text):
        super().__init__()
        self.path, self.found = [], []
        self.feed(text)
        assert not self.path

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "path": [e["tag"] for e in self.path], "text": "", **dict(attrs)}
        self.found.append(element)
        if tag not in VOID:
            self.path.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.path.pop()

    def handle_endtag(self, tag):
        assert self.path.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.path:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.found if element["tag"] in tags]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("page") / "libri-mini")
    rows = hypotheses(0.16)
    add_sound(folder / "evaluate", rows[:40], folder / "audio")
    return Tree(build_report(folder).read_text(encoding="utf-8"))


def test_headings_are_a_table_of_contents(page):
    levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    titles = [element["text"] for element in page.all("h2")]
    assert titles == ["Result", "Learning", "Errors", "Utterances", "Data", "Reproduction"]


def test_the_contents_lead_to_the_sections(page):
    targets = {element["id"] for element in page.found if "id" in element}
    links = [element["href"] for element in page.all("a")]
    assert links and {link.removeprefix("#") for link in links} == targets
    assert len(targets) == sum("id" in element for element in page.found)
    assert page.all("html")[0]["lang"] == "en" and page.all("main") and page.all("nav")[0]["aria-label"]


def test_tables_have_captions_and_headers(page):
    tables = page.all("table")
    assert len(tables) == len(page.all("caption")) > 8
    assert all(element["scope"] in {"col", "row"} for element in page.all("th"))
    rows = [element for element in page.all("tr") if "tbody" in element["path"]]
    assert len([element for element in page.all("th") if element["scope"] == "row"]) == len(rows)
    regions = [element for element in page.found if element.get("role") == "region"]
    assert len(regions) == len(tables)
    assert all(element["tabindex"] == "0" and element["aria-label"] for element in regions)


def test_pictures_and_players_have_names(page):
    images, players = page.all("img"), page.all("audio")
    assert images and len(images) == len(players)
    assert all(element["alt"].startswith("Spectrogram of ") for element in images)
    assert all(element["aria-label"].startswith("Recording of ") for element in players)
    drawings = page.all("svg")
    named = [element for element in drawings if element.get("role") == "img"]
    assert len(named) >= 13 and all(len(element["aria-label"]) > 20 for element in named)
    assert all(element.get("aria-hidden") == "true" for element in drawings if element not in named)


def test_a_curve_is_described_in_words(page):
    (wer,) = [element for element in page.all("svg") if element.get("aria-label", "").startswith("Word error rate on")]
    assert re.search(r"pretrained: from [\d.]+ at 200 to [\d.]+ at 4000, [\d.]+ to [\d.]+\. from scratch: ",
                     wer["aria-label"])  # fmt: skip


def test_figures_are_in_figures_with_captions(page):
    captions = page.all("figcaption")
    assert len(captions) == len(page.all("figure")) and all(element["text"] for element in captions)


def test_a_folder_called_run_goes_by_the_name_around_it(tmp_path):
    folder = tmp_path / "my-speech" / "run"
    write_wer(folder / "evaluate", [{"id": "a", "ref": "a", "hyp": "a"}])
    page = Tree(build_report(folder).read_text(encoding="utf-8"))
    assert page.all("h1")[0]["text"] == "my-speech"


def test_systems_that_differ_in_their_folder_only(tmp_path):
    for arm in ("mine", "mine-scratch"):
        for decoder in ("greedy", "lexicon"):
            row = {"id": "a", "ref": "a", "hyp": "b"} | ({"greedy": "c"} if decoder == "lexicon" else {})
            write_wer(tmp_path / arm / decoder, [row], {"split": "/data/lists/clean-test.txt"})
    page = Tree(build_report(tmp_path).read_text(encoding="utf-8"))
    names = [element["text"] for element in page.all("th") if element["scope"] == "row"][:6]
    assert names == ["Pretrained, greedy", "Pretrained, lexicon", "From scratch, greedy", "From scratch, lexicon",
                     "Pretrained, lexicon, greedy decoding", "From scratch, lexicon, greedy decoding"]  # fmt: skip
    assert "Word error rate on clean-test" in page.all("main")[0]["text"]


def test_health_findings_are_bounded(tmp_path):
    lines = [{"step": s, "phase": "health", "name": "spike", "message": f"number {s}"} for s in range(1, 500)]
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "phase": "train", "loss": 1.0}, *lines])
    page = Tree(build_report(tmp_path).read_text(encoding="utf-8"))
    text = page.all("main")[0]["text"]
    assert "number 20" in text and "number 21" not in text and "The 479 others are in report.json" in text


def test_texts_before_normalisation_and_confidences(tmp_path):
    rows = [{"id": "a", "ref": "it is mr smith", "hyp": "it was mr smith", "ref_raw": "It is Mr. Smith!",
             "hyp_raw": "it was mr smith", "confidences": [0.9, 0.41, 1, 1]},
            {"id": "b", "ref": "x " * 2000, "hyp": "", "ref_raw": "X " * 2000}]  # fmt: skip
    write_wer(tmp_path, rows)
    page = Tree(build_report(tmp_path).read_text(encoding="utf-8"))
    raw = [element["text"] for element in page.all("dd")]
    assert "It is Mr. Smith!" in raw and "it was mr smith" not in raw  # the same as above says nothing
    assert max(map(len, raw)) < 1_600
    sure = [element["title"] for element in page.found if element.get("title", "").startswith("confidence")]
    assert "confidence 0.41" in sure and "confidence 1.00" in sure
