"""Hostile files through the command line: nothing is executed, nothing is written elsewhere, nothing is expanded."""

import io
import json
import pickle
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.cli.main import main
from speechssl.config.load import write_toml
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.store.reader import open_corpus
from tests.faults.runs import config, start, wait_for
from tests.support.whole import settings, write_folder


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def owned(tmp_path):
    """The file that an attack would create; it must not be there in the end."""
    path = tmp_path / "owned"
    pickle.loads(pickle.dumps(Evil(path)))
    assert path.exists()  # the attack works where pickles are loaded
    path.unlink()
    yield path
    assert not path.exists()


def test_a_pickle_in_a_checkpoint_is_refused(owned, tone_corpus, tmp_path, capsys):
    """Fault 37: a run is not resumed from a checkpoint that would run code."""
    cfg = config("wav2vec2", tone_corpus.shards, tmp_path / "run", steps=6)
    run = start(cfg)
    wait_for(run, 6)
    run.end()
    shutil.rmtree(tmp_path / "run" / "model")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("*/state.pt"))
    assert checkpoints
    for path in checkpoints:
        torch.save({"step": 4, "state": Evil(owned)}, path)
    write_toml(cfg, tmp_path / "again.toml")
    assert main(["pretrain", str(tmp_path / "again.toml")]) == 1
    assert "checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_as_a_model_is_refused(owned, name, tmp_path, capsys):
    """Fault 37: models are safetensors and JSON; a pickle under any name is no model."""
    model = tmp_path / "model"
    model.mkdir()
    torch.save({"encoder": Evil(owned)}, model / name)
    (model / "config.json").write_text("{}", encoding="utf-8")
    soundfile.write(tmp_path / "a.wav", [0.0] * 16_000, 16_000)
    assert main(["transcribe", str(tmp_path / "a.wav"), "--model", str(model), "--device", "cpu"]) == 1
    assert main(["evaluate", "--model", str(model), "--data.shards", str(tmp_path), "--device", "cpu"]) == 1
    assert str(model) in capsys.readouterr().err


@pytest.mark.parametrize(
    "location", ["pipe:touch {}", "pipe:touch {} #.tar", "file:///x;touch {}", "$(touch {})", "`touch {}`"]
)
def test_an_address_runs_no_command(owned, location, tmp_path, monkeypatch, capsys):
    """Fault 38."""
    monkeypatch.chdir(tmp_path)
    where = location.format(owned)
    assert main(["pretrain", "--data.shards", where, "--output", str(tmp_path / "run")]) == 1
    assert main(["verify", where]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["pyd", "pkl", "pth", "pickle", "npy"])
def test_members_of_a_shard_are_never_decoded_by_their_suffix(owned, suffix, tone_corpus, tmp_path, capsys):
    """Fault 39: what webdataset would unpickle is a foreign member here, reported and not read."""
    shards = tmp_path / "shards"
    shutil.copytree(tone_corpus.shards, shards)
    tar = min(shards.glob("*.tar"))
    data = pickle.dumps(Evil(owned))
    info = tarfile.TarInfo(f"{open_corpus(shards).ids[0]}.{suffix}")
    info.size = len(data)
    with tarfile.open(tar, "a") as archive:
        archive.addfile(info, io.BytesIO(data))
    assert main(["verify", str(shards)]) == 1
    assert "foreign_member" in capsys.readouterr().out
    corpus = open_corpus(shards)
    for i in range(len(corpus)):
        corpus.read(i)


def test_names_cannot_leave_the_folder(tmp_path):
    """Fault 40: ids made of hostile names are plain, and so is every name in a shard."""
    folder = write_folder(tmp_path / "tones", {"train": 4})
    wav = folder / "train-000.wav"
    for number, name in enumerate(
        ("a..%2f..%2fevil.wav", "-rf ~.wav", "a;touch owned.wav", "con\nrow.wav", "\u202egpj.wav", "a..wav.wav")
    ):
        shutil.copy(wav, folder / name)
        (folder / name).write_bytes(wav.read_bytes()[:-2] + bytes([number + 1, 0]))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.append({"file": "../../../../etc/passwd", "text": "root"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["manifest", str(folder), str(tmp_path / "manifest"), "--workers", "1"]) == 0
    assert main(["shard", str(tmp_path / "manifest"), str(tmp_path / "shards"), "--workers", "1"]) == 0
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    found = read_manifest(tmp_path / "shards" / "manifest.jsonl")
    assert len(found) == 10
    assert all(set(utterance.id) <= plain for utterance in found)
    assert not any("passwd" in utterance.path for utterance in found)
    for tar in (tmp_path / "shards").glob("*.tar"):
        with tarfile.open(tar) as archive:
            assert all(set(name.rsplit(".", 1)[0]) <= plain for name in archive.getnames())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest", "shards", "tones"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "!!python/object/apply:pathlib.Path.touch [{}]"),
        ("b.toml", "!!python/object/apply:pathlib.Path.touch [{}]"),
        ("c.toml", "seed = \"__import__('pathlib').Path('{}').touch()\""),
        ("d.py", "open('{}', 'w')"),
    ],
)
def test_a_configuration_is_data(owned, name, text, tmp_path, capsys):
    """Fault 41: TOML, with values of the declared types, and nothing else."""
    path = tmp_path / name
    path.write_text(text.replace("{}", str(owned)), encoding="utf-8")
    assert main(["pretrain", str(path)]) == 1
    assert name in capsys.readouterr().err


def test_an_override_is_data(owned, capsys):
    """Fault 41, on the command line."""
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--seed", f"__import__('pathlib').Path('{owned}').touch()"])
    assert stop.value.code == 2
    assert "seed" in "".join(capsys.readouterr())


def test_markup_in_transcripts_and_names_stays_text(tmp_path):
    """Fault 42, the whole way: a folder whose owner writes HTML into everything."""
    folder = write_folder(tmp_path / "tones", {"train": 12, "dev": 3, "test": 3})
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    for row in rows:
        row["speaker"] = f"{attack}{row['speaker']}"
        row["text"] = f"{row.get('text', '')} {attack}"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "<img src=x onerror=alert(3)>.wav").write_bytes(b"RIFF")
    cfg = settings(tmp_path / "run", steps=2)
    write_toml(cfg, tmp_path / "run.toml")
    assert main(["run", str(folder), str(tmp_path / "run.toml")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8").lower()
    assert "<script" not in page
    assert set(re.findall(r"<img[^>]{0,40}? src=(.{12})", page)) <= {'"data:image/'}  # spectrograms, made here
    assert not re.search(r"<img\s+src=x", page)
    assert "&lt;img src=x onerror=alert(3)&gt;.wav" in page


@pytest.mark.parametrize(
    "bomb", ["{0..99999}{0..99999}{0..99999}.tar", "x-{000000..999999999}.tar", "?" * 3000, "*/" * 500 + "*"]
)
def test_braces_and_stars_are_not_expanded(bomb, tmp_path, capsys):
    """Fault 43: a location is one place, read as it is written."""
    before = peak_bytes()
    assert main(["pretrain", "--data.shards", str(tmp_path / bomb), "--output", str(tmp_path / "run")]) == 1
    assert main(["verify", str(tmp_path / bomb)]) == 1
    assert peak_bytes() - before < 300e6
    assert "error: " in capsys.readouterr().err


def peak_bytes():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
