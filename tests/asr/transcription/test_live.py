"""A pipe: words come out while the recording goes on, within the stated time, and are those of the recording."""

import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.transcription.live import live_words, pcm_blocks, sliding_log_probs
from speechssl.asr.transcription.transcribe import open_recogniser
from speechssl.cli.main import main
from speechssl.config import DecoderConfig, LiveConfig, TranscribeConfig
from speechssl.core.errors import AudioError, ConfigError
from speechssl.evaluation.wer.edit_distance import score_utterance
from tests.oracles.wordfiles import read_ctm
from tests.support.tones import make_sentence, speak, trained
from tests.support.voices import voice

LIVE = LiveConfig(window_seconds=4.0, step_seconds=0.5, lookahead_seconds=0.6)


@pytest.fixture(scope="module")
def model() -> Path:
    return trained()[1] / "model"


@pytest.fixture(scope="module")
def talk() -> tuple[np.ndarray, str]:
    texts = [make_sentence(f"live-{number}") for number in range(16)]
    return np.concatenate([speak(text, f"live-{i}") for i, text in enumerate(texts)]), " ".join(texts)


def pcm(wave: np.ndarray) -> bytes:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype("<i2").tobytes()


def through_a_pipe(data: bytes, size: int = 4096) -> np.ndarray:
    read, write = os.pipe()

    def send() -> None:
        for start in range(0, len(data), size):
            os.write(write, data[start : start + size])
        os.close(write)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return np.concatenate([*pcm_blocks(read), np.zeros(0, np.float32)])
    finally:
        os.close(read)
        sender.join()


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_raw_samples_and_wav_headers(tmp_path: Path, size: int) -> None:
    wave = np.round(np.random.default_rng(0).uniform(-1, 1, 1500) * 32767) / 32768
    expected = wave.astype(np.float32)
    np.testing.assert_array_equal(through_a_pipe(pcm(wave), size), expected)
    np.testing.assert_array_equal(through_a_pipe(pcm(wave) + b"\x01", size), expected)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    np.testing.assert_array_equal(through_a_pipe(data, size), expected)
    listed = data[:12] + b"LIST\x03\x00\x00\x00abc\x00" + data[12:]  # an odd chunk before the format
    np.testing.assert_array_equal(through_a_pipe(listed, size), expected)
    np.testing.assert_array_equal(through_a_pipe(pcm(wave[:3]), size), expected[:3])


def test_what_is_no_pcm_is_refused(tmp_path: Path) -> None:
    cases = {
        "stereo": (2, 16_000, "WAV", "PCM_16"),
        "8k": (1, 8000, "WAV", "PCM_16"),
        "24": (1, 16_000, "WAV", "PCM_24"),
    }
    for name, (channels, rate, kind, subtype) in cases.items():
        soundfile.write(tmp_path / name, np.zeros((800, channels)), rate, format=kind, subtype=subtype)
        with pytest.raises(AudioError, match=r"not_pcm.*the WAV header says.*ffmpeg -i INPUT"):
            through_a_pipe((tmp_path / name).read_bytes())
    soundfile.write(tmp_path / "flac", np.zeros(800), 16_000, format="FLAC")
    with pytest.raises(AudioError, match=r"not_pcm.*this is flac"):
        through_a_pipe((tmp_path / "flac").read_bytes())
    for nothing in (b"", b"\x01", b"RIFF\x00\x00\x00\x00WAVE"):
        with pytest.raises(AudioError, match="empty"):
            through_a_pipe(nothing)
    with pytest.raises(AudioError, match="a WAV header without samples"):
        through_a_pipe(b"RIFF\x00\x00\x00\x00WAVE" + b"JUNK\x04\x00\x00\x00abcd" * 400)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\x00\x00\x00\x00\x00\x10" + bytes(16)], ids=["bare", "tagged"])
def test_an_mp3_is_no_pcm(tag: bytes) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(1.0), 16_000, format="MP3", subtype="MPEG_LAYER_III")
    source, sink = os.pipe()
    try:
        os.write(sink, (tag + buffer.getvalue())[:8000])
        with pytest.raises(AudioError, match=r"not_pcm.*this is mp3.*ffmpeg -i INPUT"):
            next(pcm_blocks(source))
    finally:
        os.close(sink)
        os.close(source)


def test_samples_that_begin_like_an_mp3_frame_are_samples() -> None:
    wave = np.zeros(4000, np.int16)
    wave[0] = np.frombuffer(b"\xff\xfb", "<i2")[0]
    wave[1] = np.frombuffer(b"\x90\x64", "<i2")[0]
    assert np.array_equal(through_a_pipe(wave.tobytes()) * 32768, wave)
    assert np.array_equal(through_a_pipe(wave[:100].tobytes()) * 32768, wave[:100])


