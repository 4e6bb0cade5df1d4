"""Whether a transcript can belong to its sound, at the bounds."""

import pytest

from speechssl.config import AuditConfig
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.spectrum import Activity
from speechssl.data.audit.text_against_audio import check_pairing, rates
from speechssl.data.ingest.utterance import Utterance

LINE = "abcdefghi " * 30


def pair(name, text, speech, *, samples=None, loud=-20.0, reason=""):
    u = Utterance(name, f"{name}.wav", 1.0, 16_000, 1, text=text)
    if reason:
        return u, Measurement(reason)
    sound = Activity(loud, -70.0, 0.0, 0.0, speech, 1.0, 0)
    return u, Measurement(samples=samples or round(3 * speech * 16_000), activity=sound)


def usual(count=12):
    return [pair(f"n{i}", LINE[:30], 2.0) for i in range(count)]


def found(pairs):
    return [(f.check, f.item) for f in check_pairing(pairs, AuditConfig())]


def test_rates_count_seconds_of_sound():
    some = [pair("a", "Hello, world!", 2.0), pair("b", None, 2.0), pair("c", "...", 2.0), pair("d", "x", 0.5)]
    ((u, characters, words),) = rates(some)
    assert (u.id, characters, words) == ("a", 5.5, 1.0)


@pytest.mark.parametrize(("samples", "fits"), [(400 + 3 * 320, True), (400 + 3 * 320 - 1, False)])
def test_repeated_labels_need_a_frame_between_them(samples, fits):
    """Graves et al. 2006: "aab" has no path through three frames."""
    some = [pair("a", "aab", 1.0, samples=samples)]
    (*rest,) = check_pairing(some, AuditConfig())
    assert [(f.check, f.value, f.threshold) for f in rest] == ([] if fits else [("unalignable", 4, 3)])


def test_speech_without_text():
    assert found([pair("a", "", 1.0), pair("b", "?!", 1.0)]) == [("empty_transcript", "a"), ("empty_transcript", "b")]
    assert found([pair("a", "", 0.2), pair("b", "", 1.0, loud=-70.0), pair("c", None, 1.0)]) == []
    assert found([pair("a", "", 1.0, reason="corrupt"), pair("b", "x", 1.0, reason="corrupt")]) == []


@pytest.mark.parametrize(("length", "check"), [(90, "fast_text"), (60, None), (20, None), (8, "slow_text")])
def test_outliers(length, check):
    assert found([*usual(), pair("odd", LINE[:length].strip() or "x", 2.0)]) == ([(check, "odd")] if check else [])


def test_nobody_speaks_that_fast_whatever_the_corpus():
    quick = [pair(f"q{i}", LINE[:62], 2.0) for i in range(12)]
    assert len([c for c, _ in found(quick) if c == "fast_text"]) == 12


def test_spelled_letters_are_not_slow():
    assert found([*usual(), pair("spelled", "j o h n", 2.0)]) == []
    assert found([*usual(), pair("short", "john", 2.0)]) == [("slow_text", "short")]


def test_too_few_to_compare():
    assert found([*usual(6), pair("odd", "x", 2.0)]) == []


def test_exchanged_texts_are_put_together():
    swapped = [pair("a", LINE[:120], 2.0), pair("b", LINE[:30], 8.0)]
    told = list(check_pairing([*usual(), *swapped], AuditConfig()))
    assert [(f.check, f.item) for f in told] == [("fast_text", "a"), ("slow_text", "b"), ("mixed_up", "a")]
    assert told[-1].others == ("b",)
    unlike = [pair("a", LINE[:120], 2.0), pair("b", LINE[:30], 30.0)]
    assert "mixed_up" not in [check for check, _ in found([*usual(), *unlike])]
