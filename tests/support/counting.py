"""Work counted instead of timed: other programs on the machine do not change a count."""

import sys
from collections.abc import Callable

__all__ = ["python_lines"]


def python_lines(work: Callable[[], object]) -> int:
    """Return how many lines of Python ``work()`` executes; loops inside of numpy and torch count nothing."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
