"""Transcription: long recordings join without a trace, bad files stay alone, word times are right, jobs go on."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.asr.ctc import CtcModel
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.decoding.decoders import build_decoder
from speechssl.asr.recognise import frame_log_probs
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.transcribe import Recogniser, open_recogniser, transcribe, transcribe_file
from speechssl.config import (
    DecoderConfig,
    EncoderConfig,
    FrontendConfig,
    ModelConfig,
    TokensConfig,
    TranscribeConfig,
)
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import decode
from speechssl.evaluation.wer.edit_distance import score_utterance
from speechssl.models.encoder import SpeechEncoder
from tests.oracles.local import encode_whole
from tests.oracles.wordfiles import read_ctm, read_srt, read_textgrid, read_vtt
from tests.support.tones import make_sentence, speak, trained

TOKENS, _ = Tokens.build(["abcde"], TokensConfig())
CFG = TranscribeConfig(block_seconds=1.0, device="cpu")
EVERY = "text,json,jsonl,ctm,textgrid,srt,vtt"


def noisy_model() -> Recogniser:
    """A model with random weights and sharp opinions: any difference between frames shows in its words."""
    torch.manual_seed(1)
    stem = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)), norm="group")
    encoder = EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=4, norm="pre")
    made = CtcModel(SpeechEncoder(ModelConfig(frontend=stem, encoder=encoder)), TOKENS.size)
    torch.nn.init.normal_(made.head.weight, std=1.0)
    return Recogniser(made.eval(), TOKENS, build_decoder(DecoderConfig(), TOKENS))


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


def test_words_are_those_of_a_whole_file_pass(audio: Path) -> None:
    recogniser = noisy_model()
    model = recogniser.model
    for name in NAMES:
        found = transcribe_file(recogniser, audio / name, CFG)
        wave = torch.from_numpy(decode(audio / name, item=name))
        assert found.error is None
        assert found.duration == pytest.approx(len(wave) / 16_000, abs=1e-3)
        if len(wave) < model.encoder.frontend.receptive:
            assert (found.text, found.words) == ("", ())
            continue
        with torch.inference_mode():
            block = round(16_000 / model.encoder.hop)
            whole = torch.log_softmax(model.head(encode_whole(model.encoder, wave, block)), -1)
        assert found.text == greedy(whole, TOKENS)
        assert all(0 <= w.start < w.end <= found.duration + 0.02 and 0 < w.score <= 1 for w in found.words)
        assert all(one.end <= two.start for one, two in pairwise(found.words))
    assert len(transcribe_file(recogniser, audio / "long.wav", CFG).text) > 100


def test_a_file_of_two_blocks_is_read_as_in_evaluation(audio: Path) -> None:
    recogniser = noisy_model()
    wave = torch.from_numpy(decode(audio / "exact.wav", item="x"))
    (log_probs,) = frame_log_probs(recogniser.model, wave[None], torch.tensor([len(wave)]))
    found = transcribe_file(recogniser, audio / "exact.wav", replace(CFG, block_seconds=6.6))
    assert found.text == greedy(log_probs, TOKENS) != ""


def test_bad_files_give_their_reason_and_the_rest_go_on(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp3").write_text("<html></html>")
    (tmp_path / "empty.wav").touch()
    cut = (audio / "long.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(cut[: len(cut) * 2 // 3])
    names = [tmp_path / name for name in ("missing.wav", "page.mp3", "empty.wav", "cut.wav")]
    found = [transcribe_file(noisy_model(), path, CFG) for path in [*names, audio / "short.wav"]]
    reasons = [item.error and item.error.reason for item in found]
    assert reasons == ["missing_file", "not_audio", "empty_file", "truncated", None]
    assert all(item.text == "" and item.words == () for item in found if item.error)


@pytest.fixture(scope="module")
def model() -> str:
    return str(trained()[1] / "model")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, float, float]]]:
    """A minute of tones with silences, and its words with their times."""
    pieces, words, now = [], [], 0.0
    for number in range(30):
        text = make_sentence(f"talk-{number}")
        wave = speak(text, f"talk-{number}")
        start = now + 0.1
        for word in text.split():
            end = start + 0.11 * len(word) - 0.03
            words.append((word, start, end))
            start = end + 0.18
        now += len(wave) / 16_000
        pieces.append(wave)
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, np.concatenate(pieces), 16_000)
    return path, words


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_no_word_is_lost_or_doubled_in_a_long_recording(model: str, talk, tmp_path: Path, kind: str) -> None:
    """Against one pass over everything, against what was said, and with the blocks' grid elsewhere."""
    path, words = talk
    cfg = TranscribeConfig(model=model, block_seconds=2.0, decoder=DecoderConfig(kind=kind, beam=8), device="cpu")  # type: ignore[arg-type]
    recogniser = open_recogniser(cfg)
    found = transcribe_file(recogniser, path, cfg)
    wave = torch.from_numpy(decode(path, item="talk"))
    with torch.inference_mode():
        block = round(2.0 * 16_000 / recogniser.model.encoder.hop)
        whole = recogniser.model.head(encode_whole(recogniser.model.encoder, wave, block)).log_softmax(-1)
    one = recogniser.decoder(whole)
    differing = score_utterance(one.text, found.text).errors
    assert differing <= 0.005 * len(one.words), (differing, len(one.words))
    ref = " ".join(word for word, _, _ in words)
    errors = score_utterance(" ".join(ref), " ".join(found.text)).errors
    assert errors <= 0.25 * len(ref.replace(" ", ""))
    rates = []
    for shift in (0.33, 0.71, 1.3):  # seconds of silence before: every block boundary falls elsewhere
        moved = tmp_path / f"{shift}.wav"
        soundfile.write(moved, np.r_[wave.numpy()[: int(shift * 16_000)] * 0, wave.numpy()], 16_000)
        other = transcribe_file(recogniser, moved, cfg)
        rates.append(score_utterance(" ".join(ref), " ".join(other.text)).errors - errors)
        assert abs(len(other.words) - len(found.words)) <= 0.1 * len(found.words)
    assert max(rates) <= 0.05 * len(ref.replace(" ", ""))


