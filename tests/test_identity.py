import pytest

from speechssl.evaluation.identity import channel_keys, match_ids, same_name


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        ("4t0c0204", "4T0C0204"),
        ("Ünal-1", "u\u0308nal-1"),
        ("u1", "/data/dev/U1.wav"),
        ("d/u1.flac", "u1"),
        ("u.1", "U.1"),
    ],
)
def test_an_id_in_another_spelling_is_the_same_utterance(reference, other):
    assert match_ids([reference, "x"], [other], same_name) == {other: reference}


def test_equal_ids_come_first_and_doubtful_ones_are_left_alone():
    assert match_ids(["a", "A"], ["a", "A"], same_name) == {}
    assert match_ids(["a"], ["a", "A"], same_name) == {}
    assert match_ids(["a", "A"], ["á"], same_name) == {}
    assert match_ids(["u1", "U1"], ["x/u1.wav"], same_name) == {}
    assert match_ids(["u1"], ["x/u1.wav", "y/u1.wav"], same_name) == {}


def test_channels_are_matched_without_case_and_one_is_a():
    stm = [("2347", "a"), ("2347", "b"), ("talk", "A")]
    ctm = [("2347", "A"), ("2347", "B"), ("Talk.sph", "1"), ("walk", "1")]
    assert match_ids(stm, ctm, channel_keys) == dict(zip(ctm, stm, strict=False))
