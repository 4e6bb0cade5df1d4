"""Tables and rates as text."""

from speechssl.core.text_table import interval_text, percent, text_table


def test_rates_as_text():
    assert percent(0.12345) == "12.35" and percent(1.5, 1) == "150.0" and percent(None) == "–"
    assert interval_text(0.1, 0.25, 1) == "10.0–25.0" and interval_text(None, 0.2) == "–"


def test_columns_line_up():
    lines = text_table(("name", "n"), [("a", "1"), ("longer", "1000")]).splitlines()
    assert lines == ["  name       n", "  ──────  ────", "  a          1", "  longer  1000"]


def test_width_is_what_a_terminal_shows():
    lines = text_table(("word", "n"), [("e\u0301te\u0301", "1"), ("日本", "2")]).splitlines()
    assert lines[2] == "  e\u0301te\u0301   1" and lines[3] == "  日本  2"


def test_a_cell_cannot_break_the_line():
    lines = text_table(("word",), [("a\nb\x1b[31m\ud800",), ("x" * 90,)]).splitlines()
    assert len(lines) == 4 and lines[2] == "  a?b?[31m?" and lines[3].endswith("x…") and len(lines[3]) == 50
