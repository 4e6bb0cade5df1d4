"""The same recording twice, and what splits share."""

from speechssl.config import AuditConfig
from speechssl.data.audit.leakage import check_duplicates, check_speakers
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.spectrum import Activity
from speechssl.data.ingest.utterance import Utterance
from tests.data.audit.test_duplicates import babble, printed


def pair(name, digest, *, loud=-20.0, wave=None, path="", start=0.0, **fields):
    sound = Activity(loud, -70.0, 0.0, 0.0, 2.0, 1.0, 0)
    prints = None if wave is None else printed(wave)
    measured = Measurement(digest=digest, activity=sound, channel_db=(loud,), fingerprint=prints)
    return Utterance(name, path or f"{name}.wav", 2.0, 16_000, 1, start=start, **fields), measured


def found(*pairs):
    return [(f.check, f.item, f.others) for f in check_duplicates(pairs, AuditConfig())]


def test_the_same_samples():
    assert found(pair("a", "x"), pair("b", "y"), pair("c", "x"), pair("d", "x")) == [
        ("duplicate_audio", "c", ("a",)),
        ("duplicate_audio", "d", ("a",)),
    ]


def test_silent_and_broken_recordings_are_not_compared():
    broken = (Utterance("b", "b.wav", 1.0, 16_000, 1), Measurement("corrupt"))
    assert found(pair("a", "x", loud=-90.0), pair("c", "x", loud=-90.0), broken, broken) == []


def test_splits_and_texts_of_one_recording():
    one = pair("a", "x", split="train", text="Yes, sir.")
    assert [c for c, *_ in found(one, pair("b", "x", split="train", text="yes sir"))] == ["duplicate_audio"]
    assert [c for c, *_ in found(one, pair("b", "x", split="test"))] == ["duplicate_audio", "leaked_audio"]
    told = found(one, pair("b", "x", text="no sir"))
    assert [c for c, *_ in told] == ["duplicate_audio", "conflicting_transcripts"]


def test_a_changed_copy_in_another_split():
    wave = babble(4, 1)
    one = pair("a", "x", wave=wave, split="train", text="yes")
    told = found(one, pair("c", "z", wave=babble(4, 2)), pair("b", "y", wave=0.3 * wave, split="test", text="no"))
    assert told == [(c, "b", ("a",)) for c in ("near_duplicate", "leaked_audio", "conflicting_transcripts")]


def test_an_excerpt_may_have_another_text():
    wave = babble(6, 1)
    told = found(pair("a", "x", wave=wave, text="yes no"), pair("b", "y", wave=wave[:48_000], text="yes"))
    assert told == [("near_duplicate", "b", ("a",))]


def test_overlapping_parts_of_one_file_are_meant():
    wave = babble(5, 1)
    places = (("a", 0), ("b", 8_000))
    parts = [pair(n, n, wave=wave[at : at + 64_000], path="long.wav", start=at / 16_000) for n, at in places]
    assert found(*parts) == []
    assert found(parts[0], pair("c", "c", wave=wave[8_000:72_000])) == [("near_duplicate", "c", ("a",))]


def test_speakers_in_several_splits():
    rows = [("a", "s1", "train"), ("b", "s1", "train"), ("c", "s1", "test"), ("d", "s2", "train"), ("e", None, "test"),
            ("f", "s2", None)]  # fmt: skip
    utterances = [Utterance(n, f"{n}.wav", 1.0, 16_000, 1, speaker=s, split=p) for n, s, p in rows]
    (finding,) = check_speakers(utterances)
    assert (finding.check, finding.item, finding.others) == ("leaked_speaker", "speaker s1", ("c",))
    assert finding.detail == "1 utterances in test, 2 utterances in train"
