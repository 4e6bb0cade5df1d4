"""The ffmpeg reader against a stand-in that answers as ffmpeg does, and against ffmpeg itself where it is installed."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import AudioLimits, decode, probe
from tests.support.voices import voice, write

M4A = b"\x00\x00\x00\x18ftypM4A " + bytes(4000)

PROGRAM = """#!{python}
import json, os, struct, sys
import numpy as np
arguments = sys.argv[1:]
open({log!r}, "a").write(json.dumps(arguments) + "\\n")
mode = os.environ.get("MODE", "good")
out = sys.stdout.buffer
if mode == "no_audio":
    sys.exit("Stream map '0:a:0' matches no streams.")
rate, channels = (1, 2) if mode == "rate" else (24000, 2)
encoding = 3 if mode == "encoding" else 6
out.write(b".snd" + struct.pack(">5I", 32, 0xFFFFFFFF, encoding, rate, channels) + bytes(8))
wave = np.load({wave!r})
if mode == "nan":
    wave[100] = np.nan
if mode == "endless":
    while True:
        out.write(wave.astype(">f4").tobytes())
data = wave.astype(">f4").tobytes()
out.write(data[: len(data) // 2 + 3] if mode in ("half", "cut") else data)
out.flush()
if mode == "half":
    sys.exit("Invalid data found when processing input")
if mode == "cut":
    print("[matroska] File ended prematurely", file=sys.stderr)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a program called ffmpeg first in PATH; return the waveform it gives and the log of its arguments."""
    wave = np.stack([voice(3.0, 24_000), voice(3.0, 24_000, seed=1)], axis=1)
    np.save(tmp_path / "wave.npy", wave)
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    texts = {"python": sys.executable, "log": str(tmp_path / "log"), "wave": str(tmp_path / "wave.npy")}
    program.write_text(PROGRAM.format(**texts))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    return wave, tmp_path / "log"


def test_other_formats_come_through_ffmpeg(tmp_path, stand_in):
    wave, log = stand_in
    path = tmp_path / "-rf odd; name.mp3"
    path.write_bytes(M4A)
    info = probe(path)
    assert (info.format, info.sample_rate, info.channels, info.frames) == ("mp4", 24_000, 2, 72_000)
    got = decode(path, item="x", rate=24_000)
    assert np.abs(got - wave.mean(axis=1)).max() < 1e-6
    assert np.array_equal(decode(M4A, item="x", rate=24_000), got)
    part = decode(path, item="x", start=1.0, duration=0.5, rate=24_000, channels="first")
    assert np.array_equal(part, wave[24_000:36_000, 0])
    assert np.array_equal(decode(path, item="x", start=2.5, rate=24_000), got[60_000:])
    first = log.read_text().split("\n")[0]
    assert f'"file:{path}"' in first
    assert '"-protocol_whitelist", "file,pipe", "-f", "mov"' in first
    assert "/audio" in log.read_text().split("\n")[2]


@pytest.mark.parametrize(("mode", "reason"), [
    ("no_audio", "corrupt"), ("half", "corrupt"), ("cut", "truncated"),
    ("encoding", "corrupt"), ("rate", "sample_rate"),
    ("nan", "not_finite"), ("endless", "too_long"),
])  # fmt: skip
def test_what_ffmpeg_cannot_do_has_a_reason(tmp_path, stand_in, monkeypatch, mode, reason):
    monkeypatch.setenv("MODE", mode)
    with pytest.raises(AudioError) as caught:
        decode(M4A, item="utt", limits=AudioLimits(max_seconds=20.0))
    assert (caught.value.item, caught.value.reason) == ("utt", reason)
    if mode == "no_audio":
        assert "matches no streams" in caught.value.detail


def test_a_start_behind_the_end(stand_in):
    with pytest.raises(AudioError) as caught:
        decode(M4A, item="utt", start=5.0)
    assert caught.value.reason == "out_of_range"


def test_containers_that_libsndfile_reads_in_part_fall_back(tmp_path, stand_in):
    wave, log = stand_in
    data = bytearray(write(tmp_path / "x.wav", voice(0.5)).read_bytes())
    data[20:22] = (0x1234).to_bytes(2, "little")  # a codec nobody knows
    assert len(decode(bytes(data), item="x", rate=24_000)) == len(wave)
    assert '"-f", "wav"' in log.read_text()


def test_without_the_program_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match="install it, or convert") as caught:
        probe(M4A, "utt")
    assert caught.value.reason == "needs_ffmpeg"


def test_no_process_and_no_file_stays_behind(tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("MODE", "endless")
    before = set(tmp_path.iterdir())
    with pytest.raises(AudioError):
        decode(M4A, item="x", limits=AudioLimits(max_seconds=1.0))
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "log"}
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed: apt-get install ffmpeg")
@pytest.mark.parametrize("name", ["x.m4a", "x.webm"])
def test_the_real_program(tmp_path, name):
    source = write(tmp_path / "s.wav", voice(2.0, 48_000), 48_000)
    codec = {"x.m4a": "aac", "x.webm": "libopus"}[name]
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-c:a", codec, tmp_path / name], check=True)
    disguised = (tmp_path / name).rename(tmp_path / "x.wav")
    got, want = decode(disguised, item="x"), decode(Path(source), item="x")
    n = min(len(got), len(want))
    assert abs(len(got) - len(want)) < 1600
    spectra = [np.abs(np.fft.rfft(x[:n])) for x in (got, want)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9
