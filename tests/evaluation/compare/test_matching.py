import pytest

from speechssl.core.errors import DataError
from speechssl.evaluation.compare.matching import match
from speechssl.evaluation.wer.hypotheses import score_row


def rows(ids, ref="a b", **more):
    return [score_row(id_, f"{ref} {id_}", f"a {id_}", **more) for id_ in ids]


def test_rows_are_brought_into_one_order():
    matched = match({"one": rows("cab"), "two": rows("abc"), "three": rows("bca")})
    assert [[row["id"] for row in table] for table in matched.rows.values()] == [["a", "b", "c"]] * 3
    assert matched.left_out == {"one": 0, "two": 0, "three": 0} and matched.other_references == ()


def test_other_utterances_are_refused_naming_the_first():
    with pytest.raises(DataError) as error:
        match({"one": rows("abcd"), "two": rows("abd"), "three": rows("abcd")})
    said = str(error.value)
    assert "one: 4, two: 3, three: 4" in said and "1 are not in all of them" in said
    assert "'c', is in one and three but not in two" in said and "--common" in said


def test_only_the_shared_ones_when_asked():
    matched = match({"one": rows("abcd"), "two": rows("bdx")}, common=True)
    assert [row["id"] for row in matched.rows["two"]] == ["b", "d"] == [row["id"] for row in matched.meta]
    assert matched.left_out == {"one": 2, "two": 1}


def test_other_references_are_refused_showing_where_they_differ():
    left, right = rows("abc"), rows("abc")
    right[1] = score_row("b", "a long way before the words that differ: b", "a")
    left[1] = score_row("b", "a long way before the words that vary: b", "a")
    with pytest.raises(DataError) as error:
        match({"one": left, "two": right})
    said = str(error.value)
    assert "different references for 1 utterances" in said and "'b'" in said and "--common" in said
    assert "ore the words that vary: b' in one but " in said and "differ: b' in two" in said
    matched = match({"one": left, "two": right}, common=True)
    assert matched.other_references == ("b",) and matched.left_out == {"one": 1, "two": 1}
    assert [row["id"] for row in matched.meta] == ["a", "c"]


def test_nothing_in_common_is_an_error_even_then():
    with pytest.raises(DataError, match=r"the systems one and two have no utterance .* in common"):
        match({"one": rows("ab"), "two": rows("xy")}, common=True)


def test_many_systems_are_not_all_named():
    systems = {f"s{k}": rows("ab" if k else "a") for k in range(8)}
    with pytest.raises(DataError, match="is in s1, s2, s3, s4, s5 and 2 more but not in s0"):
        match(systems)


def test_what_any_system_knows_of_an_utterance_is_known():
    one = rows("a", fields={"gender": None, "source": "radio"})
    two = rows("a", speaker="s", duration=2.0, fields={"gender": "f", "source": "tv"})
    (meta,) = match({"one": one, "two": two}).meta
    assert meta == {"id": "a", "ref": "a b a", "N": 3, "speaker": "s", "duration": 2.0,
                    "fields": {"gender": "f", "source": "radio"}}  # fmt: skip
