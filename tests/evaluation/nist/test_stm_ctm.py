import pytest

from speechssl.core.errors import DataError
from speechssl.evaluation.nist.alternatives import Alternatives, Optional
from speechssl.evaluation.nist.stm_ctm import group_words, read_ctm, read_stm

STM = """;; comment
talk A ann 0.0 1.0 <o,f0> hello (uh)
talk A bob 1.5 2.5 { good / fine } morning
talk A ann 2.5 3.0 IGNORE_TIME_SEGMENT_IN_SCORING
talk A bob 3.0 4.0
talk B cat 0.0 9.0 <O> other channel
"""


def stm(tmp_path, text=STM):
    (tmp_path / "ref.stm").write_text(text)
    return read_stm(tmp_path / "ref.stm")


def words(tmp_path, *lines):
    (tmp_path / "hyp.ctm").write_text("\n".join(lines))
    return read_ctm(tmp_path / "hyp.ctm")


def spoken(grouped):
    return {id_: " ".join(item.items) for id_, item in grouped.hypotheses.items()}


def test_segments(tmp_path):
    segments = stm(tmp_path)
    first, second, ignored, empty, other = (segment.transcript for segment in segments)
    assert [segment.ignored for segment in segments] == [False, False, True, False, False]
    assert (first.id, first.speaker, first.duration, first.labels) == ("talk-A-0001", "ann", 1.0, ("o", "f0"))
    assert first.items == ("hello", Optional("uh"))
    assert second.items == (Alternatives((("good",), ("fine",))), "morning")
    assert ignored.items == empty.items == ()
    assert (other.id, other.labels) == ("talk-B-0001", ("O",))


def test_words_go_to_segments_by_their_middle(tmp_path):
    ctm = words(
        tmp_path,
        "talk A 0.00 0.2 hello 0.9",
        "talk A 0.90 0.19 um 0.5",  # middle 0.995: still the first
        "talk A 0.95 0.10 in 0.5",  # middle 1.0: the next, which begins after a gap
        "talk A 1.20 0.1 gap",
        "talk A 2.4 0.2 ignored",  # middle 2.5
        "talk A 2.9 0.3 said",
        "talk A 7.0 0.1 late",  # after the last segment
        ";; comment",
        "talk B 20 1 far 1.0",
    )
    grouped = group_words(stm(tmp_path), ctm)
    assert spoken(grouped) == {
        "talk-A-0001": "hello um",
        "talk-A-0002": "in gap",
        "talk-A-0004": "said late",
        "talk-B-0001": "far",
    }
    assert grouped.ignored_words == 1 and grouped.outside == []
    first = grouped.hypotheses["talk-A-0001"]
    assert first.times == ((0.0, 0.2), (0.9, pytest.approx(1.09)))
    assert first.confidences == (0.9, 0.5)
    assert grouped.hypotheses["talk-A-0002"].confidences == ()


def test_words_need_not_be_in_order(tmp_path):
    ctm = words(tmp_path, "talk A 1.6 0.1 b", "talk A 0.1 0.1 a")
    assert spoken(group_words(stm(tmp_path), ctm))["talk-A-0001"] == "a"


def test_other_channels_and_files_are_outside(tmp_path):
    grouped = group_words(stm(tmp_path), words(tmp_path, "talk C 0 1 x", "walk A 0 1 y", "talk A 0 1 z"))
    assert [word.channel for word in grouped.outside] == [("talk", "C"), ("walk", "A")]
    assert "talk-B-0001" not in grouped.hypotheses  # nothing of this channel: missing, not empty
    assert spoken(grouped)["talk-A-0004"] == ""


def test_alternatives_go_together_by_their_latest_middle(tmp_path):
    ctm = words(
        tmp_path,
        "talk A * * <ALT_BEGIN>",
        "talk A 0.8 0.1 a",
        "talk A * * <ALT>",
        "talk A 0.8 0.9 long",
        "talk A * * <ALT_END>",
        "talk A 1.6 0.1 (uh) NA",
    )
    grouped = group_words(stm(tmp_path), ctm)
    assert grouped.hypotheses["talk-A-0001"].items == ()
    second = grouped.hypotheses["talk-A-0002"]
    assert second.items == (Alternatives((("a",), ("long",))), Optional("uh"))
    assert second.times == second.confidences == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f A s 0\n", "line 1: fewer than the five fields"),
        (";;\nf A s 0 x words\n", "line 2: 'x' is not a time in seconds"),
        ("f A s -1 2 words\n", "'-1' is not a time"),
        ("f A s nan 2 words\n", "'nan' is not a time"),
        ("f A s 3 2 words\n", "ends at 2 s, before it starts"),
        ("f A s 0 2 { words\n", "line 1: an opening brace"),
    ],
)
def test_bad_stm_lines_are_named(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        stm(tmp_path, text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["f A 0 1"], "line 1: fewer than the five fields"),
        (["f A 0 1 a", "f A 0 x b"], "line 2: 'x' is not a time"),
        (["f A 0 1 a 7"], "confidence 7 is not between"),
        (["f A * * <ALT>"], "line 1: <ALT> without <ALT_BEGIN>"),
        (["f A * * <ALT_BEGIN>", "f A 0 1 a"], "line 1: <ALT_BEGIN> without <ALT_END>"),
        (["f A * * <ALT_BEGIN>", "f A * * <ALT_END>"], "alternatives without a word"),
    ],
)
def test_bad_ctm_lines_are_named(lines, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        words(tmp_path, *lines)
    assert "hyp.ctm" in str(caught.value)
