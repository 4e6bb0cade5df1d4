import json

import pytest

from speechssl.core.errors import ConfigError, DataError
from speechssl.evaluation.wer.wer import write_wer
from speechssl.reports.comparison.systems import find_systems

ROWS = [{"id": "a", "ref": "one two", "hyp": "one too"}, {"id": "b", "ref": "three", "hyp": "three"}]


def evaluation(folder, split="test"):
    write_wer(folder, ROWS, {"split": split, "decoder": "greedy"}, n=5)
    return folder


def names(*words):
    return [system.name for system in find_systems([str(word) for word in words])[0]]


def test_folders_files_and_names(tmp_path):
    one, two = evaluation(tmp_path / "x" / "greedy"), evaluation(tmp_path / "x" / "beam")
    systems, notes = find_systems([str(one), f"mine={two / 'hypotheses.jsonl'}"])
    assert [system.name for system in systems] == ["greedy", "mine"] and notes == []
    assert systems[0].info == {"split": "test", "decoder": "greedy"} == systems[1].info
    assert [row["id"] for row in systems[1].rows] == ["a", "b"] and systems[0].rows[0]["S"] == 1
    assert systems[0].path == str(one)
    assert names(one, two) == ["greedy", "beam"] == names(tmp_path / "x")[::-1]
    plain = (one / "hypotheses.jsonl").rename(tmp_path / "ours.jsonl")
    assert names(plain, two) == ["ours", "x/beam"]


def test_names_are_what_tells_paths_apart(tmp_path):
    for run in ("run1", "run2"):
        for decoder in ("greedy", "lm"):
            evaluation(tmp_path / run / "evaluate" / decoder)
    assert names(tmp_path / "run1" / "evaluate" / "lm", tmp_path / "run2" / "evaluate" / "lm") == ["run1", "run2"]
    assert names(tmp_path / "run1", tmp_path / "run2") == [
        "run1/evaluate/greedy", "run1/evaluate/lm", "run2/evaluate/greedy", "run2/evaluate/lm",
    ]  # fmt: skip


def test_the_arms_of_a_run_are_pretrained_and_scratch(tmp_path):
    for name in ("one", "two"):
        evaluation(tmp_path / name / "evaluate")
        evaluation(tmp_path / name / "evaluate-scratch")
    (tmp_path / "one" / "checkpoints").mkdir()
    evaluation(tmp_path / "one" / "sweep" / "try")  # a trial of the sweep is no system
    assert names(tmp_path / "one") == ["scratch", "pretrained"]  # the baseline comes first
    assert names(tmp_path / "one", tmp_path / "two" / "evaluate") == ["one/scratch", "one/pretrained", "two/evaluate"]
    assert names(tmp_path / "one" / "evaluate", tmp_path / "two" / "evaluate") == ["one", "two"]


def test_of_several_splits_the_test_split_is_compared(tmp_path):
    evaluation(tmp_path / "run" / "evaluate-dev", "dev")
    evaluation(tmp_path / "run" / "evaluate-test-other", "test-other")
    systems, notes = find_systems([str(tmp_path / "run"), f"b={evaluation(tmp_path / 'b')}"])
    assert [system.name for system in systems] == ["evaluate-test-other", "b"]
    assert notes == ["run was scored on several splits: 'test-other' is compared; evaluate-dev not."]
    evaluation(tmp_path / "dev" / "one", "dev")
    evaluation(tmp_path / "dev" / "two", "valid")
    assert names(tmp_path / "dev") == ["one"]  # none is called test: the first


def test_a_path_with_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation(tmp_path / "lr=3")
    evaluation(tmp_path / "b")
    assert names("lr=3", "b") == ["lr=3", "b"] and names("x=lr=3", "b") == ["x", "b"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["nowhere"], DataError, "nowhere: no such file or folder"),
        (["empty"], DataError, r"empty: no hypotheses.jsonl in it or below it; run `speechssl evaluate`"),
        (["a", "a/hypotheses.jsonl"], ConfigError, "a/hypotheses.jsonl and a are the same evaluation"),
        (["x=a", "x=b"], ConfigError, "two systems are called 'x'; give them names"),
        (["=a"], ConfigError, "expected NAME=PATH or PATH"),
        (["x="], ConfigError, "expected NAME=PATH or PATH"),
        (["x=both"], ConfigError, "one name cannot stand for 2 evaluations; name one of one, two"),
    ],
)
def test_wrong_words_are_explained(tmp_path, monkeypatch, words, error, message):
    monkeypatch.chdir(tmp_path)
    for place in ("a", "b", "both/one", "both/two"):
        evaluation(tmp_path / place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_systems(words)


def test_damaged_files_are_named(tmp_path):
    one, two = evaluation(tmp_path / "one"), evaluation(tmp_path / "two")
    (one / "wer.json").write_text("{")
    with pytest.raises(DataError, match=r"one/wer.json: not JSON"):
        find_systems([str(one), str(two)])
    (one / "wer.json").write_text(json.dumps({"info": 3}))
    assert find_systems([str(one), str(two)])[0][0].info == {}
    (one / "wer.json").unlink()
    assert find_systems([str(one), str(two)])[0][0].info == {}
    (one / "hypotheses.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="line 1: 'id' must be a string"):
        find_systems([str(one), str(two)])
