"""Signals raise a flag; an echo changes nothing; the second request ends the process."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from speechssl.training.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_a_request(number, capfd):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the echo that torchrun adds to Ctrl-C
        assert interrupt.requested
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_the_second_request_ends_the_process_at_once():
    script = """
import os, signal, time
from speechssl.training import interrupt
interrupt.ECHO_SECONDS = 0.05
with interrupt.Interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    child = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, timeout=500, cwd=Path(__file__).parents[2]
    )
    assert child.returncode == -signal.SIGTERM
    assert child.stdout == b""


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with Interrupt() as interrupt:
            seen.append((signal.getsignal(signal.SIGTERM), interrupt.requested))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
