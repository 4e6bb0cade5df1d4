import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechssl.reports.page.axes import LONGEST, Series, linear_scale, log_scale, thin, tick_label
from speechssl.reports.page.charts import bar_chart, interval_chart, interval_mark, line_chart, reliability_chart
from speechssl.reports.page.html import Html, el, join

numbers = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=20)


def tags(drawing, name):
    return [item for item in ElementTree.fromstring(drawing).iter() if item.tag == name]


def texts(drawing):
    return [item.text for item in tags(drawing, "text")]


@given(values=numbers, zero=st.booleans())
def test_ticks_are_round_and_cover_the_values(values, zero):
    scale = linear_scale(values, 0, 100, zero=zero)
    slack = 1e-9 * (scale.high - scale.low)
    assert scale.low <= min(values) + slack and scale.high >= max(values) - slack
    assert 2 <= len(scale.ticks) <= 9
    steps = [b - a for a, b in itertools.pairwise(scale.ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)
    assert 0 <= scale(values[0]) <= 100
    if zero:
        assert scale.low <= 0 <= scale.high


@given(values=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=20))
def test_logarithmic_ticks_are_inside(values):
    scale = log_scale(values, 100, 0)
    assert all(min(scale.low, *values) <= tick <= max(scale.high, *values) for tick in scale.ticks)
    assert 2 <= len(scale.ticks) < 15
    assert scale(scale.low) == 100 and scale(scale.high) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "largest", "label"),
    [(0, 2e4, "0"), (5000, 2e4, "5k"), (5000, 6000, "5000"), (2.5e6, 0, "2.5M"), (0.0005, 0, "5e-4"), (-1.5, 0, "1.5"),
     (0.05, 0, "0.05"), (-0.00002, 0, "2e-5")],
)  # fmt: skip
def test_tick_labels(value, largest, label):
    assert tick_label(value, largest).lstrip("−") == label.replace("-", "−")
    assert tick_label(value, largest).startswith("−") == (value < 0)


def test_thinning_keeps_means_and_extremes():
    x = [float(i) for i in range(1000)]
    y = [math.sin(i / 50) + (5.0 if i == 500 else 0) for i in range(1000)]
    short = thin(Series("s", x, y), 100)
    assert len(short.x) == 100
    assert max(short.high) == y[500] and min(short.low) == min(y)
    assert sum(short.y) / 100 == pytest.approx(sum(y) / 1000, abs=1e-2)
    untouched = Series("s", x[:LONGEST], y[:LONGEST])
    assert thin(untouched) is untouched


def test_a_curve_with_chance_and_two_arms():
    drawing = line_chart(
        [Series("one", [100, 200, 300], [3.0, 2.0, 1.0]), Series("two", [100, 200, 300], [3.0, 2.5, 1.02], style=1)],
        x_label="update", y_label="Loss (nats)", references=[("chance", 3.5)], marks=True,
    )  # fmt: skip
    assert {"one", "two", "chance", "update", "Loss (nats)"} <= set(texts(drawing))
    assert len(tags(drawing, "polyline")) == 2 and len(tags(drawing, "circle")) == 6
    labels = [float(t.get("y")) for t in tags(drawing, "text") if (t.get("class") or "").startswith("label")]
    assert abs(labels[0] - labels[1]) >= 13  # labels of curves that end together do not overlap


def test_values_that_cannot_be_drawn_are_left_out():
    series = Series("s", [1, 2, 3, 4, 5], [math.nan, 2.0, math.inf, -1.0, 4.0])
    for log, points in ((False, 3), (True, 2)):
        drawing = line_chart([series], x_label="x", y_label="y", log=log)
        assert len(tags(drawing, "polyline")[0].get("points").split()) == points
    assert line_chart([Series("s", [1], [math.nan])], x_label="x", y_label="y") is None
    assert line_chart([], x_label="x", y_label="y") is None


def test_one_point_is_a_dot():
    drawing = line_chart([Series("s", [10], [2.0])], x_label="x", y_label="y")
    assert len(tags(drawing, "circle")) == 1


@settings(max_examples=50)
@example(values=[0.0, 5e-324], log=False)
@example(values=[1.0, 1.0000000000000002], log=False)
@example(values=[-1e30, -9.999999999999999e29], log=False)
@given(values=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=400), log=st.booleans())
def test_any_curve_is_well_formed_and_inside_its_frame(values, log):
    drawing = line_chart([Series("s", range(len(values)), values)], x_label="x", y_label="y", log=log)
    if drawing is None:
        assert log and not any(value > 0 for value in values)
        return
    for name in ("polyline", "polygon"):
        for item in tags(drawing, name):
            for pair in item.get("points").split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= 520 and 0 <= y <= 248


