"""The recipes' facts hang together; names and parts are found; what people see on the command line."""

import subprocess
import sys

import pytest

from speechssl.cli.main import main
from speechssl.core.errors import ConfigError
from speechssl.data.ingest.public.recipes import RECIPES, find_recipe
from tests.support.trees import plant


def test_names_are_unique_and_found_as_people_write_them():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    for written in ("LibriSpeech", "speech_commands", "SpeechCommands", "common-voice", "commonvoice"):
        assert find_recipe(written).name in ("librispeech", "speech-commands", "common-voice")
    with pytest.raises(ConfigError, match="did you mean 'librispeech'"):
        find_recipe("librispech")
    with pytest.raises(ConfigError, match=r"known: librispeech, .*any other folder: `speechssl manifest`"):
        find_recipe("switchboard")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_facts(recipe):
    assert recipe.page.startswith("https://")
    assert len({part.name for part in recipe.parts}) == len(recipe.parts)
    assert set(recipe.default) <= {part.name for part in recipe.parts}
    assert recipe.choose(("all",)) == recipe.parts
    assert recipe.choose(()) == tuple(p for p in recipe.parts if p.name in recipe.default) or not recipe.default
    for archive in recipe.archives:
        assert archive.url.startswith(("http://", "https://"))
        assert not archive.into or archive.creates == archive.into


def test_the_hours_of_librispeech_are_those_of_its_parts():
    recipe = find_recipe("librispeech")
    assert sum(part.hours for part in recipe.parts) == pytest.approx(float(recipe.hours), abs=0.5)
    recipe = find_recipe("libritts")
    assert sum(part.hours for part in recipe.parts) == pytest.approx(float(recipe.hours), abs=1)


def test_the_list(capsys):
    assert main(["corpus", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for recipe in RECIPES:
        (line,) = [line for line in lines if line.startswith(f"{recipe.name} ")]
        assert recipe.page in line
        assert ("--download" in line) == bool(recipe.archives)
        assert recipe.licence in line
    assert max(map(len, lines)) < 150


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_one_corpus_and_its_parts(recipe, capsys):
    assert main(["corpus", recipe.name]) == 0
    text = capsys.readouterr().out
    for part in recipe.parts:
        assert f"\n{part.name}" in text
    assert recipe.example in text
    assert f"speechssl corpus {recipe.name} FOLDER" in text


@pytest.mark.parametrize(("words", "message"), [
    (["corpus", "librispech"], "did you mean 'librispeech'"),
    (["corpus"], "usage: speechssl corpus list|NAME [FOLDER [CONFIG]]"),
    (["corpus", "librispeech", "nowhere"], "nowhere: no such folder; give the folder of LibriSpeech; --download"),
    (["corpus", "mls", "nowhere", "--download"], "mls cannot be downloaded"),
    (["corpus", "librispeech", ".", "--subset", "dev"], "librispeech has no subset 'dev'"),
    (["corpus", "librispeech", "."], "no recording of LibriSpeech"),
])  # fmt: skip
def test_wrong_use_is_explained(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_one_command_from_folder_to_shards(tmp_path):
    """As people type it; what it writes is what `speechssl shard` takes."""
    files: dict[str, str | float] = {}
    for n, part in enumerate(["dev-clean", "test-clean"], 40):
        base = f"LibriSpeech/{part}/{n}/7/{n}-7"
        files |= {f"{base}-0000.flac": 0.5 + n / 100, f"{base}.trans.txt": f"{n}-7-0000 WORDS\n"}
    root = plant(tmp_path / "data", files)

    def call(*words):
        return subprocess.run([sys.executable, "-m", "speechssl", *words], capture_output=True, text=True, check=False)

    words = ["corpus", "librispeech", str(root), "--subset", "dev-clean", "test-clean", "--manifest.workers", "1"]
    done = call(*words)
    assert done.returncode == 0, done.stderr
    assert "2 utterances" in done.stdout
    assert "in the ledger: 2 incomplete_subset" in done.stdout
    assert (root / "manifest" / "config.toml").exists()
    done = call("shard", str(root / "manifest"), str(tmp_path / "shards"), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert call(*words).returncode == 0  # its own output in the folder is no part of the corpus
