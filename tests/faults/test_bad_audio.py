"""Audio that is broken, lies or attacks: each gives its reason, and none costs memory or time."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speechssl.cli.main import main
from speechssl.config import ManifestConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import AudioLimits, decode, encode_flac, probe
from speechssl.data.ingest.manifest import build_manifest, read_manifest
from speechssl.data.store.reader import open_corpus
from tests.support.voices import voice, write

ROOT = Path(__file__).parent.parent.parent


def wav(
    samples: bytes, *, rate: int = 16_000, channels: int = 1, bits: int = 16, code: int = 1, claim: int = -1
) -> bytes:
    """Return a WAV file written field by field; ``claim`` is the size that its header promises."""
    claim = len(samples) if claim < 0 else claim
    block = channels * bits // 8
    fmt = struct.pack("<HHIIHH", code, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    head = b"RIFF" + struct.pack("<I", (36 + claim) & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    return head + b"data" + struct.pack("<I", claim) + samples


def floats(*values: float) -> bytes:
    return wav(np.array(values, "<f4").tobytes(), bits=32, code=3)


def flac_claiming(frames: int, seconds: float = 1.0) -> bytes:
    """Return a FLAC file whose STREAMINFO claims a number of samples (36 bits)."""
    data = bytearray(encode_flac(voice(seconds)))
    data[21] = (data[21] & 0xF0) | (frames >> 32)
    data[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def compressed(kind: str, subtype: str, tmp_path: Path, seconds: float = 4.0) -> bytes:
    return write(tmp_path / f"made.{kind}", voice(seconds), format=kind, subtype=subtype).read_bytes()


SPEECH = (voice(1.0) * 32767).astype("<i2").tobytes()
flipped = bytearray(encode_flac(voice(2.0)))
flipped[len(flipped) // 2] ^= 0xFF

BAD = {
    "empty_file": b"",
    "one_byte": (b"R", "not_audio"),
    "html": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 40, "not_audio"),
    "utf16_text": ("speech is not noise".encode("utf-16") * 100, "not_audio"),
    "zeros": (bytes(50_000), "not_audio"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, "not_audio"),
    "header_only": (wav(b""), "no_samples"),
    "no_data_chunk": (wav(SPEECH)[:36], "corrupt"),
    "rate_1": (wav(SPEECH, rate=1), "sample_rate"),
    "rate_3999": (wav(SPEECH, rate=3_999), "sample_rate"),
    "rate_1092676": (wav(SPEECH, rate=1_092_676), "sample_rate"),
    "17_channels": (wav(SPEECH[: 34 * 900], channels=17), "channels"),
    "1024_channels": (wav(SPEECH[: 2048 * 15], channels=1024), "channels"),
    "wav_half": (wav(SPEECH[:16_000], claim=32_000), "truncated"),
    "wav_claims_2_gb": (wav(SPEECH, claim=0x70000000), "truncated"),
    "nan": (floats(0.1, float("nan"), 0.2), "not_finite"),
    "inf": (floats(0.1, float("inf")), "not_finite"),
    "minus_inf": (floats(0.1, float("-inf")), "not_finite"),
    "huge": (floats(0.1, 1e30), "out_of_scale"),
    "nine": (floats(0.1, -9.0), "out_of_scale"),
    "flac_flipped_byte": (bytes(flipped), "corrupt"),
    "flac_2_36_samples": (flac_claiming(2**36 - 1), "too_long"),
    "flac_one_hour_claimed": (flac_claiming(16_000 * 3600), "corrupt"),
    "flac_unknown_length": (flac_claiming(0), "unknown_length"),
    "flac_head": (encode_flac(voice(1.0))[:100], "corrupt"),
    "mp4": (b"\x00\x00\x00\x18ftypM4A " + bytes(2000), "needs_ffmpeg"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(2000), "needs_ffmpeg"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch, tmp_path):
    """The reasons must not depend on what is installed."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_bad_file_has_its_reason(tmp_path, name):
    data, reason = BAD[name] if isinstance(BAD[name], tuple) else (BAD[name], name)
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(AudioError) as caught:
            decode(source, item="some id")
        assert caught.value.reason == reason, str(caught.value)
        assert caught.value.item == "some id"
        assert caught.value.detail


CONTAINERS = [
    ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"),
    ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("NIST", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), CONTAINERS)
