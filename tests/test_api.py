"""The Python interface, as a notebook uses it: what it returns is what the encoder and the command line give."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

import speechssl
from speechssl.asr.ctc import CtcModel
from speechssl.asr.tokens import Tokens
from speechssl.cli.main import main
from speechssl.config import (
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    FrontendConfig,
    MaskConfig,
    ModelConfig,
    PretrainConfig,
    TokensConfig,
    TrainingConfig,
    Wav2Vec2Config,
)
from speechssl.config.load import write_toml
from speechssl.core.errors import AudioError, CheckpointError, ConfigError
from speechssl.data.audio.decode import decode
from speechssl.interop.huggingface import save_huggingface
from speechssl.interop.model_folder import load_folder, save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.training.pretrain import pretrain as train
from tests.support.tones import recipe, speak

STEM = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 8, 8)), norm="group")
ENCODER = EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=4)


def encoder_of(norm: str) -> SpeechEncoder:
    """A small encoder whose norms and dropouts would show."""
    torch.manual_seed(2)
    made = SpeechEncoder(ModelConfig(frontend=STEM, encoder=replace(ENCODER, norm=norm)))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" in name:
                value.add_(0.3 * torch.randn_like(value))
    return made.eval()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "pretrained"
    save_model(folder, encoder=encoder_of("pre"))
    return folder


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and sharp opinions: any difference between frames shows in its words."""
    folder = tmp_path_factory.mktemp("api") / "recogniser"
    tokens, _ = Tokens.build(["abcde"], TokensConfig())
    made = CtcModel(encoder_of("pre"), tokens.size)
    torch.nn.init.normal_(made.head.weight, std=1.0)
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(folder, encoder=made.encoder, extra=head, tokens=tokens)
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of tones in stereo at 44.1 kHz."""
    path = tmp_path_factory.mktemp("audio") / "stereo.flac"
    left, right = speak("abc de" * 28, "left", 44_100), speak("abc de" * 28, "right", 44_100)
    soundfile.write(path, np.stack([left, right], 1), 44_100)
    return path


@pytest.fixture
def wave() -> np.ndarray:
    return speak("abc de")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, speechssl; names = dir(speechssl); "
        "print(names, sorted({'torch', 'numpy', 'tyro', 'soundfile', 'speechssl.api'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{sorted(speechssl.__all__)} []"
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        speechssl.pretrian  # noqa: B018


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_features_are_those_of_the_encoder(norm: str, tmp_path: Path, wave: np.ndarray) -> None:
    encoder = encoder_of(norm)
    save_model(tmp_path / "model", encoder=encoder)
    model = speechssl.load(tmp_path / "model", device="cpu")
    with torch.no_grad():
        expected = encoder(torch.from_numpy(wave)[None], layers=True)
    assert torch.equal(model.features(wave, 16_000), expected.x[0])
    every = model.features(wave, 16_000, layer="all")
    assert every.shape == (3, encoder.frames(len(wave)), 32)
    assert torch.equal(every, torch.cat(expected.layers))
    for layer in range(3):
        assert torch.equal(model.features(wave, 16_000, layer=layer), every[layer])
    # Layer 0, from its parts: projection and position, and the norm of a post-norm encoder.
    with torch.no_grad():
        x = encoder.project(encoder.features(torch.from_numpy(wave)[None]))
        x = x + encoder.position(x)
        assert torch.equal(every[0], (x if norm == "pre" else encoder.norm(x))[0])
    assert torch.equal(every[-1], expected.x[0]) == (norm == "post")
    assert model.config == encoder.cfg
    assert model.hop == 320
    assert model.recogniser is None


def test_features_of_any_rate_type_and_number_of_channels(pretrained: Path, audio: Path, wave: np.ndarray) -> None:
    model = speechssl.load(str(pretrained), device="cpu")
    expected = model.features(wave, 16_000)
    for same in (
        wave.astype(np.float64),
        torch.from_numpy(wave),
        wave[None],
        torch.from_numpy(wave)[None],
        wave[::-1][::-1],
    ):
        assert torch.equal(model.features(same, 16_000), expected)
    counts = np.round(wave * 32768).astype(np.int16)
    assert torch.equal(model.features(counts, 16_000), model.features(counts / 32768, 16_000))
    samples, rate = soundfile.read(audio, dtype="float32")
    decoded = decode(audio, item="stereo")
    assert torch.equal(model.features(samples.T, rate), model.features(decoded, 16_000))
    whole = soxr.resample(samples.mean(1), rate, 16_000, quality="HQ")
    assert np.abs(whole - decoded).max() < 1e-4


def test_features_leave_the_model_as_it_was_and_can_be_learnt_from(pretrained: Path, wave: np.ndarray) -> None:
    model = speechssl.load(pretrained, device="cpu")
    expected = model.features(wave, 16_000)
    model.encoder.train()
    assert torch.equal(model.features(wave, 16_000), expected)
    assert model.encoder.training
    probe = torch.nn.Linear(32, 2)
    probe(expected).sum().backward()
    assert probe.weight.grad is not None


def test_a_waveform_that_cannot_be_used_says_why(pretrained: Path, wave: np.ndarray) -> None:
    model = speechssl.load(pretrained, device="cpu")
    for bad, rate, message in (
        (wave[:50], 16_000, r"lasts 3\.1 ms; one frame needs"),
        (np.stack([wave, wave], 1), 16_000, "channels come first"),
        (wave[None, None], 16_000, r"shape \[1, 1, "),
        ((wave * 100).astype(np.int32), 16_000, "torch.int32: give floats"),
    ):
        with pytest.raises(ValueError, match=message):
            model.features(bad, rate)
    broken = wave.copy()
    broken[7] = np.nan
    for bad, rate, reason in (
        (wave[:0], 16_000, "no_samples"),
        (broken, 16_000, "not_finite"),
        (wave * 1000, 16_000, "out_of_scale"),
        (wave, 16, "sample_rate"),
        (np.zeros((20, 400)), 16_000, "channels"),
    ):
        with pytest.raises(AudioError) as caught:
            model.features(bad, rate)
        assert caught.value.reason == reason
    for layer in (3, -1, "last"):
        with pytest.raises(ValueError, match="0 to 2, or 'all'"):
            model.features(wave, 16_000, layer=layer)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_transcripts_are_those_of_the_command_line(recogniser: Path, audio: Path, kind: str, capsys) -> None:
    options = [
        "--model",
        str(recogniser),
        "--device",
        "cpu",
        "--format",
        "json",
        "--decoder.kind",
        kind,
        "--decoder.beam",
        "4",
    ]
    assert main(["transcribe", str(audio), *options]) == 0
    expected = json.loads(capsys.readouterr().out)
    model = speechssl.load(recogniser, device="cpu")
    decoder = DecoderConfig(kind=kind, beam=4)  # type: ignore[arg-type]
    samples, rate = soundfile.read(audio, dtype="float32")
    file = model.transcribe(audio, decoder=decoder)
    assert file.path == str(audio)
    for found in (
        file,
        model.transcribe(samples.T, rate, decoder=decoder),
        model.transcribe(str(audio), decoder=decoder),
    ):
        assert found.text == expected["text"] != ""
        times = [(word.word, round(word.start, 3), round(word.end, 3)) for word in found.words]
        assert times == [(word["word"], word["start"], word["end"]) for word in expected["words"]]
    assert torch.equal(
        model.features(samples.T, rate), speechssl.load(recogniser, device="cpu").features(samples.T, rate)
    )


def test_transcribing_what_cannot_be_transcribed(recogniser: Path, pretrained: Path, tmp_path: Path, wave) -> None:
    model = speechssl.load(recogniser, device="cpu")
    with pytest.raises(AudioError) as caught:
        model.transcribe(tmp_path / "missing.wav")
    assert caught.value.reason == "missing_file"
    with pytest.raises(ValueError, match="needs sample_rate"):
        model.transcribe(wave)
    with pytest.raises(ValueError, match="leave sample_rate out"):
        model.transcribe("talk.wav", 16_000)
    assert model.transcribe(wave[:50], 16_000).text == ""
    with pytest.raises(ConfigError, match=r"without a CTC head.*speechssl\.finetune\("):
        speechssl.load(pretrained).transcribe(wave, 16_000)
    with pytest.raises(CheckpointError, match="no such folder"):
        speechssl.load(tmp_path / "nothing")


def test_a_folder_of_transformers_is_loaded_and_fine_tuned(tmp_path: Path, tone_corpus, wave: np.ndarray) -> None:
    encoder = encoder_of("post")
    save_huggingface(tmp_path / "peer", encoder)
    model = speechssl.load(tmp_path / "peer", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(model.features(wave, 16_000), encoder(torch.from_numpy(wave)[None]).x[0])
    cfg = recipe(tone_corpus.shards, tmp_path / "run", steps=2, init=str(tmp_path / "peer"))
    changes = {"training.validate_every": 0, "optim.lr": 1e-9, "ctc.freeze_frontend": True}
    tuned = speechssl.load(speechssl.finetune(cfg, changes), device="cpu")
    assert tuned.recogniser is not None
    assert tuned.config.encoder.dim == 32
    torch.testing.assert_close(tuned.features(wave, 16_000), model.features(wave, 16_000))
    info = load_folder(tmp_path / "run" / "model").info
    assert (info["init"], info["step"]) == (str(tmp_path / "peer"), 2)


def test_pretraining_is_that_of_the_command_line(tone_corpus, tmp_path: Path) -> None:
    """A dataclass, and a TOML file with overrides, give the very weights of the command line."""
    cfg = PretrainConfig(
        output=str(tmp_path / "verb"),
        data=DataConfig(shards=str(tone_corpus.shards), min_seconds=0.3, batch_seconds=6.0, buckets=3, workers=0),
        model=ModelConfig(frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2), encoder=ENCODER),
        objective=Wav2Vec2Config(mask=MaskConfig(length=4), final_dim=8, entries=8, negatives=10),
        training=TrainingConfig(steps=3, device="cpu", precision="fp32", log_every=1, save_every=3),
    )
    expected = (train(cfg) / "model.safetensors").read_bytes()
    write_toml(replace(cfg, training=replace(cfg.training, steps=50), seed=5), tmp_path / "recipe.toml")
    changes = {"output": tmp_path / "file", "training.steps": 3, "seed": 1, "objective.mask.length": 4}
    folder = speechssl.pretrain(tmp_path / "recipe.toml", changes)
    assert folder == tmp_path / "file" / "model"
    assert (folder / "model.safetensors").read_bytes() == expected
    assert (
        speechssl.pretrain(cfg, {"output": str(tmp_path / "own")}).joinpath("model.safetensors").read_bytes()
        == expected
    )
    assert speechssl.load(folder).config.encoder.dim == 32


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    for changes, message in (
        ({"optim.lrr": 1.0}, "unknown key 'optim.lrr'; did you mean 'lr'"),
        ({"optimm.lr": 1.0}, "unknown key 'optimm'"),
        ({"seed.x": 1}, "seed is a value, not a table"),
        ({"training.steps": "ten"}, "training.steps: expected int"),
        ({"optim.lr": float("nan")}, "optim.lr"),
        ({"output": str(tmp_path)}, "data.shards is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            speechssl.pretrain("tiny", changes)
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        speechssl.pretrain("tiiny")
    with pytest.raises(ConfigError, match="a FinetuneConfig, a path or a preset is needed, not a PretrainConfig"):
        speechssl.finetune(PretrainConfig())  # type: ignore[type-var]
