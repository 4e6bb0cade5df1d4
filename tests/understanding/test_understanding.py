"""Features, probes and units from files: planted information is found where it is, and none where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechssl
from speechssl.cli.main import main
from speechssl.config import EncoderConfig, FeaturesConfig, FrontendConfig, ModelConfig, ProbeConfig, UnitsConfig
from speechssl.core.errors import ConfigError, DataError
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.reports.units_page import matrix_order, write_units_page
from speechssl.targets.files import read_unit_file
from speechssl.targets.table import UnitTable
from speechssl.understanding import features as features_module
from speechssl.understanding import probe as probe_module
from speechssl.understanding import saved as saved_module
from speechssl.understanding import units as units_module
from speechssl.understanding.alignment import (
    Interval,
    frame_labels,
    item_lines,
    make_items,
    read_alignment,
    read_items,
)
from speechssl.understanding.extractors import open_extractor
from speechssl.understanding.features import Features, write_features
from speechssl.understanding.probe import run_probe
from speechssl.understanding.recordings import open_recordings
from speechssl.understanding.saved import load_probe
from speechssl.understanding.units import make_model_units

MODEL = ModelConfig(
    frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
    encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
)
TONES = [300.0, 600.0, 1200.0, 2400.0]
LETTERS = "abcd"
WORD = 5
"""Tones of an utterance, 0.2 s each."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 utterances of 5 tones that spell a text; three speakers differ in loudness alone; one file is not audio."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows, phones = [], []
    for number in range(60):
        spelled = random.integers(0, 4, WORD)
        pitch = np.repeat(np.array(TONES)[spelled], 3_200 + 40 * (number % 5))
        gain = (0.02, 0.1, 0.5)[number % 3]
        wave = gain * np.sin(2 * np.pi * pitch.cumsum() / 16_000) + 1e-4 * random.normal(size=len(pitch))
        soundfile.write(folder / f"u{number}.wav", wave, 16_000)
        rows.append({
            "id": f"u{number}", "path": f"u{number}.wav", "duration": len(wave) / 16_000, "sample_rate": 16_000,
            "channels": 1, "text": "".join(LETTERS[tone] for tone in spelled), "speaker": f"s{number % 3}",
            "split": "train" if number < 36 else "dev" if number < 45 else "test",
            "meta": {"first": {"tone": LETTERS[spelled[0]]}},
        })  # fmt: skip
        length = len(wave) / WORD / 16_000
        phones += [f"u{number} 1 {place * length:.5f} {length:.5f} {LETTERS[t]}" for place, t in enumerate(spelled)]
    (folder / "bad.wav").write_bytes(b"RIFF not audio")
    rows.append({"id": "bad", "path": "bad.wav", "duration": 1.0, "sample_rate": 16_000, "channels": 1})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "phones.ctm").write_text("\n".join(phones) + "\n")
    torch.manual_seed(0)
    save_model(folder / "model", encoder=SpeechEncoder(MODEL))
    return folder


class Planted:
    """Three layers of noise; layer 1 also has the speaker in every frame, layer 2 the letter that is spoken."""

    name, identity, layers, hop, receptive, dim = "planted", "planted", (0, 1, 2), 320, 400, 8

    def __call__(self, waves):
        found = []
        for wave in waves:
            frames = 1 + (len(wave) - 400) // 320
            random = np.random.default_rng(len(wave) + int(1e6 * np.abs(wave).sum()))
            x = torch.from_numpy(0.3 * random.normal(size=(3, frames, 8)).astype(np.float32))
            loud = int(np.digitize(np.abs(wave).max(), [0.05, 0.3]))
            x[1, :, loud] += 1
            for frame in range(frames):
                piece = wave[frame * 320 : frame * 320 + 400]
                hertz = np.abs(np.fft.rfft(piece * np.hanning(400))).argmax() * 40
                x[2, frame, int(np.abs(np.log2(np.array(TONES) / max(hertz, 40))).argmin())] += 1
            found.append(x)
        return found


@pytest.fixture
def planted(monkeypatch):
    for module in (features_module, probe_module, saved_module, units_module):
        monkeypatch.setattr(module, "open_extractor", lambda *args, **kwargs: Planted())