def test_many_labels_stay_in_the_frame():
    series = [Series(f"s{i}", [0, 1], [0.0, 0.001 * i]) for i in range(8)]
    drawing = line_chart([*series, Series("top", [0, 1], [1.0, 1.0])], x_label="x", y_label="y")
    heights = [float(t.get("y")) for t in tags(drawing, "text") if (t.get("class") or "").startswith("label")]
    assert len(heights) == 9 and max(heights) < 248
    assert min(b - a for a, b in itertools.pairwise(heights)) > 0


@pytest.mark.parametrize(
    ("values", "ticks"),
    [((1.45, 1.93), (1.5, 1.6, 1.7, 1.8, 1.9)), ((33, 135), (50, 75, 100, 125)), ((0.9, 60), (1, 3, 10, 30)),
     ((1, 1000), (1, 10, 100, 1000))],
)  # fmt: skip
def test_logarithmic_ticks_suit_the_range(values, ticks):
    assert log_scale(values, 0, 1).ticks == ticks


def test_levels_too_close_for_a_label_each_share_one():
    series = [Series("s", [0, 1], [0.0, 30.0])]
    drawing = line_chart(series, x_label="x", y_label="y", references=[("low", 1.5), ("high", 2.0), ("far", 20.0)])
    labels = [t.text for t in tags(drawing, "text") if t.get("class") == "reference-label"]
    assert labels == ["far", "high · low"]
    assert len([t for t in tags(drawing, "line") if t.get("class") == "reference"]) == 3


def test_drawings_say_in_words_what_they_show():
    drawing = line_chart([Series("loss", [10, 20, 30], [5.0, 1.0, 2.0])], x_label="update", y_label="Loss (nats)")
    assert 'aria-label="Loss (nats) over update. loss: from 5 at 10 to 2 at 30, 1 to 5"' in drawing
    drawing = interval_chart([("a", 10.0, 8.0, 13.0), ("b", 30.0, None, None)], x_label="WER (%)")
    assert 'aria-label="WER (%). a: 10, interval 8 to 13. b: 30"' in drawing
    drawing = bar_chart([(0.0, 1.0, 5.0), (1.0, 2.0, 10.0)], x_label="s", y_label="n")
    assert 'aria-label="n over s, from 0 to 2; most, 10, from 1 to 2"' in drawing


def test_reliability():
    drawing = reliability_chart([(0.25, 0.5, 0.4, 0.6), (0.75, 1.0, None, None)])
    dots = [(float(t.get("cx")), float(t.get("cy"))) for t in tags(drawing, "circle")]
    line = next(t for t in tags(drawing, "line") if t.get("class") == "reference")
    x1, y1, x2, y2 = (float(line.get(name)) for name in ("x1", "y1", "x2", "y2"))
    assert dots[0] == pytest.approx((x1 + 0.25 * (x2 - x1), y1 + 0.5 * (y2 - y1)))
    assert dots[1] == pytest.approx((x1 + 0.75 * (x2 - x1), y2))
    assert len(tags(drawing, "path")) == 1 and "50 % at 0.25, 100 % at 0.75" in drawing
    assert reliability_chart([]) is None


def test_intervals():
    drawing = interval_chart([("a", 10.0, 8.0, 13.0), ("b", 30.0, None, None)], x_label="WER (%)")
    assert len(tags(drawing, "path")) == 1 and len(tags(drawing, "circle")) == 2
    assert interval_chart([], x_label="x") is None
    assert interval_mark(None, None, None, 1.0) is None and interval_mark(0.0, 0.0, 0.0, 0.0) is None
    assert "path" in interval_mark(0.2, 0.1, 0.3, 0.5)


def test_bars():
    drawing = bar_chart([(0.0, 1.0, 5.0), (1.0, 2.0, 0.0), (2.0, 3.0, 10.0)], x_label="s", y_label="n")
    heights = [float(bar.get("height")) for bar in tags(drawing, "rect")]
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.1) and heights[1] == 0
    assert bar_chart([], x_label="s", y_label="n") is None
    assert bar_chart([(0.0, 1.0, 0.0)], x_label="s", y_label="n") is None


@given(st.text())
def test_nothing_but_html_is_markup(text):
    tree = ElementTree.fromstring(el("p", text, title=text))
    assert "".join(tree.itertext()).count("<") == text.count("<")
    assert len(list(tree)) == 0
    assert join([Html("<b>"), text]).count("<") == 1


def test_elements():
    assert (
        el("td", 3, None, ["a", [2.5]], class_="n", data_x=1.239, id=None) == '<td class="n" data-x="1.24">3a2.5</td>'
    )
    assert el("br") == "<br/>" and el("p") == "<p></p>"
    assert el("p", "\x00\ud800\n") == "<p>\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n</p>"
