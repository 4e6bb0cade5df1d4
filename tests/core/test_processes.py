"""A process ends with the one that started it, however that one ended; asked first, then made to."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import alive

CHILD = """
import os, signal, sys, time
from speechssl.core import processes as orphans
orphans.POLL_SECONDS, orphans.GRACE_SECONDS = 0.05, 0.5
if {portable}:
    orphans._ask_kernel = lambda: None
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda number, frame: (open({note!r}, "w").close(), os._exit(75)))
orphans.end_with_parent({parent})
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child = {child!r}.replace("PARENT", str(os.getpid()))
subprocess.Popen([sys.executable, "-c", child])
time.sleep(600)
"""


def child_of(parent, note, *, portable=False, stubborn=False):
    return CHILD.format(parent=parent, note=str(note), portable=portable, stubborn=stubborn)


def gone(pid, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("portable", [False, True], ids=["kernel", "portable"])
@pytest.mark.parametrize("stubborn", [False, True], ids=["saves itself", "hangs"])
def test_a_killed_parent_takes_its_child_along(tmp_path, portable, stubborn):
    script = PARENT.format(child=child_of("PARENT", tmp_path / "asked", portable=portable, stubborn=stubborn))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        assert gone(child, 20)
    assert (tmp_path / "asked").exists() != stubborn


def test_a_parent_that_was_gone_before_anybody_looked(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as never:
        never.wait()
    done = subprocess.run([sys.executable, "-c", child_of(never.pid, tmp_path / "asked")], timeout=500, check=False)
    assert done.returncode == 75
    assert (tmp_path / "asked").exists()


def test_with_its_parent_alive_it_stays(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", child_of(os.getpid(), tmp_path / "asked")], stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        time.sleep(0.5)
        assert child.poll() is None
        child.kill()
    assert not (tmp_path / "asked").exists()