def settings(corpus, output, **changes):
    quick = {
        "rates": (0.03,),
        "seeds": (1, 2),
        "steps": 40,
        "hidden": 16,
        "pool": "mean",
        "bootstrap": 200,
        "device": "cpu",
    }
    return ProbeConfig(data=str(corpus), output=str(output), **{**quick, **changes})


# ---------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_features_are_those_of_the_model_alone_and_resumed_part_by_part(corpus, tmp_path, form, monkeypatch):
    cfg = FeaturesConfig(format=form, part_seconds=20.0, batch_seconds=10.0, max_bad_fraction=0.5)
    found = write_features(str(corpus / "model"), str(corpus), tmp_path / "x", cfg)
    assert (len(found.ids), found.layers, found.info["hop"]) == (60, (0, 1, 2), 320)
    model = speechssl.load(corpus / "model", device="cpu")
    wave, rate = soundfile.read(corpus / "u7.wav", dtype="float32")
    assert torch.allclose(found["u7"], model.features(wave, rate, "all"), atol=1e-5)
    ledger = [json.loads(line) for line in (tmp_path / "x" / "ledger.jsonl").read_text().splitlines()]
    assert [(row["item"], row["stage"]) for row in ledger] == [("bad", "features")]
    # A run that was killed: features.json is not whole, and one part is missing.
    about = json.loads((tmp_path / "x" / "features.json").read_text())
    parts = about["parts"]
    assert len(parts) > 2
    (tmp_path / "x" / "features.json").write_text(json.dumps({**about, "whole": False}))
    before = {name: (tmp_path / "x" / name).read_bytes() for name in parts}
    (tmp_path / "x" / parts[1]).unlink()
    with pytest.raises(DataError, match="run `speechssl features` again"):
        Features(tmp_path / "x")
    saved = []
    save = features_module._save
    monkeypatch.setattr(features_module, "_save", lambda path, arrays: (saved.append(path.name), save(path, arrays)))
    write_features(str(corpus / "model"), str(corpus), tmp_path / "x", cfg)
    assert saved == [parts[1]]
    assert {name: (tmp_path / "x" / name).read_bytes() for name in parts} == before
    with pytest.raises(ConfigError, match="another pool"):
        write_features(str(corpus / "model"), str(corpus), tmp_path / "x", FeaturesConfig(pool="mean", format=form))


def test_pooled_features_of_chosen_layers_and_baselines(corpus, tmp_path):
    cfg = FeaturesConfig(layers=(2,), pool="mean_std", max_bad_fraction=0.5)
    found = write_features(str(corpus / "model"), str(corpus), tmp_path / "pooled", cfg)
    whole = write_features(str(corpus / "model"), str(corpus), tmp_path / "all", FeaturesConfig(max_bad_fraction=0.5))
    frames = whole["u3"][2:]
    assert torch.allclose(found["u3"], torch.cat([frames.mean(1), frames.std(1, correction=0)], 1), atol=1e-6)
    (x,) = open_extractor("logmel", stack=3)([np.ones(16_000, np.float32)])
    (y,) = open_extractor("mfcc", stack=2)([np.ones(16_000, np.float32)])
    assert (x.shape, y.shape) == ((1, 32, 240), (1, 49, 78))
    fresh, trained = (open_extractor(name + str(corpus / "model"), device="cpu") for name in ("random:", ""))
    assert fresh.identity != trained.identity == open_extractor(str(corpus / "model"), device="cpu").identity
    with pytest.raises(ConfigError, match="layers 0 to 2, not 3"):
        open_extractor(str(corpus / "model"), layers=(3,))


def test_the_samples_of_a_manifest_are_those_of_its_shards(corpus, tmp_path):
    assert main(["shard", str(corpus), str(tmp_path / "s"), "--max-bad-fraction", "0.5", "--workers", "1"]) == 0
    ours, _ = open_recordings(str(corpus), ids=["u1", "u2"])
    shards, utterances = open_recordings(str(tmp_path / "s"), ids=["u1", "u2"])
    assert utterances["u1"].meta == {"first": {"tone": utterances["u1"].text[0]}}
    for row, item in enumerate(ours.ids):
        assert np.array_equal(ours.read(row), shards.read(shards.ids.index(item)))
    with pytest.raises(DataError, match="no utterance of split other"):
        open_recordings(str(corpus), splits=["other"])


