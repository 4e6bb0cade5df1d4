"""Progress: a bar on a terminal, plain lines in a log."""

import io
import sys

import pytest

from speechssl.core import progress as module
from speechssl.core.progress import duration, progress


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (-3, "0:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_log_gets_few_plain_lines(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with progress("shard", unit="utterances") as advance:
        for done in range(1, 10):
            advance(done, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "shard: 3/10 utterances, 0:35 left",
        "shard: 6/10 utterances, 0:20 left",
        "shard: 9/10 utterances, 0:05 left",
    ]


def test_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress("shard", unit="utterances") as advance:
        advance(5, 10)
        advance(10, 10)
    assert "shard" in screen.getvalue()
    assert "10/10" in screen.getvalue()
