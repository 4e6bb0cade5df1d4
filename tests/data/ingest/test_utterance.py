import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.ingest.utterance import ID_PATTERN, Utterance, from_row, safe_id, to_row

GOOD = {"id": "a", "path": "a.wav", "duration": 1.0, "sample_rate": 16_000, "channels": 1}


@given(st.text(min_size=1))
def test_any_name_becomes_an_id_and_an_id_stays(raw):
    name = safe_id(raw)
    assert ID_PATTERN.fullmatch(name)
    assert safe_id(name) == name


@pytest.mark.parametrize(("raw", "name"), [
    ("an4/an251-fash-b", "an4_an251-fash-b"), ("a b/c.d", "a_b_c_d"), ("../../etc/evil", "etc_evil"),
    ("caf\u00e9", "cafe"), ("cafe\u0301", "cafe"), ("a__b", "a__b"),
])  # fmt: skip
def test_ids_by_hand(raw, name):
    assert safe_id(raw) == name


def test_long_and_foreign_names_stay_apart():
    long = [safe_id("x" * 200 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) == 120 for name in long)
    assert safe_id("日本") != safe_id("語") != "_"
    assert re.fullmatch(r"u[0-9a-f]{12}", safe_id("日本"))
    with pytest.raises(ValueError, match="empty"):
        safe_id("")


@given(
    st.builds(
        Utterance, id=st.just("a"), path=st.text("abc/.", min_size=1), duration=st.floats(0.001, 1e5),
        sample_rate=st.integers(1, 10**6), channels=st.integers(1, 16), start=st.floats(0, 1e5),
        text=st.none() | st.text(st.characters(exclude_categories=["Cs"])), speaker=st.none() | st.just("s"),
        language=st.none() | st.just("en"), split=st.none() | st.just("dev"),
        meta=st.dictionaries(st.text("ab"), st.integers() | st.text("ab"), max_size=2),
    )
)  # fmt: skip
def test_rows_come_back(utterance):
    back = from_row(json.loads(json.dumps(to_row(utterance))))
    assert back.duration == pytest.approx(utterance.duration, abs=1e-6)
    assert back.start == pytest.approx(utterance.start, abs=1e-6)
    for name in ("id", "path", "sample_rate", "channels", "text", "speaker", "language", "split", "meta"):
        assert getattr(back, name) == getattr(utterance, name)


@pytest.mark.parametrize(("change", "why"), [
    ({"id": "a.b"}, "id 'a.b'"), ({"id": ""}, "id ''"), ({"id": "x" * 121}, "id 'x"), ({"id": 5}, "id 5"),
    ({"path": ""}, "path"), ({"path": None}, "path"), ({"duration": 0}, "duration"),
    ({"duration": float("nan")}, "duration"),
    ({"duration": "1"}, "duration"), ({"duration": True}, "duration"), ({"start": -0.1}, "start"),
    ({"sample_rate": 0}, "sample_rate"), ({"channels": None}, "channels"), ({"text": 5}, "text"),
    ({"meta": []}, "meta"),
    ({"gender": "f"}, "unknown field 'gender'"),
])  # fmt: skip
def test_wrong_rows_say_why(change, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        from_row(GOOD | change)
    with pytest.raises(ValueError, match="object"):
        from_row([1])
