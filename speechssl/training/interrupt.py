"""Being asked to stop: SIGTERM, SIGINT and SIGUSR1 raise a flag that is read at safe points, such as the end of a step.

The second request, made by someone who does not want to wait, ends the process at once.
"""

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["ECHO_SECONDS", "Interrupt"]

ECHO_SECONDS = 2.0
"""A signal this soon after the first one is its echo: Ctrl-C reaches a rank from the terminal and again from
torchrun."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupt:
    """Context in which stop signals set ``requested``; handlers are put back on leaving.

    Outside the main thread no handler can be installed, and ``requested`` stays False. ``after`` says in the message
    what is still finished.
    """

    def __init__(self, after: str = "this step") -> None:
        self.requested = False
        self._after = after
        self._first = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if self.requested and now - self._first > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.requested:
            self.requested, self._first = True, now
            with contextlib.suppress(OSError):  # a closed standard error must not break the step in progress
                os.write(2, f"\n{signal.Signals(number).name}: stopping after {self._after}\n".encode())
