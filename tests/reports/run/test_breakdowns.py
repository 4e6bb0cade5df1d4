import html.parser
import re

import pytest

from speechssl.evaluation.wer.breakdown import Group
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.summary import summarise
from speechssl.reports.page.html import join
from speechssl.reports.run.breakdowns import calibration_part, group_table, group_tables, rare_words

ROWS = [
    score_row(f"u{i}", ref, hyp, speaker=f"s{i % 2}", duration=2.0, confidences=sure,
              fields={"source": source, "snr_db": snr, "set": "test"})
    for i, (ref, hyp, sure, source, snr) in enumerate([
        ("a b c d", "a b x d", [0.9, 0.8, 0.3, 0.9], "read", 3.0),
        ("a b zebra", "a b", [0.9, 0.7], "told", 12.0),
        ("c d e f g h", "c d e f g h", [1.0] * 6, "read", 33.0),
        ("yak", "yaks", [0.2], None, None),
    ])
]  # fmt: skip
WORDS = {"a": 40, "b": 9, "c": 3, "d": 1, "e": 1, "f": 7, "g": 2, "h": 3}


class Tables(html.parser.HTMLParser):
    """Tables as {caption: rows of cell texts}."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.at = {}, ""
        self.feed(str(text))

    def handle_starttag(self, tag, attrs):
        if tag == "caption":
            self.at, self.caption = tag, ""
        elif tag == "tr":
            rows = self.tables.setdefault(self.caption, [])
            rows.append([])
        elif tag in {"th", "td"}:
            self.at = tag
            self.tables[self.caption][-1].append("")

    def handle_endtag(self, tag):
        if tag in {"caption", "th", "td"}:
            self.at = ""

    def handle_data(self, data):
        if self.at == "caption":
            self.caption += data
        elif self.at:
            self.tables[self.caption][-1][-1] += data

    def one(self, start):
        (found,) = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        return found


@pytest.fixture(scope="module")
def wer():
    return summarise(ROWS, n=200, train_words=WORDS)


def test_every_breakdown_is_shown_with_its_numbers(wer):
    tables = Tables(join(group_tables(wer)))
    shown = {re.match(r"Word error rate by ([^.,]*)", caption)[1] for caption in tables.tables}
    assert shown == {"speaker", "length of the reference", "duration of the audio", "speaking rate",
                     "signal-to-noise ratio of the audio", "source"}  # fmt: skip
    source = {row[0]: row for row in tables.one("Word error rate by source")[1:]}
    assert source["read"][1] == "10.0" and source["read"][4:] == ["1", "0", "0", "10", "2"]
    assert source["told"][1] == "33.3" and source["(unknown)"][1] == "100.0"
    noise = tables.one("Word error rate by signal")
    assert noise[0][0] == "SNR (dB)" and [row[0] for row in noise[1:]] == ["0–5", "10–15", "30–40", "(unknown)"]


def test_the_drawings_are_explained(wer):
    text = join(group_tables(wer))
    assert "the dotted line is the rate of all utterances" in text and "Axis: 0 to " in text


def test_fields_that_divide_nothing_are_named(wer):
    assert "set: it is the same in every utterance" in join(group_tables(wer))


def test_many_fields_are_bounded():
    rows = [{**row, "fields": {f"f{i:02d}": index % 2 for i in range(20)}} for index, row in enumerate(ROWS)]
    text = join(group_tables(summarise(rows, n=50)))
    assert "Word error rate by f07" in text and "Word error rate by f08" not in text
    assert "further fields are in wer.json: f08, f09" in text


def test_no_interval_without_an_error():
    groups = [Group("a", 3, 30, 0, 0, 0, 0.0, 0.0, 0.0), Group("b", 3, 30, 3, 0, 0, 0.1, 0.05, 0.2)]
    rows = Tables(group_table(groups, "Speaker", "By speaker.")).one("By speaker")
    assert rows[1][2] == "–" and rows[2][2] == "5.0–20.0"


def test_groups_without_any_error_or_rate():
    text = group_table([Group("a", 3, 0, 0, 0, 0, None, None, None)], "Speaker", "By speaker.")
    assert Tables(text).one("By speaker")[1][1] == "–" and "<svg" not in text
    assert group_table([], "Speaker", "x") is None


def test_the_line_of_all_utterances_is_at_their_rate():
    groups = [Group("a", 3, 30, 3, 0, 0, 0.1, 0.05, 0.2)]
    text = group_table(groups, "Speaker", "By speaker.", whole=0.05)
    line = float(re.search(r'class="whole" x1="([\d.]+)"', text)[1])
    assert line == pytest.approx(4 + 152 * 0.05 / 0.2)
    assert 'class="whole"' not in group_table(groups, "Speaker", "By speaker.")


def test_many_groups_are_bounded():
    groups = [Group(f"s{i}", 3, 30, 3, 0, 0, 0.1, 0.05, 0.2) for i in range(47)]
    text = group_table(groups, "Speaker", "By speaker.")
    assert len(Tables(text).one("By speaker")) == 31 and "The 17 others, with fewer errors, are in wer.json" in text


def test_rare_words(wer):
    text = join(rare_words(wer))
    bands = {row[0]: row for row in Tables(text).one("Reference words")[1:]}
    assert bands["unseen"][1] == "100.0" and bands["unseen"][6:] == ["2", "2"]
    assert sum(int(row[6]) for row in bands.values()) == wer.N
    assert "14.3\N{NO-BREAK SPACE}% of the reference words are not in the training text" in text
    assert {row[0] for row in Tables(text).one("Unseen words")[1:]} == {"zebra", "yak"}


def test_no_training_text_no_rare_words():
    wer = summarise(ROWS, n=50)
    assert rare_words(wer) == []


def test_no_unseen_word():
    assert "Unseen words" not in join(rare_words(summarise(ROWS[:1], n=50, train_words=WORDS)))


def test_calibration(wer):
    text = join(calibration_part(wer.calibration))
    c = wer.calibration
    rows = Tables(text).one("The same in numbers")[1:]
    assert sum(int(row[4]) for row in rows) == c.words == 13
    assert f"{100 * c.ece:.1f}\N{NO-BREAK SPACE}%" in text and "overconfident" not in text
    assert {row[3] for row in rows if row[2] in {"0.0", "100.0"}} == {"–"}  # resampling the same says nothing
    points = re.findall(r'<circle class="dot s0" cx="([\d.]+)" cy="([\d.]+)"', text)
    assert len(points) == len(c.bins)
    for (x, y), b in zip(points, c.bins, strict=True):
        assert float(x) == pytest.approx(50 + 238 * b.confidence, abs=0.1)
        assert float(y) == pytest.approx(260 - 232 * b.accuracy, abs=0.1)
    assert 'role="img"' in text and "Share of right words over confidence" in text


def test_confidence_that_is_too_high_and_all_right():
    sure = [score_row("u", "a b", "x y", confidences=[1.0, 0.9])]
    text = join(calibration_part(summarise(sure, n=50).calibration))
    assert "overconfident" in text and "cross entropy" not in text
    assert calibration_part(None) == []
