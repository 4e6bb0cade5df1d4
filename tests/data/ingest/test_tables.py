import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.ingest.rows import clean_text
from speechssl.data.ingest.tables import parse_table, read_text

KNOWN = {"a1", "a2", "a3", "a4", "wavs/a1.wav", "clips/a1.mp3", "a1.mp3", "a2.mp3", "a1.wav", "a2.wav"}


def parse(name, text):
    table, entries = parse_table(name, text, KNOWN.__contains__)
    return table, entries


def texts(name, text):
    table, entries = parse(name, text)
    assert table is not None
    assert not entries
    return {row.key: row.text for row in table.rows}


LIBRISPEECH = "a1 HELLO THERE\na2 GENERAL KENOBI\n"


@pytest.mark.parametrize(("name", "content", "want"), [
    ("x/1-2.trans.txt", LIBRISPEECH, {"a1": "HELLO THERE", "a2": "GENERAL KENOBI"}),
    ("text", LIBRISPEECH, {"a1": "HELLO THERE", "a2": "GENERAL KENOBI"}),
    ("transcripts.txt", "a1\tone two\na2\tthree\tfour\n", {"a1": "one two", "a2": "three four"}),
    ("metadata.csv", "a1|Dr. One|doctor one\na2|No. 2|number two\n", {"a1": "doctor one", "a2": "number two"}),
    ("metadata.csv", 'a1|he said "no|he said "no\na2|b|b\n', {"a1": 'he said "no', "a2": "b"}),
    ("filelist.txt", "wavs/a1.wav|12|hello there\na2|12|well\n", {"wavs/a1.wav": "hello there", "a2": "well"}),
    ("filelist.txt", "a1|hello there you|p12\na2|well then|p13\n", {"a1": "hello there you", "a2": "well then"}),
    ("x.csv", 'file,text\na1,"one, two"\na2,three\n', {"a1": "one, two", "a2": "three"}),
    ("x.csv", "file;text\r\na1;eins\r\na2;zwei\r\n", {"a1": "eins", "a2": "zwei"}),
    ("x.csv", "\ufefffile_name,transcription\na1,one\n", {"a1": "one"}),
    ("x.csv", "text,path\none,a1\ntwo,a2\n", {"a1": "one", "a2": "two"}),
    ("x.csv", "5,a1,hello there\n6,a2,well well\n", {"a1": "hello there", "a2": "well well"}),
    ("train.tsv", "client_id\tpath\tsentence\ns1\ta1.mp3\tHe said \"hi\nzz\ta2.mp3\tIt's\n",
     {"a1.mp3": 'He said "hi', "a2.mp3": "It's"}),
    ("an4.transcription", "<s> A B  C </s> (a1)\n<s> ENTER SIX </s> (a2)\n", {"a1": "A B C", "a2": "ENTER SIX"}),
    ("transcription", "<s> well <sil> read(2) ++um++ it </s> (a1)\n", {"a1": "well read it"}),
    ("an4_test.transcription", "YES (a1)\nNO (a2)\n", {"a1": "YES", "a2": "NO"}),
])  # fmt: skip
def test_tables_as_corpora_ship_them(name, content, want):
    assert texts(name, content) == want


@pytest.mark.parametrize("audio", ["audio", "path", "file", "audio_filepath", "wav", "audio_path", "file_name"])
@pytest.mark.parametrize("text", ["text", "sentence", "transcript", "transcription"])
def test_json_lines_under_any_names(audio, text):
    line = {audio: "x/a1.wav", text: "hi", "Speaker_ID": 12, "locale": "en", "subset": "dev", "age": 40, "id": "u/1"}
    table, entries = parse("m.jsonl", "\ufeff\n".strip("\ufeff") + json.dumps(line) + "\n")
    assert not entries
    (row,) = table.rows
    assert (row.key, row.text, row.speaker, row.language, row.split, row.id) == (
        "x/a1.wav",
        "hi",
        "12",
        "en",
        "dev",
        "u/1",
    )
    assert row.meta == {"age": 40}
    assert row.line == 2


