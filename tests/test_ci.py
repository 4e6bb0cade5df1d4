"""Continuous integration: the programs that tests can use are installed where that is allowed, and skips are named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BROWSER = "chromium"
RECORD = 'echo "$@" >> "$(dirname "$0")/asked"\n'


def machine(folder, **programs):
    """A folder of programs, each a shell script, for a PATH of its own."""
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    return folder


def run(folder):
    """What .ci/programs says on that machine, and what was asked of apt-get."""
    for tool in ("dirname", "bash", "env"):
        (folder / tool).symlink_to(next(p for d in ("/usr/bin", "/bin") if (p := Path(d) / tool).exists()))
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "programs"], env={"PATH": str(folder)}, capture_output=True, text=True, check=True
    )
    asked = folder / "asked"
    return done.stdout.splitlines(), asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []


def test_what_is_there_is_not_installed_again(tmp_path):
    there = machine(tmp_path, google_chrome="", sclite="", id="echo 0", apt_get=RECORD)
    assert run(there) == ([], [])


@pytest.mark.skipif(Path("/usr/lib/sctk/bin/sclite").exists(), reason="sctk is installed where no PATH hides it")
def test_root_installs_what_is_missing_and_asks_for_lists_once(tmp_path):
    said, asked = run(machine(tmp_path, id="echo 0", apt_get=RECORD))
    assert said == ["ci: installed chromium", "ci: installed sctk"]
    assert [line.split()[0] for line in asked] == ["update", "install", "install"]


def test_root_installs_a_browser(tmp_path):
    said, asked = run(machine(tmp_path, sclite="", id="echo 0", apt_get=RECORD))
    assert said == ["ci: installed chromium"]
    assert [line.split()[0] for line in asked] == ["update", "install"] and asked[1].endswith("chromium")


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "this is no Debian"),
        ({"id": "echo 1000", "apt_get": RECORD}, "this is not root"),
        ({"id": "echo 0", "apt_get": "echo Reading; echo 'E: no network' >&2; exit 100"}, "(E: no network)"),
    ],
)
def test_what_cannot_be_installed_is_named_with_the_reason_and_stops_nothing(tmp_path, programs, reason):
    said, asked = run(machine(tmp_path, sclite="", **programs))
    assert asked == [] and len(said) == 1
    assert BROWSER in said[0] and reason in said[0] and "are skipped" in said[0]


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_the_last_lines_of_a_test_run_name_what_was_skipped(tmp_path, workers):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='no harp: buy one')\n@pytest.mark.parametrize('n', range(3))\n"
        "def test_a(n): pass\n"
        "def test_b(): pytest.skip('no time: wait')\ndef test_c(): pass\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", "--durations=3", *workers, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    *_, harp, time, total = done.stdout.splitlines()
    assert (harp, time) == ("skipped 3: no harp: buy one", "skipped 1: no time: wait")
    assert total.startswith("1 passed, 4 skipped")
