import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.core.files import write_atomic
from speechssl.evaluation.wer.hypotheses import read_hypotheses, score_row, scored, write_hypotheses
from speechssl.evaluation.wer.summary import summarise

ROWS = [
    score_row("a-1", "the cat sat", "the cat", speaker="s1", duration=1.5, snr=12.0),
    score_row("a-2", "", "noise"),
    score_row("a-3", "caf\u00e9 \u2028 b\u0085c", ""),
]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "hypotheses.jsonl"
    written = write_hypotheses(path, ROWS)
    assert read_hypotheses(path) == read_hypotheses(path.parent) == written == ROWS
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert first == {
        "id": "a-1", "ref": "the cat sat", "hyp": "the cat", "speaker": "s1", "duration": 1.5, "S": 0, "D": 1, "I": 0,
        "N": 3, "wer": 1 / 3, "alignment": [["C", "the", "the"], ["C", "cat", "cat"], ["D", "sat", None]], "snr": 12.0,
    }  # fmt: skip
    assert [item.name for item in path.parent.iterdir()] == ["hypotheses.jsonl"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30), other=st.text(max_size=30))
def test_any_text_survives_the_file(tmp_path_factory, text, other):
    path = tmp_path_factory.mktemp("any") / "hypotheses.jsonl"
    assert read_hypotheses(path.parent if write_hypotheses(path, [score_row("u", text, other)]) else path) == [
        score_row("u", text, other)
    ]


def test_everything_can_be_recomputed_from_texts_alone(tmp_path):
    path = tmp_path / "hypotheses.jsonl"
    bare = [{name: row[name] for name in ("id", "ref", "hyp", "speaker", "duration")} for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in bare), encoding="utf-8")
    again = summarise(read_hypotheses(path), n=50)
    assert again == summarise(ROWS, n=50)
    assert again.wer == 5 / 6  # one deletion, one insertion without reference, three deletions, over six words


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: must be a JSON object, not list"),
        ('{"id": "x", "ref": "a"}', "line 2: 'hyp' must be a string"),
        ('{"id": 3, "ref": "a", "hyp": ""}', "line 2: 'id' must be a string"),
        ('{"id": "x", "ref": "a", "hyp": "", "speaker": 4}', "line 2: 'speaker' must be a string or null"),
        ('{"id": "x", "ref": "a", "hyp": "", "duration": "4"}', "line 2: 'duration' must be seconds"),
        ('{"id": "x", "ref": "a", "hyp": "", "duration": true}', "line 2: 'duration' must be seconds"),
        (
            '{"id": "x", "ref": "a b", "hyp": "a", "S": 0, "D": 0, "I": 0, "N": 2}',
            r"says S . D . I = 0.* give 1",
        ),
        ('{"id": "x", "ref": "a b", "hyp": "a", "N": 1}', "says N = 1, but its texts give 2"),
        ('{"id": "ok", "ref": "a", "hyp": ""}', "utterance 'ok' is there twice"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "hypotheses.jsonl"
    path.write_text('{"id": "ok", "ref": "a", "hyp": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_hypotheses(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="no such file; `speechssl evaluate` writes it"):
        read_hypotheses(tmp_path / "nothing.jsonl")
    (tmp_path / "hypotheses.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match=r"not UTF-8 .* byte 8"):
        read_hypotheses(tmp_path)


def test_an_alignment_of_equal_cost_is_accepted():
    assert scored({"id": "x", "ref": "a b", "hyp": "b", "S": 0, "D": 1, "I": 0, "N": 2})["D"] == 1


def test_writing_refuses_repeats_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "hypotheses.jsonl"
    write_hypotheses(path, ROWS[:1])
    before = path.read_bytes()
    with pytest.raises(DataError, match="twice"):
        write_hypotheses(path, [ROWS[0], ROWS[0]])
    with pytest.raises(DataError, match="row 2: 'ref'"):
        write_hypotheses(path, [ROWS[0], {"id": "u"}])
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "place").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "place", "text")  # a folder cannot be replaced by a file
    assert list((tmp_path).iterdir()) == [tmp_path / "place"]


def test_lone_surrogates_are_replaced(tmp_path):
    write_atomic(tmp_path / "text", "a\ud800b")
    assert (tmp_path / "text").read_text() == "a?b"


def test_rows_remember_the_cost_of_their_alignment(tmp_path):
    """Aligned with the weights of sclite, a row has more matches and sometimes more errors; it is read back as such."""
    row = score_row("u", "a b c d e", "d e x y z", cost="sclite")
    assert (row["cost"], row["S"], row["D"], row["I"]) == ("sclite", 0, 3, 3)
    write_hypotheses(tmp_path / "hypotheses.jsonl", [row])
    assert read_hypotheses(tmp_path) == [row]
    assert "cost" not in score_row("u", "a", "b")
    with pytest.raises(DataError, match="'cost' must be one of sclite, levenshtein, not 'cheap'"):
        write_hypotheses(tmp_path / "hypotheses.jsonl", [{**row, "cost": "cheap"}])
    with pytest.raises(DataError, match="says S \\+ D \\+ I = 6, but its texts give 5"):
        write_hypotheses(tmp_path / "hypotheses.jsonl", [{**row, "cost": "levenshtein"}])