def test_each_frame_comes_once_and_in_time(model: Path, talk) -> None:
    recogniser = open_recogniser(TranscribeConfig(model=str(model), device="cpu"))
    wave = talk[0][: 16_000 * 9]
    hop = recogniser.model.encoder.hop
    heard = 0

    def blocks():
        nonlocal heard
        for start in range(0, len(wave), 1111):
            heard = min(start + 1111, len(wave))
            yield wave[start : start + 1111]

    given = 0
    late = 0.0
    for rows in sliding_log_probs(recogniser.model, blocks(), LIVE):
        late = max(late, (heard - given * hop) / 16_000)  # age of the oldest frame that comes now
        given += len(rows)
    assert given == int(recogniser.model.encoder.frames(len(wave)))
    assert late <= LIVE.step_seconds + LIVE.lookahead_seconds + 0.1  # a block of 0.07 s, a frame of 0.02 s
    (whole,) = frame_log_probs(recogniser.model, torch.from_numpy(wave[:48_000])[None], torch.tensor([48_000]))
    (first,) = sliding_log_probs(
        recogniser.model, [wave[:48_000]], replace(LIVE, step_seconds=3.0, lookahead_seconds=0.0)
    )
    torch.testing.assert_close(first, whole, atol=1e-4, rtol=1e-4)
    assert list(sliding_log_probs(recogniser.model, [wave[:10]], LIVE)) == []


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_the_words_are_those_of_the_recording(model: Path, talk, kind: str) -> None:
    cfg = TranscribeConfig(model=str(model), live=LIVE, decoder=DecoderConfig(kind=kind, beam=8), device="cpu")  # type: ignore[arg-type]
    recogniser = open_recogniser(cfg)
    wave, ref = talk
    words = list(live_words(recogniser, iter(np.array_split(wave, 77)), cfg))
    (rows,) = frame_log_probs(recogniser.model, torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    offline = recogniser.decoder(rows).text
    letters = len(ref.replace(" ", ""))
    live = " ".join(word.word for word in words)
    print(f"live against one pass: {score_utterance(offline, live)}")
    errors = score_utterance(" ".join(ref), " ".join(live)).errors
    assert errors <= score_utterance(" ".join(ref), " ".join(offline)).errors + 0.1 * letters
    starts = [word.start for word in words]
    assert starts == sorted(starts)


def test_sizes_that_do_not_fit(model: Path) -> None:
    recogniser = open_recogniser(TranscribeConfig(model=str(model), device="cpu"))
    for change in ({"step_seconds": 0.0}, {"lookahead_seconds": -1.0}, {"window_seconds": 1.0}):
        with pytest.raises(ConfigError, match="together shorter than window_seconds"):
            next(sliding_log_probs(recogniser.model, [], replace(LIVE, **change)))


def test_a_slow_pipe_prints_words_before_it_ends(model: Path, talk) -> None:
    """The second half of the audio is sent only after words of the first have come out."""
    command = [sys.executable, "-m", "speechssl", "transcribe", "-", "--model", str(model), "--device", "cpu"]
    command += ["--format", "ctm", "--live.window-seconds", "4", "--live.step-seconds", "0.5"]
    command += ["--live.lookahead-seconds", "0.6"]
    wave = talk[0]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin and running.stdout and running.stderr
        running.stdin.write(pcm(wave[: 8 * 16_000]))
        running.stdin.flush()
        first = running.stdout.readline().decode()  # blocks for ever if words waited for the end
        assert read_ctm(first)[0][2] < 8.0
        running.stdin.write(pcm(wave[8 * 16_000 :]))
        running.stdin.close()
        rest = running.stdout.read().decode()
        said = running.stderr.read().decode()
        assert running.wait(300) == 0, said
    rows = read_ctm(first + rest)
    assert len(rows) >= 10
    ends = [start + length for _, _, start, length, _, _ in rows]
    assert ends == sorted(ends)
    assert rows[-1][2] > len(wave) / 16_000 - 4.0


def test_the_verb(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(*words: str, data: bytes = b"") -> tuple[int, str, str]:
        (tmp_path / "input").write_bytes(data)
        with (tmp_path / "input").open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            code = main(["transcribe", *words, "--model", str(model), "--device", "cpu"])
        return code, *capsys.readouterr()

    code, _, err = run("-")
    assert (code, "no sample came through the pipe" in err) == (1, True)
    pause = 0.003 * np.random.default_rng(0).standard_normal(40_000).astype(np.float32)  # the noise of speak()
    data = pcm(np.r_[speak("abc de", "x"), pause, speak("bad", "y")])
    code, out, err = run("-", "--live.step-seconds", "0.5", data=data)
    assert (code, [line for line in err.splitlines() if "precision: " not in line]) == (0, [])
    assert out.endswith("\n")
    assert len(out.splitlines()) == 2  # a line ends at a pause
    code, out, _ = run("-", "--format", "jsonl", data=data)
    assert [json.loads(line)["word"] for line in out.splitlines()]
    code, _, err = run("-", "--format", "srt", data=data)
    assert (code, "--format text, jsonl or ctm" in err) == (1, True)
    code, _, err = run("-", "a.wav", data=data)
    assert (code, "cannot be mixed with files" in err) == (1, True)
