"""Freed memory is kept: asking for it again costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

from speechssl.training import allocator

SCRIPT = """
import resource, sys
from speechssl.training.allocator import keep_freed_memory

size = 20_000_000

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

told = sys.argv[1] == "keep" and keep_freed_memory()
b"x" * size
print(int(told), faults())
"""


def run(keep, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    # glibc raises its own threshold when it sees large blocks freed; fixed at its first value, each one is mapped anew.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, keep], env=clean | environment, capture_output=True, text=True, check=True
    )
    told, faults = map(int, done.stdout.split())
    return bool(told), faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_memory_asked_for_again_is_there():
    told, faults = run("keep")
    assert told and faults < 100
    # 20 MB are some 5,000 pages; a program that lets glibc map large blocks pays for them each time.
    assert run("", MALLOC_MMAP_THRESHOLD_="1000000")[1] > 10_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_the_environment_has_the_last_word():
    told, faults = run("keep", MALLOC_MMAP_THRESHOLD_="1000000")
    assert not told and faults > 10_000


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