def test_json_null_is_unlabelled_and_empty_is_nothing_said_but_an_empty_cell_says_nothing():
    lines = [
        {"audio": "a1"},
        {"audio": "a2", "text": None},
        {"audio": "a3", "text": ""},
        {"audio": "a4", "text": " \t"},
    ]
    table, _ = parse("m.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert [row.text for row in table.rows] == [None, None, "", ""]
    assert texts("m.csv", "path,text\na1,\na2,two\n") == {"a1": None, "a2": "two"}
    assert texts("x.trans.txt", "a1\na2 two\n") == {"a1": None, "a2": "two"}


def test_huggingface_audio_and_our_own_meta_and_parts():
    lines = [
        {"audio": {"path": "a1.wav", "bytes": None}, "text": "x", "meta": {"k": 1}, "sample_rate": 7, "channels": 9},
        {"audio_filepath": "a2.wav", "offset": 1.5, "duration": 2, "text": "y"},
        {"audio_filepath": "a2.wav", "start": 4, "end": 6.5, "text": "z"},
        {"audio_filepath": "a2.wav", "duration": 9.0, "text": "whole"},
        {"audio_filepath": "a2.wav", "start": 7, "text": "rest"},
    ]
    table, entries = parse("m.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert not entries
    assert [row.span for row in table.rows] == [None, (1.5, 2.0), (4.0, 2.5), None, (7.0, None)]
    assert table.rows[0].key == "a1.wav"
    assert table.rows[0].meta == {"k": 1}
    assert table.rows[3].meta == {}


@pytest.mark.parametrize(("line", "why"), [
    ("{nope", "Expecting"), ("[1]", "not a JSON object"), ('{"text": "no file"}', "no field names"),
    ('{"audio": 1.5}', "no field names"), ('{"audio": "a1", "text": 5}', "not a string"),
    ('{"audio": "a1", "start": "x"}', "not a number"), ('{"audio": "a1", "start": -1}', "cannot be"),
    ('{"audio": "a1", "start": NaN}', "cannot be"), ('{"audio": "a1", "start": 3, "end": 2}', "cannot be"),
    ("[" * 100_000, ""),
])  # fmt: skip
def test_bad_json_lines_are_listed_and_the_others_used(line, why):
    table, entries = parse("dir/m.jsonl", '{"audio": "a1", "text": "good"}\n' + line + '\n{"audio": "a2"}\n')
    assert [row.key for row in table.rows] == ["a1", "a2"]
    (entry,) = entries
    assert (entry.item, entry.reason) == ("dir/m.jsonl:2", "bad_row")
    assert why in entry.detail


def test_unreviewed_rows_of_common_voice_lend_their_speaker_only():
    table, entries = parse("invalidated.tsv", "client_id\tpath\tsentence\nspk\ta1.mp3\twrong words\n")
    assert [(row.key, row.text, row.speaker) for row in table.rows] == [("a1.mp3", None, "spk")]
    assert [(entry.reason, entry.action) for entry in entries] == [("unreviewed_text", "dropped")]


@pytest.mark.parametrize(("name", "split"), [
    ("train.tsv", "train"), ("an4_test.transcription", "test"), ("x/validation.csv", "validation"), ("meta.csv", None),
    ("train_dev.csv", None), ("trainer.csv", None),
])  # fmt: skip
def test_the_name_of_a_table_is_the_split_of_its_rows(name, split):
    content = "<s> YES </s> (a1)\n" if name.endswith("transcription") else "path\tsentence\na1.mp3\tyes\n"
    table, _ = parse(name, content)
    assert table.rows[0].split == split


@pytest.mark.parametrize(("name", "content"), [
    ("readme.txt", "a1 is the best file\nbut most lines\nstart with words\n"),
    ("requirements.txt", "numpy\nscipy\n"),
    ("prices.csv", "what,cost\nbread,2\n"),
    ("x.csv", "1,2\n3,4\n"),
    ("notes.txt", "sing (softly)\nsing (loudly)\n"),
    ("LICENSE", "Permission is hereby granted\n"),
    ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n'),
    ("binary", "a1 x\0y\n"),
    ("empty.csv", "\n\n"),
])  # fmt: skip
def test_what_is_no_table_is_none(name, content):
    assert parse(name, content) == (None, [])


def test_a_cell_beyond_the_limit_loses_its_own_row_only():
    table, entries = parse("x.csv", 'path,text\na1,one\na2,"' + "x" * 200_000 + "\na3,three\n")
    assert [row.key for row in table.rows] == ["a1", "a3"]
    assert [(entry.item, entry.reason) for entry in entries] == [("x.csv:3", "bad_row")]
    assert "field limit" in entries[0].detail


def test_files_are_read_in_utf8_or_marked_utf16_only(tmp_path):
    path = tmp_path / "t"
    for data in ("é\r\nb\rc".encode(), "é\r\nb\rc".encode("utf-8-sig"), "é\r\nb\rc".encode("utf-16")):
        path.write_bytes(data)
        assert read_text(path) == "é\nb\nc"
    path.write_bytes("Müller".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 at byte 1"):
        read_text(path)
    path.write_bytes(b"a1 x\0y" + bytes(10_000))
    with pytest.raises(ValueError, match="binary"):
        read_text(path)
    with path.open("wb") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(ValueError, match="larger than"):
        read_text(path)


@given(st.text())
def test_clean_text_is_stable_and_plain(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert not set(once) & set("\n\r\t\0\ufeff\u200b")
    assert once == once.strip()
    once.encode("utf-8")


def test_clean_text_by_hand():
    assert clean_text(" e\u0301te\u0301\t\u00a0x\r\n\ufeffy\u0007 ") == "été x y"
    assert clean_text("\ud800") == "?"
