"""``speechssl VERB --help``: what it opens with, how long it is, what it leaves to ``--help-all``."""

import re
from pathlib import Path

import pytest

from speechssl.cli.help import VERB_HELP
from speechssl.cli.main import VERBS, main
from speechssl.config.load import load_config
from speechssl.core.presets import presets

PRETRAINING = [name for name in presets() if re.match("hubert|wav2vec2|tiny", name)]
FINE_TUNING = [name for name in presets() if name.startswith("finetune")]
MOST_LINES = {"run": 200}
SHOWN = [
    *((verb, []) for verb in VERBS),
    *(("pretrain", [name]) for name in PRETRAINING),
    *(("finetune", [name]) for name in FINE_TUNING),
    *(("run", ["FOLDER", name]) for name in presets() if name.startswith("run")),
]
"""Verbs, and presets whose objective or front end have other settings."""


def shown(words, capsys):
    """Return what a command that asks for help prints, by lines."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert (code or 0, said.err) == (0, "")
    return said.out.splitlines()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(("verb", "words"), SHOWN, ids=lambda item: item if isinstance(item, str) else item[-1:])
def test_help_fits_a_few_screens(verb, words, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown([verb, *words, "--help"], capsys)
    assert len(lines) <= MOST_LINES.get(verb, 120)
    assert max(map(len, lines)) <= min(columns, 100)


@pytest.mark.parametrize("verb", VERBS)
def test_help_opens_with_what_the_verb_does_and_two_examples(verb, capsys):
    usage, empty, *rest = shown([verb, "--help"], capsys)
    assert usage.startswith(f"usage: speechssl {verb} ")
    assert empty == ""
    place = rest.index("examples:")
    assert 2 <= place <= 5
    assert " ".join(rest[: place - 1]) == VERB_HELP[verb].does
    assert rest[place + 1 : place + 3] == [f"  {example}" for example in VERB_HELP[verb].examples]
    assert all(f"speechssl {verb} " in example for example in VERB_HELP[verb].examples)
    assert shown([verb, "-h"], capsys) == [usage, empty, *rest]


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"verify", "report"}))
def test_the_settings_of_every_example_are_read(verb, monkeypatch, tmp_path):
    class Read(Exception):
        pass

    def read(*args, **kwargs):
        load_config(*args, **kwargs)
        raise Read

    monkeypatch.setattr("speechssl.config.load.load_config", read)
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("seed = 2", encoding="utf-8")
    for example in VERB_HELP[verb].examples:
        words = example.split()
        command = words[words.index("speechssl") + 1 :]
        if command == ["corpus", "list"]:
            continue
        with pytest.raises(Read):
            main(command)


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "run", "demo", "evaluate", "tune"])
def test_help_all_lists_more_and_help_says_how_much(verb, capsys):
    short, long = (shown([verb, word], capsys) for word in ("--help", "--help-all"))
    options = [sum(line.startswith("  --") for line in lines) for lines in (short, long)]
    (hidden,) = re.findall(r"--help-all also shows the (\d+) settings", " ".join(short))
    assert options[1] - options[0] == int(hidden) > 0
    assert "--help-all" not in " ".join(long)


def test_help_shows_the_objective_and_the_values_of_the_configuration(capsys):
    text = "\n".join(shown(["pretrain", "hubert-base", "--help"], capsys))
    assert "--objective.targets.clusters INT ... [100 500]" in text
    assert "--objective.negatives" not in text
    text = "\n".join(shown(["pretrain", "hubert-base", "--objective.kind", "wav2vec2", "--help"], capsys))
    assert "--objective.negatives INT [100]" in text
    assert "--objective.targets" not in text


def test_help_of_a_wrong_configuration_is_an_error(capsys):
    assert main(["pretrain", "huber-base", "--help"]) == 1
    assert "did you mean 'hubert-base'" in capsys.readouterr().err


def test_the_listing_has_every_verb_in_the_order_of_the_stages(capsys):
    lines = shown(["--help"], capsys)
    assert [line.split()[0] for line in lines if re.match("  [a-z]", line)] == list(VERBS) == list(VERB_HELP)
    assert max(map(len, lines)) <= 100
    assert "wav2vec2-base" in " ".join(lines)
