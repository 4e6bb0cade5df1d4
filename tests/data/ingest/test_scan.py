import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from speechssl.data.audio.decode import AudioLimits
from speechssl.data.ingest import scan as module
from speechssl.data.ingest.scan import ScanSettings, scan_file, scan_files
from tests.support.processes import alive, children
from tests.support.voices import voice, write

SETTINGS = ScanSettings(0.1, 5.0, "energy", AudioLimits())


@pytest.fixture
def files(tmp_path):
    paths = [write(tmp_path / f"{n:02d}.wav", voice(0.3, seed=n)) for n in range(40)]
    (tmp_path / "x.txt").write_text("words")
    (tmp_path / "y.mp3").write_text("words")
    paths[5].write_bytes(paths[6].read_bytes())
    return [*paths, tmp_path / "x.txt", tmp_path / "y.mp3"]


def test_results_and_progress_do_not_depend_on_the_processes(files):
    seen = {workers: [] for workers in (1, 2)}
    results = {w: scan_files(files, SETTINGS, w, lambda done, total, w=w: seen[w].append((done, total))) for w in seen}
    assert results[1] == results[2]
    assert seen[1] == seen[2] == [(done, 42) for done in range(1, 43)]
    scans = results[1]
    assert [scan.path for scan in scans] == [str(path) for path in files]
    assert scans[5].digest == scans[6].digest != scans[7].digest
    assert not scans[40].is_audio
    assert scans[41].reason == "not_audio"
    assert scan_files([], SETTINGS, 0) == []


def test_content_decides_what_is_ours(tmp_path):
    hidden = write(tmp_path / "sound.txt", voice(0.5), format="FLAC")
    assert scan_file(hidden, SETTINGS).info.format == "flac"
    assert not scan_file(tmp_path / "gone.txt", SETTINGS).is_audio
    assert scan_file(tmp_path / "gone.wav", SETTINGS).reason == "unreadable"


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_long_files_get_pieces_in_seconds_of_the_file(tmp_path, rate):
    wave = np.stack([voice(14.0, rate), voice(14.0, rate, seed=1)], axis=1)
    long = scan_file(write(tmp_path / "x.flac", wave, rate, format="FLAC"), SETTINGS)
    assert sum(d for _, d in long.pieces) == pytest.approx(14.0)
    assert max(d for _, d in long.pieces) <= 5.0
    assert scan_file(write(tmp_path / "y.wav", wave[: 5 * rate], rate), SETTINGS).pieces == ()


def test_silero_is_asked_when_wanted(tmp_path, monkeypatch):
    made = []

    class Meter(module.SpeechMeter):
        def __init__(self, rate):
            made.append(rate)
            self.samples = 0

        def add(self, wave):
            self.samples += len(wave)

        def probabilities(self):
            assert self.samples == 160_000
            return np.array([0.0] * 130 + [1.0] * 183, np.float32)  # silence up to 4.16 s, speech after

    monkeypatch.setattr(module, "SpeechMeter", Meter)
    path = write(tmp_path / "x.wav", voice(10.0))
    silero = ScanSettings(0.1, 7.0, "silero", AudioLimits())
    (start, duration), *rest = scan_file(path, silero).pieces
    assert made == [16_000]
    assert not rest
    assert start == pytest.approx(4.16 - 0.3, abs=0.05)
    assert start + duration == pytest.approx(10.0)
    scan_file(write(tmp_path / "y.wav", voice(1.0)), silero)
    assert made == [16_000]


def crash_on_seven(path, settings):
    """Stand in for a decoder with a bug."""
    if path.name.startswith("07"):
        os._exit(3)
    return scan_file(path, settings)


def test_a_file_that_kills_its_process_is_named_and_the_rest_is_done(files, monkeypatch):
    whole = scan_files(files, SETTINGS, 1)
    monkeypatch.setattr(module, "scan_file", crash_on_seven)
    scans = scan_files(files, SETTINGS, 2)
    assert scans[7].reason == "decoder_crash"
    assert [s for n, s in enumerate(scans) if n != 7] == [s for n, s in enumerate(whole) if n != 7]
    assert threading.active_count() < 20


SCANNED = """
import sys, time
from pathlib import Path
from speechssl.data.ingest.scan import ScanSettings, scan_files
from speechssl.data.audio.decode import AudioLimits

def hang(done, total):
    print(done, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.wav"))
    scan_files(paths, ScanSettings(0.1, 5.0, "energy", AudioLimits()), 2, hang)
"""


def test_no_process_outlives_a_killed_scan(files, tmp_path):
    (tmp_path / "scanned.py").write_text(SCANNED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(tmp_path / "scanned.py"), str(tmp_path)]
    main = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert main.stdout.readline() == "1\n"
    servers = children(main.pid)
    workers = [pid for server in servers for pid in children(server)]
    assert len(workers) == 2
    main.kill()
    main.wait()
    main.stdout.close()
    deadline = time.monotonic() + 300  # far beyond a busy machine: only a hang reaches it
    while any(alive(pid) for pid in [*workers, *servers]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