def test_word_times_are_those_of_the_sounds(model: str, talk) -> None:
    path, words = talk
    cfg = TranscribeConfig(model=model, device="cpu")
    found = transcribe_file(open_recogniser(cfg), path, cfg).words
    said = {(word, round(start, 1)): (start, end) for word, start, end in words}
    near = 0
    for word in found:
        hits = [said.get((word.word, round(word.start + d / 10, 1))) for d in (-1, 0, 1)]
        for hit in filter(None, hits):
            assert word.start == pytest.approx(hit[0], abs=0.16)
            assert word.end == pytest.approx(hit[1], abs=0.16)
            near += 1
            break
    assert near >= 0.5 * len(words)


def test_a_folder_in_every_format(model: str, talk, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "a b"
    folder.mkdir(parents=True)
    wave = decode(talk[0], item="talk")
    soundfile.write(folder / "talk.flac", wave[:160_000], 16_000)
    soundfile.write(tmp_path / "in" / "x.ogg", wave[160_000:260_000], 16_000)
    (tmp_path / "in" / "bad.wav").write_bytes(b"RIFF")
    cfg = TranscribeConfig(model=model, output=str(tmp_path / "out"), format=EVERY, device="cpu")
    seen: list[tuple[int, int]] = []
    warned: list[str] = []
    summary = transcribe([tmp_path / "in"], cfg, warn=warned.append, advance=lambda *at: seen.append(at))
    assert (summary.done, summary.known, summary.failed) == (2, 0, 1)
    assert "2 recordings transcribed (0.3 min); 1 failed, see" in str(summary)
    assert len(warned) == 1
    assert [(e.stage, e.reason) for e in read_ledger(tmp_path / "out" / "ledger.jsonl")] == [
        ("transcribe", "not_audio")
    ]
    assert seen[-1] == (16, 16)
    assert seen == sorted(seen)
    out = tmp_path / "out" / "a b" / "talk"
    rows = [json.loads(line) for line in (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()]
    assert {row["name"] for row in rows} == {"a b/talk", "x"}
    row = json.loads(Path(f"{out}.json").read_text())
    text = Path(f"{out}.txt").read_text().strip()
    assert text == row["text"] == " ".join(word["word"] for word in row["words"])
    assert len(row["words"]) > 5
    assert [f[4] for f in read_ctm(Path(f"{out}.ctm").read_text())] == text.split()
    assert {f[0] for f in read_ctm(Path(f"{out}.ctm").read_text())} == {"a_b/talk"}
    ((_, _, end, intervals),) = read_textgrid(Path(f"{out}.TextGrid").read_text())
    assert end == pytest.approx(10.0)
    assert [word for _, _, word in intervals if word] == text.split()
    for cues in (read_srt(Path(f"{out}.srt").read_text()), read_vtt(Path(f"{out}.vtt").read_text())):
        assert " ".join(" ".join(cue.lines) for cue in cues) == text
    assert not list((tmp_path / "out").rglob("*.tmp"))

    again = transcribe([tmp_path / "in"], cfg, warn=warned.append)
    assert (again.done, again.known, again.failed) == (0, 2, 1)
    assert "2 were done before" in str(again)
    soundfile.write(tmp_path / "in" / "x.ogg", wave[260_000:300_000], 16_000)
    changed = transcribe([tmp_path / "in"], cfg, warn=warned.append)
    assert (changed.done, changed.known) == (1, 1)
    searched = replace(cfg, decoder=DecoderConfig(kind="beam", beam=4))
    assert transcribe([tmp_path / "in"], searched, warn=warned.append).done == 2


def test_standard_output(model: str, audio: Path, talk) -> None:
    said: list[str] = []
    cfg = TranscribeConfig(model=model, device="cpu")
    transcribe([talk[0], audio / "blip.wav"], cfg, say=said.append)
    assert [line.split("\t")[0] for line in said] == [str(talk[0]), str(audio / "blip.wav")]
    said.clear()
    transcribe([talk[0], audio / "blip.wav"], replace(cfg, format="jsonl"), say=said.append)
    assert [json.loads(line)["path"] for line in said] == [str(talk[0]), str(audio / "blip.wav")]
    said.clear()
    transcribe([talk[0]], replace(cfg, format="vtt"), say=said.append)
    assert len(read_vtt("".join(said) + "\n")) > 3


def test_clear_errors(model: str, audio: Path, tmp_path: Path) -> None:
    file = audio / "short.wav"
    with pytest.raises(ConfigError, match="--model"):
        transcribe([file], TranscribeConfig())
    with pytest.raises(CheckpointError, match="not a model folder"):
        transcribe([file], TranscribeConfig(model=str(tmp_path)))
    cfg = TranscribeConfig(model=model, device="cpu")
    with pytest.raises(ConfigError, match=r"block_seconds = 0\.01 is too short"):
        transcribe([file], replace(cfg, block_seconds=0.01))
    with pytest.raises(ConfigError, match=r"--format srt for 2 recording\(s\) does not fit into one stream"):
        transcribe([file, audio / "exact.wav"], replace(cfg, format="srt"))
    with pytest.raises(ConfigError, match="unknown format 'doc'"):
        transcribe([file], replace(cfg, format="doc"))


GROWTH = """
import sys
from pathlib import Path
import torch
from speechssl.asr.transcription.transcribe import open_recogniser, transcribe_file
from speechssl.config import TranscribeConfig
torch.set_num_threads(1)
cfg = TranscribeConfig(model=sys.argv[1], device="cpu")
recogniser = open_recogniser(cfg)
for name in sys.argv[2:]:
    found = transcribe_file(recogniser, Path(name), cfg)
    status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would know the parent's peak, too
    (peak,) = (int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    print(peak, round(found.duration), len(found.words))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_recording(model: str, talk, tmp_path: Path) -> None:
    wave = decode(talk[0], item="talk")
    repeats = {"minute.flac": 3, "long.flac": 60}
    for name, count in repeats.items():
        with soundfile.SoundFile(tmp_path / name, "w", 16_000, 1) as file:
            for _ in range(count):
                file.write(wave)
    command = [sys.executable, "-c", GROWTH, model, *(str(tmp_path / name) for name in repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (short, seconds, words), (long, more_seconds, more_words) = (map(int, x.split()) for x in done.stdout.splitlines())
    print(f"{seconds} s: {short} MiB; {more_seconds} s: {long} MiB")
    assert more_seconds > 15 * seconds
    assert more_words == pytest.approx(words * 60 / 3, rel=0.1)
    samples_mib = more_seconds * 16_000 * 2 / 2**20
    assert long - short < 0.8 * samples_mib  # less than the samples alone in 16 bits; the allocator's peak varies by 20
