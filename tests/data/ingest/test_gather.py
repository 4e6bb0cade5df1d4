import pytest

from speechssl.data.audio.limits import AudioInfo
from speechssl.data.ingest.gather import drop_duplicates, gather
from speechssl.data.ingest.scan import Scan
from speechssl.data.ingest.transcripts import Said


def scan(path, seconds=2.0, pieces=(), digest=""):
    return Scan(path, AudioInfo("wav", 16_000, 2, round(seconds * 16_000), seconds), digest or path, tuple(pieces))


def build(scans, said=None, least=0.1, most=10.0):
    result = gather(scans, said or {}, min_seconds=least, max_seconds=most)
    return result, [(entry.item, entry.reason, entry.action) for entry in result.entries]


def test_what_is_known_comes_first_and_the_path_fills_in():
    said = {"b.wav": [Said(text="hi", speaker="s", language="en", split="val", id="x/b.1", group="t:1", meta={"k": 1})]}
    result, entries = build([scan("b.wav"), scan("train/1/2/1-2-3.flac")], said)
    one, two = result.utterances
    assert (one.id, one.text, one.speaker, one.language, one.split) == ("x_b_1", "hi", "s", "en", "val")
    assert one.meta == {"k": 1, "source_id": "x/b.1"}
    assert (two.id, two.speaker, two.split, two.text) == ("train_1_2_1-2-3", "1", "train", None)
    assert (two.channels, two.sample_rate, two.duration, two.start) == (2, 16_000, 2.0, 0.0)
    assert result.groups == ["t:1", "train/1/2/1-2-3.flac"]
    assert not entries


def test_ids_stay_unique_and_do_not_depend_on_order():
    names = ["a b.wav", "a_b.wav", "a_b.flac"]
    result, entries = build([scan(name) for name in names])
    ids = {u.path: u.id for u in result.utterances}
    assert ids["a b.wav"] == "a_b"
    assert len(set(ids.values())) == 3
    assert ids == {u.path: u.id for u in build([scan(name) for name in names[::-1]])[0].utterances}
    assert [reason for _, reason, _ in entries] == ["duplicate_id"] * 2


def test_short_long_and_labelled_long_recordings():
    pieces = [(0.0, 9.0), (10.0, 8.0), (19.0, 1.0)]
    result, entries = build(
        [scan("a.wav", 0.05), scan("b.wav", 20.0, pieces), scan("c.wav", 20.0, pieces), scan("d.wav", 20.0)],
        {"c.wav": [Said(text="long", speaker="s")]},
    )
    assert [(u.id, u.start, u.duration, u.text, u.speaker) for u in result.utterances] == [
        ("b-0000", 0.0, 9.0, None, None), ("b-0001", 10.0, 8.0, None, None), ("b-0002", 19.0, 1.0, None, None),
        ("c-0000", 0.0, 9.0, None, "s"), ("c-0001", 10.0, 8.0, None, "s"), ("c-0002", 19.0, 1.0, None, "s"),
    ]  # fmt: skip
    assert entries == [
        ("a.wav", "too_short", "rejected"), ("c.wav", "labelled_too_long", "repaired"), ("d.wav", "silent", "rejected"),
    ]  # fmt: skip
    assert result.dropped_seconds == pytest.approx(2.0 + 2.0 + 20.0)


def test_long_transcripts_are_kept_on_request():
    """What is without words is cut at pauses as ever."""
    pieces = [(0.0, 9.0), (10.0, 8.0)]
    scans = [scan(name, 20.0, pieces) for name in ("a.wav", "b.wav", "c.wav")]
    said = {"a.wav": [Said(text="long")], "c.wav": [Said(text="[noise]")]}
    result = gather(scans, said, min_seconds=0.1, max_seconds=10.0, long_transcripts=True)
    assert [(u.id, u.duration, u.text) for u in result.utterances] == [
        ("a", 20.0, "long"), ("b-0000", 9.0, None), ("b-0001", 8.0, None), ("c-0000", 9.0, None), ("c-0001", 8.0, None),
    ]  # fmt: skip
    assert [entry.reason for entry in result.entries] == ["only_tags"]


def test_parts():
    said = {"a.wav": [
        Said(span=(0.0, 2.0), text="one"), Said(span=(5.0, None), text="rest"), Said(span=(1.0, 12.0), text="long"),
        Said(span=(19.0, 1.04), text="end"), Said(span=(19.0, 2.0), text="past"),
        Said(span=(25.0, 1.0)), Said(span=(3.0, 0.01)),
    ]}  # fmt: skip
    result, entries = build([scan("a.wav", 20.0, [(0.0, 8.0), (8.0, 8.0), (16.0, 4.0)])], said)
    assert [(u.id, u.start, round(u.duration, 3), u.text) for u in result.utterances] == [
        ("a-0_00", 0.0, 2.0, "one"),
        ("a-5_00-0000", 5.0, 3.0, None), ("a-5_00-0001", 8.0, 8.0, None), ("a-5_00-0002", 16.0, 4.0, None),
        ("a-1_00-0000", 1.0, 7.0, None), ("a-1_00-0001", 8.0, 5.0, None),
        ("a-19_00", 19.0, 1.0, "end"),
    ]  # fmt: skip
    assert [reason for _, reason, _ in entries] == [
        "labelled_too_long", "labelled_too_long", "out_of_range", "out_of_range", "too_short",
    ]  # fmt: skip


def test_of_equal_files_the_one_that_says_most_is_kept():
    scans = [scan(name, digest="same") for name in ("a.wav", "b.wav", "c.wav", "d.wav")] + [
        scan("e.wav", digest="other")
    ]
    said = {"b.wav": [Said(split="dev")], "c.wav": [Said(text="x")], "d.wav": [Said(text="y")]}
    kept, entries = drop_duplicates(scans, said)
    assert [s.path for s in kept] == ["c.wav", "e.wav"]
    assert [(entry.item, entry.reason) for entry in entries] == [
        (n, "duplicate_audio") for n in ("a.wav", "b.wav", "d.wav")
    ]
    assert "transcript differs" in entries[2].detail
    assert all(repr(said[name][0].text) in entries[2].detail for name in (kept[0].path, entries[2].item))
    assert "transcript differs" not in entries[0].detail
    assert [s.path for s in drop_duplicates(scans[:2], {"b.wav": [Said(split="dev")]})[0]] == ["b.wav"]


def test_a_transcript_of_tags_alone_is_unlabelled_and_kept_in_meta():
    said = {"a.wav": [Said(text="<MUSIC>")], "b.wav": [Said(text="<unk> yes")], "c.wav": [Said(text="")]}
    result = gather([scan("a.wav"), scan("b.wav"), scan("c.wav")], said, min_seconds=0.1, max_seconds=10)
    assert [u.text for u in result.utterances] == [None, "<unk> yes", ""]
    assert result.utterances[0].meta == {"source_text": "<MUSIC>"}
    assert [(e.item, e.reason, e.action) for e in result.entries] == [("a.wav", "only_tags", "repaired")]
