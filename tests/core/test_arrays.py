"""Arrays in files, read from several threads at once."""

import gc
import sys
import threading
import time

import numpy as np
import pytest

from speechssl.core.arrays import load_arrays, map_arrays, save_arrays


@pytest.fixture
def interrupted_parsers():
    """Let other threads run while numpy parses a header, as a finaliser may at any allocation."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()

    def pause(phase, info):
        time.sleep(1e-5)

    sys.setswitchinterval(1e-6)
    gc.set_threshold(20, 1000, 1000)
    gc.callbacks.append(pause)
    yield
    gc.callbacks.remove(pause)
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("read", [map_arrays, lambda path: load_arrays(path, {"x0", "x1", "x2"})])
def test_threads_read_at_once(tmp_path, interrupted_parsers, read):
    """CPython 3.11 fails here when two threads parse a header at once (its issue 106905)."""
    path = tmp_path / "a.npz"
    save_arrays(path, **{f"x{number}": np.arange(5) for number in range(3)})
    found = []

    def read_at(depth):
        if depth:
            read_at(depth - 1)
        else:
            found.extend(int(read(path)["x2"].sum()) for _ in range(60))

    threads = [threading.Thread(target=read_at, args=(20 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10] * 240