@pytest.mark.parametrize("share", [0.97, 0.5, 0.1])
def test_no_truncated_file_passes_for_whole(tmp_path, kind, subtype, share):
    data = compressed(kind, subtype, tmp_path)
    cut = data[: int(len(data) * share)]
    whole = len(decode(data, item="x"))
    try:
        got = len(decode(cut, item="x"))
    except AudioError as error:
        assert error.reason in ("truncated", "corrupt", "no_samples", "not_audio")
    else:
        pytest.fail(f"{got} of {whole} samples of a truncated {kind} passed")


def test_good_float_audio_above_full_scale_passes():
    assert decode(floats(*[7.9, -7.9] * 100), item="x").max() > 7


def test_an_offset_is_no_fault_and_is_kept(tmp_path):
    """Fault 30: a constant offset (DC) is the recording's; nobody takes it away in silence."""
    wave = voice(0.5) * 0.5 + 0.25
    assert np.abs(decode(write(tmp_path / "x.wav", wave, subtype="FLOAT"), item="x") - wave).max() < 1e-6
    corpus = tmp_path / "corpus"
    write(corpus / "x.wav", wave)
    assert main(["manifest", str(corpus), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert main(["shard", str(tmp_path / "out"), str(tmp_path / "shards"), "--workers", "1"]) == 0
    assert open_corpus(tmp_path / "shards").read(0).mean() == pytest.approx(wave.mean(), abs=1e-4)


@pytest.mark.parametrize("channels", ["mean", "first"])
def test_eight_channels_the_whole_way(tmp_path, channels):
    """Fault 31: the manifest says how many there were, the shard holds one."""
    waves = np.stack([voice(0.5, seed=seed) for seed in range(8)], axis=1)
    write(tmp_path / "corpus" / "x.wav", waves)
    assert main(["manifest", str(tmp_path / "corpus"), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert [u.channels for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == [8]
    words = ["shard", str(tmp_path / "out"), str(tmp_path / "shards"), "--workers", "1", "--channels", channels]
    assert main(words) == 0
    want = waves.mean(axis=1) if channels == "mean" else waves[:, 0]
    assert np.abs(open_corpus(tmp_path / "shards").read(0) - want).max() < 1e-4


def test_a_pipe_a_folder_and_a_missing_file_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    for name, reason in (("fifo.wav", "unreadable"), (".", "unreadable"), ("none.wav", "missing_file")):
        with pytest.raises(AudioError) as caught:
            probe(tmp_path / name)
        assert caught.value.reason == reason


CHILD = """
import resource, sys, json
from pathlib import Path
import numpy, soundfile, soxr
from speechssl.data.ingest.scan import ScanSettings, scan_file
from speechssl.data.audio.decode import AudioLimits
from speechssl.data.audio.decode import decode
from speechssl.core.errors import AudioError
settings = ScanSettings(0.1, 30.0, "energy", AudioLimits())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
for name in sys.argv[1:]:
    scan = scan_file(Path(name), settings)
    try:
        part = len(decode(Path(name), item=name, start=1.0, duration=2.0))
    except AudioError as error:
        part = error.reason
    print(json.dumps([Path(name).name, scan.reason, scan.info and round(scan.info.duration), len(scan.pieces), part]))
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_lies_and_bombs_cost_no_memory(tmp_path):
    """Under 200 MB on top of the imports: claims of 256 GiB, an hour of silence in 100 kB, 8 channels at 192 kHz."""
    bomb = tmp_path / "bomb.flac"
    import soundfile

    with soundfile.SoundFile(bomb, "w", 16_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(60):
            file.write(np.zeros(16_000 * 60, np.int16))
    with soundfile.SoundFile(tmp_path / "wide.flac", "w", 192_000, 8, "PCM_16", format="FLAC") as file:
        for _ in range(30):
            file.write(np.zeros((192_000, 8), np.int16))
    (tmp_path / "lie.flac").write_bytes(flac_claiming(2**36 - 1))
    (tmp_path / "hour.flac").write_bytes(flac_claiming(16_000 * 3600 * 5))
    (tmp_path / "unknown.flac").write_bytes(flac_claiming(0))
    (tmp_path / "rate1.wav").write_bytes(wav(SPEECH, rate=1))
    assert bomb.stat().st_size < 1_000_000
    names = ["bomb.flac", "wide.flac", "lie.flac", "hour.flac", "unknown.flac", "rate1.wav"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in names)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *rows, peak = [json.loads(line) for line in done.stdout.splitlines()]
    found = {row[0]: row[1:] for row in rows}
    assert found["bomb.flac"][0] == ""
    assert found["bomb.flac"][1] == 3600
    assert found["bomb.flac"][3] == 32_000
    assert found["wide.flac"][1] == 30
    assert found["lie.flac"][0] == "too_long"
    assert found["hour.flac"][0] == "corrupt"
    assert found["unknown.flac"][0] == "unknown_length"
    assert found["rate1.wav"][0] == "sample_rate"
    assert peak < 300, f"{peak} MB resident"


def test_half_garbage_stops_with_counts_and_a_ledger(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    for number in range(12):
        write(corpus / f"good{number}.wav", voice(0.5, seed=number))
        (corpus / f"bad{number}.wav").write_bytes(b"garbage %d" % number)
    (corpus / "empty.flac").write_bytes(b"")
    cfg = ManifestConfig(workers=1)
    with pytest.raises(DataError, match=r"13 of 25 audio files are unusable \(not_audio 12, empty_file 1\)") as caught:
        build_manifest(corpus, tmp_path / "out", cfg)
    assert "max_bad_fraction" in str(caught.value)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    assert len(read_ledger(tmp_path / "out" / "ledger.jsonl")) == 13
    assert main(["manifest", str(corpus), str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "13 of 25 audio files are unusable" in capsys.readouterr().err
    summary = build_manifest(corpus, tmp_path / "out", ManifestConfig(workers=1, max_bad_fraction=0.6))
    assert summary.utterances == 12
    assert summary.rejected == {"not_audio": 12, "empty_file": 1}


def test_few_files_are_no_statistic(tmp_path):
    corpus = tmp_path / "corpus"
    write(corpus / "good.wav", voice(0.5))
    for number in range(3):
        (corpus / f"bad{number}.mp3").write_bytes(b"garbage")
    assert build_manifest(corpus, tmp_path / "out", ManifestConfig(workers=1)).utterances == 1


def test_a_corpus_of_nothing_says_so(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match="no usable audio"):
        build_manifest(tmp_path / "corpus", tmp_path / "out", ManifestConfig(workers=1))
    with pytest.raises(DataError, match="no such folder"):
        build_manifest(tmp_path / "missing", tmp_path / "out", ManifestConfig(workers=1))


def test_limits_are_the_callers(tmp_path):
    path = write(tmp_path / "x.wav", np.zeros((16_000, 4), np.float32))
    for limits, reason in (
        (AudioLimits(max_channels=2), "channels"),
        (AudioLimits(min_rate=20_000), "sample_rate"),
        (AudioLimits(max_file_bytes=100), "too_large"),
        (AudioLimits(max_seconds=0.5), "too_long"),
    ):
        with pytest.raises(AudioError) as caught:
            probe(path, limits=limits)
        assert caught.value.reason == reason


BROKEN = {
    "broken/awful.wav": "sample_rate",
    "broken/bad.wav": "corrupt",
    "broken/evil.wav": "corrupt",
    "broken/null.wav": "no_samples",
    "wake words/alexa/128.flac": "corrupt",
    "wake words/alexa/272.flac": "corrupt",
}
"""Found by decoding every file of raw_mixed to its end with libsndfile, one by one, outside of this package."""


@pytest.mark.shared_data
def test_the_broken_files_of_raw_mixed_are_exactly_these(shared_data, tmp_path):
    raw = shared_data / "raw_mixed"
    build_manifest(raw, tmp_path / "out", ManifestConfig(workers=2))
    ledger = [e for e in read_ledger(tmp_path / "out" / "ledger.jsonl") if e.action == "rejected" and ":" not in e.item]
    assert {entry.item: entry.reason for entry in ledger} == BROKEN
    names = (".wav", ".flac", ".mp3", ".ogg", ".sph", ".webm")
    sounds = {p.relative_to(raw).as_posix() for p in raw.rglob("*.*") if p.suffix in names}
    used = {Path(u.path).relative_to(raw).as_posix() for u in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    assert used == sounds - set(BROKEN)