# ------------------------------------------------------------------------------------------------------ probes


@pytest.mark.usefixtures("planted")
def test_a_planted_speaker_is_found_in_its_layer_by_every_head(corpus, tmp_path):
    cfg = settings(corpus, tmp_path, heads=("linear", "mlp", "lstm", "knn"), kind="class", seeds=(1,), steps=100)
    for result in run_probe("planted", "speaker", cfg):
        assert result.error <= 0.1, result.head
        assert max(result.layers, key=result.layers.get) == 1, result.head
    text = (tmp_path / "probe.txt").read_text()
    assert "always the most frequent of 3 classes: 66.67" in text
    wave, _ = soundfile.read(corpus / "u50.wav", dtype="float32")
    for head in ("linear", "lstm", "knn"):
        assert load_probe(tmp_path / head).predict(wave) == "s2"


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("head", ["linear", "knn"])
def test_shuffled_labels_leave_chance(corpus, tmp_path, head):
    (result,) = run_probe(
        "planted", "speaker", settings(corpus, tmp_path, kind="class", heads=(head,), shuffle_labels=True)
    )
    low, high = result.interval
    assert low < 2 / 3 < high
    assert result.error > 0.3


@pytest.mark.usefixtures("planted")
def test_identification_of_known_speakers_and_verification_of_others(corpus, tmp_path):
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row["path"] = str(corpus / row["path"])
        if row["id"] != "bad":
            new = int(row["id"][1:]) % 2
            row["speaker"] += "ab"[new]
            row["split"] = "train" if not new else "test"  # three speakers to train on, three others
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for result in run_probe("planted", "speaker", settings(tmp_path, tmp_path / "out", heads=("linear", "knn"))):
        assert result.trials == 30 * 29 // 2
        assert result.error <= 0.34  # three utterances
        assert result.eer < 0.3  # chance is 0.5


@pytest.mark.usefixtures("planted")
def test_planted_letters_are_read_as_text_and_phones(corpus, tmp_path):
    cfg = settings(corpus, tmp_path / "text", heads=("linear",), steps=300, seeds=(1,), batch=8, rates=(0.1,))
    (result,) = run_probe("planted", "text", cfg)
    assert result.layers[2] > 0.8
    # Equal letters side by side are one run of frames, which a head without context cannot tell apart.
    assert result.error < 0.75  # without the letters: 1
    wave, _ = soundfile.read(corpus / "u0.wav", dtype="float32")
    said = load_probe(tmp_path / "text" / "linear").predict(wave)
    assert set(said) <= set(LETTERS)
    assert said
    cfg = settings(corpus, tmp_path / "p", heads=("linear",), seeds=(1,), alignment=str(corpus / "phones.ctm"))
    (result,) = run_probe("planted", "phones", cfg)
    assert result.error < 0.2
    assert result.layers[2] > max(result.layers[0], result.layers[1])


def test_energy_is_read_from_log_mel_and_a_nested_field_is_a_class(corpus, tmp_path):
    cfg = settings(corpus, tmp_path / "e", heads=("linear",), seeds=(1,), steps=150)
    (result,) = run_probe("logmel", "energy", cfg)
    assert result.error < 0.15
    (result,) = run_probe("logmel", "meta.first.tone", settings(corpus, tmp_path / "f", heads=("knn",)))
    assert 0 < result.error < 1


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("meta.none", {}, "fields of meta there: first"),
        ("text", {"heads": ("knn",)}, "head knn predicts one class"),
        ("phones", {}, "--alignment FILE"),
        ("an4", {"prefix": ""}, "no utterance of"),
    ],
)
def test_what_a_probe_cannot_do_is_said(corpus, tmp_path, task, changes, said):
    changes.pop("prefix", None)
    with pytest.raises((ConfigError, DataError), match=said):
        run_probe("logmel", task, settings(corpus, tmp_path, **changes))


def test_a_probe_of_another_model_is_refused(corpus, tmp_path):
    run_probe("logmel", "speaker", settings(corpus, tmp_path, kind="class", heads=("knn",)))
    with pytest.raises(ConfigError, match="is not the model"):
        load_probe(tmp_path / "knn", "mfcc")
    with pytest.raises(DataError, match="speechssl probe"):
        load_probe(tmp_path / "none")


