from speechssl.data.ingest.finder import AudioIndex, nfc, stem_of


def test_keys_by_path_name_stem_and_changed_extension():
    index = AudioIndex(["c/wavs/a.b.wav", "c/wavs/x.flac", "d/x.flac", "d/e\u0301.ogg"])
    for key in ("wavs/x.flac", "x", "x.mp3", "../../etc/wavs/x.wav", "C:\\data\\wavs\\x.wav", "/abs/wavs/x.flac"):
        assert index.find(key, "c/table.csv") == ["c/wavs/x.flac"]
    assert index.find("a.b", "c/table.csv") == ["c/wavs/a.b.wav"]
    assert index.find("x", "top.csv") == ["c/wavs/x.flac", "d/x.flac"]
    assert index.find("d/x", "top.csv") == ["d/x.flac"]
    assert index.find("/elsewhere/d/x.wav", "top.csv") == ["d/x.flac"]
    assert index.find("\u00e9", "d/t.csv") == ["d/e\u0301.ogg"]
    for nothing in ("", "..", "/", "y", "x.txt"):
        assert index.find(nothing, "top.csv") == []
    assert index.scope("c/etc/t.csv") == "c"
    assert index.scope("etc/t.csv") == "."


def test_a_key_beside_its_table_wins_over_namesakes():
    index = AudioIndex([f"s{n}/0001.wav" for n in range(50)] + ["s7/0001.flac"])
    assert index.find("0001", "s3/text") == ["s3/0001.wav"]
    assert index.find("0001.wav", "s3/text") == ["s3/0001.wav"]
    assert index.find("0001", "s7/text") == ["s7/0001.flac", "s7/0001.wav"]
    assert index.find("s9/0001", "text") == ["s9/0001.wav"]
    assert len(index.find("0001", "text")) == 51


def test_names():
    assert nfc("e\u0301") == "\u00e9"
    assert [stem_of(name) for name in ("a.wav", "a.b.wav", "a")] == ["a", "a.b", "a"]


def test_of_two_forms_of_one_name_the_one_that_was_written():
    composed, apart = "a/caf\u00e9.wav", "a/cafe\u0301.wav"
    index = AudioIndex([composed, apart])
    assert index.find("caf\u00e9.wav", "a/t.csv") == [composed]
    assert index.find("cafe\u0301.wav", "a/t.csv") == [apart]
    assert index.find("caf\u00e9", "a/t.csv") == [apart, composed]  # without its end it could be either
