import re

from speechssl.reports.comparison.differences import difference_chart, difference_mark, reach


def test_reach():
    assert reach([(1.0, -2.5, 2.0), None, (0.0, -1.0, 1.0)]) == 2.5 and reach([None]) == 0.0


def dots(svg):
    return [(style, float(x)) for style, x in re.findall(r'class="dot (\w+)" cx="([\d.]+)"', svg)]


def test_the_side_of_zero_is_drawn_to_scale():
    svg = difference_chart([("b − a", (-2.0, -3.0, -1.0)), ("<c>", (0.0, -1.0, 1.0)), ("d", (2.0, 1.0, 3.0))],
                           x_label="points")  # fmt: skip
    (better, left), (none, middle), (worse, right) = dots(svg)
    assert (better, none, worse) == ("s0", "none", "s1") and "&lt;c&gt;" in svg and "<c>" not in svg
    zero = float(re.search(r'class="axis" x1="([\d.]+)"', svg).group(1))
    assert abs(middle - zero) < 0.02 and abs((zero - left) - (right - zero)) < 0.05
    ends = [float(x) for x in re.search(r'd="M([\d.]+) \S+H([\d.]+)', svg).groups()]
    assert abs((ends[0] + ends[1]) / 2 - left) < 0.2
    assert difference_chart([], x_label="points") is None


def test_marks_share_an_axis():
    svg = difference_mark((5.0, 0.0, 10.0), 10.0)
    assert dots(svg) == [("none", 118.0)]  # half way from 80 to 156
    assert 'd="M80.0 9H156.0' in svg
    assert difference_mark(None, 10.0) is None and difference_mark((0.0, 0.0, 0.0), 0.0) is None