# ------------------------------------------------------------------------------------------------------- units


@pytest.mark.usefixtures("planted")
def test_units_of_the_planted_layer_are_the_phones(corpus, tmp_path, capsys):
    ctm = str(corpus / "phones.ctm")
    cfg = UnitsConfig(layer=2, clusters=4, seeds=(1, 2), starts=3, alignment=ctm, max_bad_fraction=0.5)
    found = make_model_units("planted", str(corpus), tmp_path, cfg)
    assert len(found.quality) == 2
    assert found.quality[0]["pnmi"] > 0.8
    assert found.quality[0]["phone_purity"] > 0.9
    # Written for people, and for training: one table, the same units, and runs that cover the frames.
    lines = [json.loads(line) for line in (tmp_path / "units.jsonl").read_text().splitlines()]
    table = UnitTable.load(tmp_path / "units.npz")
    assert [line["id"] for line in lines] == [f"u{n}" for n in range(60)]
    assert read_unit_file(tmp_path / "units.jsonl").labels["u5"].tolist() == table.get("u5").tolist()
    assert [unit for unit, start, end in lines[5]["runs"] for _ in range(round((end - start) * 50))] == lines[5][
        "units"
    ]
    assert "PNMI" not in capsys.readouterr().out
    page = write_units_page(found, tmp_path).read_text()
    assert page.count("data:image/png") == 1
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    again = UnitsConfig(layer=2, kmeans=str(tmp_path / "kmeans.npz"), max_bad_fraction=0.5)
    assert make_model_units("planted", str(corpus), tmp_path / "again", again).quality[0]["seed"] is None
    assert (tmp_path / "again" / "units.jsonl").read_bytes() == (tmp_path / "units.jsonl").read_bytes()


def test_the_matrix_has_units_by_their_main_phone():
    counts = np.array([[0, 5, 0, 1], [9, 0, 0, 8]])
    phones, units = matrix_order(counts)
    assert (phones.tolist(), units.tolist()) == ([1, 0], [0, 3, 1])  # unit 2 is never used


def test_units_from_the_command_line(corpus, tmp_path, capsys):
    words = ["units", str(corpus / "model"), str(corpus), str(tmp_path / "u"), "--layer", "1", "--clusters", "5"]
    assert main([*words, "--starts", "1", "--max-bad-fraction", "0.5"]) == 0
    assert "layer 1: 5 units" in capsys.readouterr().out
    assert main([*words[:4], "--alignment", str(corpus / "manifest.jsonl")]) == 1
    assert "line 1: expected a CTM line" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- alignment


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 1
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "ab"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "a"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = ""
        intervals [3]:
            xmin = 0.5
            xmax = 1
            text = "b"
"""


def test_three_kinds_of_alignment_files_are_read(tmp_path):
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "x.TextGrid").write_text(TEXTGRID)
    grid = read_alignment(tmp_path / "grids")
    assert grid == {"x": [Interval(0, 0.25, "a"), Interval(0.5, 1, "b")]}
    assert read_alignment(tmp_path / "grids", "words") == {"x": [Interval(0, 1, "ab")]}
    (tmp_path / "x.ctm").write_text(";; a comment\nx 1 0.5 0.5 b\nx 1 0.0 0.25 a 0.9\n")
    assert read_alignment(tmp_path / "x.ctm") == grid
    three = {"x": [Interval(0, 0.1, "a"), Interval(0.1, 0.3, "b"), Interval(0.3, 0.4, "c")]}
    (tmp_path / "x.item").write_text(item_lines(make_items(three, {"x": "s1"})))
    assert read_alignment(tmp_path / "x.item") == {"x": [Interval(0.1, 0.3, "b")]}
    (item,) = read_items(tmp_path / "x.item")
    assert (item.before, item.after, item.speaker) == ("a", "c", "s1")
    assert frame_labels(grid["x"], 4, hop=4_000, receptive=4_000) == ["a", None, "b", "b"]
    Path(tmp_path / "y.item").write_text("x 0 1 a b c s\n")
    with pytest.raises(DataError, match="line 1: expected the header"):
        read_alignment(tmp_path / "y.item")
