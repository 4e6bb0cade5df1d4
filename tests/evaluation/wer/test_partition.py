import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import DataError
from speechssl.evaluation.wer.hypotheses import score_row
from speechssl.evaluation.wer.partition import (
    duration_partition,
    field_partitions,
    length_partition,
    partitions,
    rate_partition,
    snr_partition,
    speaker_partition,
)


def rows_of(values, name="x"):
    return [score_row(f"u{k}", "a b", "a", fields={name: value}) for k, value in enumerate(values)]


def only(values, name="x"):
    (part,), left_out = field_partitions(rows_of(values, name))
    assert left_out == {}
    return part.groups


def test_speaking_rate():
    rows = [score_row("1", "a b c", "a", duration=1.0), score_row("2", "a b c", "a", duration=2.0),
            score_row("3", "a", "a", duration=9.0), score_row("4", "", "a", duration=1.0), score_row("5", "a", "a"),
            score_row("6", "a", "a", duration=0.0)]  # fmt: skip
    part = rate_partition(rows)
    assert (part.name, part.title) == ("rate", "words per second")
    assert part.groups == (("0–1.5", (2,)), ("1.5–2", (1,)), ("3–3.5", (0,)))


def test_signal_to_noise_ratio():
    part = snr_partition(rows_of([-3, 0.0, 4.9, 5, 39.9, 71, None, float("nan"), "loud"], "snr_db"))
    assert part.groups == (
        ("< 0", (0,)), ("0–5", (1, 2)), ("5–10", (3,)), ("30–40", (4,)), ("40+", (5,)), ("(unknown)", (6, 7, 8)),
    )  # fmt: skip
    assert snr_partition(rows_of([None, None], "snr_db")).groups == ()
    assert field_partitions(rows_of([1, 2], "snr_db")) == ((), {})  # it has a table of its own


def test_length_duration_and_speaker():
    rows = [score_row(str(n), "w " * n, "w " * n, duration=n / 3, speaker="s" if n > 5 else None)
            for n in (0, 1, 2, 3, 31)]  # fmt: skip
    assert length_partition(rows).groups == (("1–2", (1, 2)), ("3–5", (3,)), ("31+", (4,)))
    assert duration_partition(rows).groups == (("0–2", (0, 1, 2, 3)), ("10–15", (4,)))
    assert speaker_partition(rows).groups == (("(unknown)", (0, 1, 2, 3)), ("s", (4,)))
    assert speaker_partition(rows[:3]).groups == ()


def test_few_values_have_a_group_each_most_frequent_first():
    assert only(["f", "m", "m", None, "m", "f", "d", "d", "d", "d"]) == (
        ("d", (6, 7, 8, 9)), ("m", (1, 2, 4)), ("f", (0, 5)), ("(unknown)", (3,)),
    )  # fmt: skip
    assert only([True, False, True, True]) == (("True", (0, 2, 3)), ("False", (1,)))
    assert only([3, 1, 10, 1, 3, 3]) == (("1", (1, 3)), ("3", (0, 4, 5)), ("10", (2,)))  # numbers in their order


def test_many_texts_give_the_most_frequent_and_the_rest():
    values = [f"v{k:02d}" for k in range(15) for _ in range(4 if k < 12 else 2)]
    groups = only(values)
    assert [name for name, _ in groups] == [*(f"v{k:02d}" for k in range(12)), "(3 others)"]
    assert groups[-1][1] == tuple(range(48, 54))


def test_many_numbers_give_quantile_bins():
    groups = only([float(k) for k in range(100)])
    assert [len(numbers) for _, numbers in groups] == [20] * 5
    assert groups[0][0] == "0–19.8" and groups[-1][0] == "79.2–99"
    tied = only([0.0] * 80 + [float(k) for k in range(1, 21)] + [None])
    assert sum(len(numbers) for _, numbers in tied) == 101 and tied[-1] == ("(unknown)", (100,))
    assert only([12_345 * k for k in range(1, 51)])[-1][0] == "496269–617250"
    year = only([1_000_000 + k for k in range(100)])
    assert year[0][0] == "1000000–1000020" and len({name for name, _ in year}) == 5


def test_fields_that_divide_nothing_are_named():
    rows = [
        score_row(str(k), "a", "a", fields={"file": f"f{k}", "language": "en", "none": None, "list": [k]})
        for k in range(20)
    ]
    found, left_out = field_partitions(rows)
    assert found == () and left_out == {
        "file": "it has 20 values in 20 utterances",
        "language": "it is the same in every utterance",
        "none": "it has no value in any utterance",
        "list": "its values are lists or objects",
    }
    assert field_partitions(rows_of(["en", None]))[0][0].groups == (("en", (0,)), ("(unknown)", (1,)))


def test_rows_need_no_fields():
    assert partitions([score_row("1", "", "a")]) == ((), {})
    names = [part.name for part in partitions(rows_of(["a", "b"], "source"))[0]]
    assert names == ["length", "source"]
    with pytest.raises(DataError, match="utterance 'u': 'fields' must be an object"):
        partitions([score_row("u", "a", "a", fields=["x"])])


values = st.one_of(st.none(), st.booleans(), st.integers(-5, 40), st.floats(-3, 3), st.sampled_from(["a", "b", ""]))


@settings(max_examples=150, deadline=None)
@given(values=st.lists(values, min_size=1, max_size=60))
def test_every_utterance_is_in_exactly_one_group(values):
    for part in partitions(rows_of(values))[0]:
        if part.name == "length":
            continue
        numbers = [number for _, group in part.groups for number in group]
        assert sorted(numbers) == list(range(len(values)))
        assert all(group for _, group in part.groups)
        assert len({name for name, _ in part.groups}) == len(part.groups)
