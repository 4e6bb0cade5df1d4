"""Transcription: chunks join without a trace, bad files stay alone, word times are right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.asr.ctc import CtcModel
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcribe import Transcript, transcribe, transcribe_with
from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig, TokensConfig, TranscribeConfig
from speechssl.errors import CheckpointError, ConfigError
from speechssl.evaluation.wer import score_utterance
from speechssl.models.encoder import SpeechEncoder
from tests.tones import make_sentence, speak, trained

TOKENS, _ = Tokens.build(["abcde"], TokensConfig())
CHUNKED = TranscribeConfig(chunk_seconds=4.0, overlap_seconds=1.0, batch_seconds=10.0, device="cpu")
WHOLE = replace(CHUNKED, chunk_seconds=600.0)


def local_model() -> CtcModel:
    """A model whose frames see less than half a second: chunks with half a second of context lose nothing."""
    torch.manual_seed(1)
    stem = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)), norm="layer")
    made = CtcModel(SpeechEncoder(ModelConfig(frontend=stem, encoder=EncoderConfig(
        dim=32, layers=0, heads=2, ffn_dim=64, pos_kernel=8, pos_groups=4))), TOKENS.size)  # fmt: skip
    torch.nn.init.normal_(made.head.weight, std=1.0)
    return made.eval()


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 31.7), ("exact", 13.0), ("short", 1.3), ("blip", 0.01)):
        noise = np.convolve(rng.standard_normal(int(seconds * 16_000)), np.hanning(40), "same") * 0.02
        envelope = np.repeat(rng.uniform(0, 1, len(noise) // 1000 + 1), 1000)[: len(noise)]
        soundfile.write(folder / f"{name}.wav", noise * envelope, 16_000)
    rate = 44_100
    soundfile.write(folder / "stereo.flac", np.stack([speak("abc de" * 8, rate=rate)] * 2, 1), rate)
    return folder


NAMES = ("long.wav", "exact.wav", "short.wav", "blip.wav", "stereo.flac")


def test_chunks_join_without_a_trace_where_context_is_local(audio: Path) -> None:
    files = [audio / name for name in NAMES]
    model = local_model()
    chunked = list(transcribe_with(model, TOKENS, files, CHUNKED))
    whole = list(transcribe_with(model, TOKENS, files, WHOLE))
    for one, other in zip(chunked, whole, strict=True):
        assert (one.path, one.text, one.duration, one.error) == (other.path, other.text, other.duration, None)
        for left, right in zip(one.words, other.words, strict=True):
            assert (left.word, left.start, left.end) == (right.word, right.start, right.end)
            assert left.score == pytest.approx(right.score, abs=1e-4)
    assert len(whole[0].text) > 100
    assert whole[0].duration == pytest.approx(31.7)
    assert whole[3].text == ""


@pytest.mark.parametrize("batch_seconds", [0.1, 8.0, 1000.0])
def test_batches_change_nothing(audio: Path, batch_seconds: float) -> None:
    files = [audio / name for name in NAMES]
    cfg = replace(CHUNKED, batch_seconds=batch_seconds)
    found = [item.text for item in transcribe_with(local_model(), TOKENS, files, cfg)]
    assert found == [item.text for item in transcribe_with(local_model(), TOKENS, files, CHUNKED)]


def test_bad_files_give_their_error_and_the_rest_go_on(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp3").write_text("<html></html>")
    (tmp_path / "empty.wav").touch()
    cut = (audio / "long.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(cut[: len(cut) * 2 // 3])
    files = [
        tmp_path / "missing.wav", audio / "short.wav", tmp_path / "page.mp3", audio / "exact.wav",
        tmp_path / "empty.wav", tmp_path / "cut.wav", audio / "blip.wav",
    ]  # fmt: skip
    found = list(transcribe_with(local_model(), TOKENS, files, CHUNKED))
    assert [item.path for item in found] == [str(path) for path in files]
    errors = [item.error and item.error.split(": ")[1].split(" ")[0] for item in found]
    assert errors == ["missing_file", None, "not_audio", None, "empty_file", "truncated", None]
    assert all(item.text == "" and item.words == () for item in found if item.error)
    alone = [item.text for item in transcribe_with(local_model(), TOKENS, [files[1], files[3]], CHUNKED)]
    assert [found[1].text, found[3].text] == alone


def test_results_come_as_they_are_ready(audio: Path) -> None:
    asked: list[Path] = []

    def files():
        for _ in range(6):
            asked.append(audio / "exact.wav")
            yield asked[-1]

    results = transcribe_with(local_model(), TOKENS, files(), CHUNKED)
    assert isinstance(next(results), Transcript)
    assert len(asked) < 6


def test_a_trained_model_reads_a_long_recording_in_chunks(tmp_path: Path) -> None:
    _, run = trained()
    pieces, words, now = [], [], 0.0
    for number in range(20):
        text = make_sentence(f"talk-{number}")
        wave = speak(text, f"talk-{number}")
        pieces.append(wave)
        words += [(word, now) for word in text.split()]
        now += len(wave) / 16_000
    soundfile.write(tmp_path / "talk.wav", np.concatenate(pieces), 16_000)
    output = tmp_path / "out.jsonl"
    cfg = TranscribeConfig(
        model=str(run / "model"), chunk_seconds=4.0, overlap_seconds=1.6, output=str(output), device="cpu"
    )
    (found,) = transcribe([str(tmp_path / "talk.wav")], cfg)
    (whole,) = transcribe([tmp_path / "talk.wav"], replace(cfg, output="", chunk_seconds=600.0))
    letters = score_utterance(" ".join(whole.text), " ".join(found.text))
    print(f"chunked against whole: {letters.errors} of {letters.N} letters differ")
    assert letters.errors <= 0.15 * letters.N
    ref = " ".join(word for word, _ in words)
    assert score_utterance(" ".join(ref), " ".join(found.text)).errors <= 0.4 * len(ref.replace(" ", ""))
    row = json.loads(output.read_text())
    assert row["text"] == found.text == " ".join(word["word"] for word in row["words"])
    assert row["error"] is None
    starts = [word["start"] for word in row["words"]]
    assert starts == sorted(starts)
    assert all(0 <= word["start"] < word["end"] <= row["duration"] and 0 < word["score"] <= 1 for word in row["words"])


def test_word_times_are_those_of_the_sounds(tmp_path: Path) -> None:
    _, run = trained()
    cfg = TranscribeConfig(model=str(run / "model"), device="cpu")
    names = [f"timed-{number}" for number in range(20)]
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", speak(make_sentence(name), name), 16_000)
    compared = 0
    for name, found in zip(names, transcribe([tmp_path / f"{name}.wav" for name in names], cfg), strict=True):
        if found.text != make_sentence(name):
            continue
        now = 0.1
        for word in found.words:
            end = now + 0.11 * len(word.word) - 0.03
            assert word.start == pytest.approx(now, abs=0.1)
            assert word.end == pytest.approx(end, abs=0.1)
            now = end + 0.18
            compared += 1
    assert compared >= 5


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model"):
        next(transcribe([], TranscribeConfig()))
    with pytest.raises(CheckpointError, match="not a model folder"):
        next(transcribe([], TranscribeConfig(model=str(tmp_path))))
    with pytest.raises(ConfigError, match="overlap_seconds"):
        next(transcribe_with(local_model(), TOKENS, [], replace(CHUNKED, overlap_seconds=3.0)))
