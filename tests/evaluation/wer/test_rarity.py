import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import read_hypotheses, score_row
from speechssl.evaluation.wer.rarity import (
    by_frequency,
    count_words,
    oov_rate,
    read_train_words,
    unseen_words,
    write_train_words,
)
from speechssl.evaluation.wer.summary import summarise
from speechssl.evaluation.wer.wer import write_wer

TRAIN = {"the": 500, "cat": 21, "sat": 20, "on": 6, "red": 5, "mat": 2, "once": 1}


def test_by_hand():
    rows = [
        score_row("1", "the cat sat on red mat", "the cat sad on bed mat"),  # sat, red substituted
        score_row("2", "once the zebra", "the"),  # once, zebra deleted
        score_row("3", "zebra quagga", "zebra quagga so"),  # an insertion belongs to no band
    ]
    bands = by_frequency(rows, TRAIN, n=100, seed=1)
    assert [(b.name, b.words, b.types, b.S, b.D, b.error_rate) for b in bands] == [
        ("unseen", 3, 2, 0, 1, 1 / 3), ("1", 1, 1, 0, 1, 1.0), ("2–5", 2, 2, 1, 0, 0.5), ("6–20", 2, 2, 1, 0, 0.5),
        ("21+", 3, 2, 0, 0, 0.0),
    ]  # fmt: skip
    assert all(b.ci_low <= b.error_rate <= b.ci_high for b in bands)
    assert oov_rate(rows, TRAIN) == 3 / 11
    assert unseen_words(rows, TRAIN) == (("zebra", 2, 1), ("quagga", 1, 0))


texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=6),
    train=st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 30)),
)
def test_bands_share_out_the_reference_words_and_their_errors(pairs, train):
    rows = [score_row(str(i), *pair) for i, pair in enumerate(pairs)]
    bands = by_frequency(rows, train, n=5, seed=1)
    assert sum(b.words for b in bands) == sum(r["N"] for r in rows)
    assert sum(b.S for b in bands) == sum(r["S"] for r in rows)
    assert sum(b.D for b in bands) == sum(r["D"] for r in rows)
    unseen = sum(b.words for b in bands if b.name == "unseen")
    words = sum(r["N"] for r in rows)
    assert oov_rate(rows, train) == (unseen / words if words else None)
    listed = unseen_words(rows, train)
    assert sum(n for _, n, _ in listed) == unseen
    assert sum(wrong for *_, wrong in listed) == sum(b.S + b.D for b in bands if b.name == "unseen")


def test_counting_texts():
    assert count_words(["the cat  the", "", "cafe\u0301 the"]) == {"the": 3, "café": 1, "cat": 1}


def test_the_counts_used_are_written_beside_and_give_the_report_again(tmp_path):
    rows = [score_row("1", "the cat sat", "the bat sat"), score_row("2", "zebra", "zebra")]
    report = write_wer(tmp_path, rows, n=50, train_words=TRAIN)
    assert json.loads((tmp_path / "train_words.json").read_text()) == {"cat": 21, "sat": 20, "the": 500, "zebra": 0}
    assert [b.name for b in report.by_frequency] == ["unseen", "6–20", "21+"] and report.oov_rate == 0.25
    again = summarise(read_hypotheses(tmp_path), n=50, train_words=read_train_words(tmp_path))
    assert again == report
    text = (tmp_path / "wer.txt").read_text(encoding="utf-8")
    assert "25.00 % of the reference words are not in the training text" in text and "times in training" in text
    stored = json.loads((tmp_path / "wer.json").read_text(encoding="utf-8"))
    assert stored["unseen_words"] == [["zebra", 1, 0]]
    plain = write_wer(tmp_path, rows, n=50)
    assert plain.by_frequency == () and plain.oov_rate is None
    assert not (tmp_path / "train_words.json").exists()  # counts of an earlier evaluation do not stay
    assert read_train_words(tmp_path) is None


def test_training_text_as_a_file(tmp_path):
    (tmp_path / "train.txt").write_text("the cat\nthe mat\n", encoding="utf-8")
    assert read_train_words(tmp_path / "train.txt") == {"the": 2, "cat": 1, "mat": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b'["a"]', "must be an object such as .* not list"),
        (b'{"a": -1}', "count of 'a' must be a whole number from 0 up, not -1"),
        (b'{"a": true}', "count of 'a' must be a whole number"),
        (b'{"a": 1.5}', "not 1.5"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_bad_counts_are_named(tmp_path, content, message):
    path = tmp_path / "train_words.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train_words.json: .*{message}"):
        read_train_words(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_train_words(tmp_path / "nothing.txt")


def test_counts_written_are_those_of_the_references(tmp_path):
    write_train_words(tmp_path, [score_row("1", "b a b", "c")], {"a": 3, "z": 9})
    assert (tmp_path / "train_words.json").read_text() == '{\n"a": 3,\n"b": 0\n}\n'
