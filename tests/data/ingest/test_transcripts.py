import json

import pytest

from speechssl.data.ingest.transcripts import find_transcripts


@pytest.fixture
def corpus(tmp_path):
    """Return a function: {file: content} and recordings {path: seconds} -> what is said, ledger."""

    def make(files, recordings):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if not isinstance(recordings, dict):
            recordings = dict.fromkeys(recordings, 2.0)
        said, entries = find_transcripts(tmp_path, files, recordings)
        return said, [(entry.item, entry.reason, entry.action) for entry in entries]

    return make


def texts(said):
    return {path: [part.text for part in parts] for path, parts in said.items()}


def test_a_table_speaks_for_its_own_part_of_the_corpus_only(corpus):
    said, ledger = corpus({"a/m.csv": "path,text\n1.wav,one\n2.wav,two\n"}, ["a/1.wav", "b/1.wav", "b/2.wav"])
    assert texts(said) == {"a/1.wav": ["one"]}
    assert ledger == [("a/m.csv:3", "missing_audio", "rejected")]


def test_sidecars_beside_and_in_parallel_folders(corpus):
    said, ledger = corpus(
        {"a/1.txt": "one\r\nuno\n", "a/2.lab": "\ufefftwo", "a/3.normalized.txt": "three", "a/3.original.txt": "Three!",
         "txt/p1/p1_001.txt": "four", "a/5.TXT": "0 46797 five", "a/6.txt": " \n", "other/9.txt": "nine"},
        ["a/1.wav", "a/1.mp3", "a/2.wav", "a/3.wav", "wav48/p1/p1_001.wav", "a/5.wav", "a/6.wav", "b/9.wav"],
    )  # fmt: skip
    assert texts(said) == {
        "a/1.wav": ["one uno"], "a/1.mp3": ["one uno"], "a/2.wav": ["two"], "a/3.wav": ["three"],
        "wav48/p1/p1_001.wav": ["four"], "a/5.wav": ["five"],
    }  # fmt: skip
    assert said["a/1.wav"][0].group == said["a/1.mp3"][0].group != said["a/2.wav"][0].group
    assert ledger == [("a/6.txt", "empty_transcript", "dropped")]


def test_descriptions_and_aligned_labels_are_no_transcripts(corpus):
    said, ledger = corpus(
        {"1.txt": "A story\nFrom https://example.org\n", "2.lab": "0.0 1.5 sil\n1.5 2.0 a\n", "3.txt": b"caf\xe9"},
        ["1.wav", "2.wav", "3.wav"],
    )
    assert not said
    assert ledger == [
        ("1.txt", "not_a_transcript", "dropped"), ("2.lab", "not_a_transcript", "dropped"),
        ("3.txt", "unreadable_text", "rejected"),
    ]  # fmt: skip


def test_the_better_table_wins_and_contradictions_are_listed(corpus):
    said, ledger = corpus(
        {"m.jsonl": '{"audio": "1.wav", "text": "one", "gender": "f"}\n{"audio": "2.wav", "speaker": "s"}\n',
         "m.csv": "path,text,split\n1.wav,One!,train\n2.wav,two,dev\n", "1.txt": "uno", "2.txt": "Two."},
        ["1.wav", "2.wav"],
    )  # fmt: skip
    assert texts(said) == {"1.wav": ["one"], "2.wav": ["two"]}
    assert said["2.wav"][0].speaker == "s"
    assert said["1.wav"][0].meta == {"gender": "f"}
    assert said["1.wav"][0].split == "train"
    assert ledger == [("1.wav", "conflicting_transcripts", "dropped")]


def test_of_two_splits_the_one_outside_training(corpus):
    row = "client_id\tpath\tsentence\ns1\t1.mp3\tsame words\n"
    said, ledger = corpus({"train.tsv": row, "test.tsv": row, "validation.tsv": row}, ["clips/1.mp3"])
    assert said["clips/1.mp3"][0].split == "test"
    assert said["clips/1.mp3"][0].text == "same words"
    assert ledger == [("clips/1.mp3", "conflicting_splits", "repaired")]


def test_parts_of_a_recording(corpus):
    lines = [
        {"audio": "1.wav", "start": 3, "duration": 1, "text": "b"},
        {"audio": "1.wav", "start": 0, "end": 2, "text": "a"},
    ]
    said, ledger = corpus(
        {"m.jsonl": "\n".join(map(json.dumps, lines)), "1.txt": "a b", "s.csv": "path,speaker,split\n1.wav,sp,dev\n"},
        {"1.wav": 5.0},
    )
    assert [(part.span, part.text, part.speaker, part.split) for part in said["1.wav"]] == [
        ((0.0, 2.0), "a", "sp", "dev"), ((3.0, 1.0), "b", "sp", "dev"),
    ]  # fmt: skip
    assert ledger == [("1.wav", "conflicting_transcripts", "dropped")]


def test_copies_of_one_recording_share_text_and_group(corpus):
    said, ledger = corpus({"m.csv": "path,text\n1,one\n2,two\n"}, {"a/1.wav": 2.0, "b/1.mp3": 2.1, "a/2.wav": 3.0})
    assert texts(said) == {"a/1.wav": ["one"], "b/1.mp3": ["one"], "a/2.wav": ["two"]}
    assert said["a/1.wav"][0].group == said["b/1.mp3"][0].group
    assert not ledger


def test_a_folder_with_the_whole_table_wins_over_one_with_a_part(corpus):
    said, ledger = corpus({"m.csv": "path,text\n1,one\n2,two\n"}, {"a/1.wav": 2.0, "b/1.mp3": 3.0, "a/2.wav": 3.0})
    assert texts(said) == {"a/1.wav": ["one"], "b/1.mp3": [None], "a/2.wav": ["two"]}
    assert said["a/1.wav"][0].group == said["b/1.mp3"][0].group
    assert ledger == [("m.csv:2", "ambiguous_row", "repaired")]


def test_nobody_gets_a_row_that_could_be_anyones(corpus):
    said, ledger = corpus(
        {"m.csv": "path,text\n1,one\n2,two\n3,three\n"},
        {"a/1.wav": 2.0, "b/1.wav": 3.0, "a/2.wav": 3.0, "b/3.wav": 1.0},
    )
    assert texts(said) == {"a/2.wav": ["two"], "b/3.wav": ["three"]}
    assert ledger == [("m.csv:2", "ambiguous_row", "rejected")]


def test_rows_of_broken_recordings_are_not_listed_twice(corpus):
    said, ledger = corpus({"m.csv": "path,text\n1.wav,one\n"}, {"1.wav": None})
    assert texts(said) == {"1.wav": ["one"]}
    assert not ledger


def test_what_cannot_be_read_is_listed_when_it_looks_like_a_table(corpus):
    _, ledger = corpus({"m.csv": b"path,text\n1.wav,caf\xe9\n", "photo": b"\xff\xd8\xff", "n.txt": b"\xe9"}, ["1.wav"])
    assert ledger == [("m.csv", "unreadable_text", "rejected")]


@pytest.mark.shared_data
def test_transcripts_of_the_raw_folder(shared_data):
    raw = shared_data / "raw_mixed"
    files = [path.relative_to(raw).as_posix() for path in sorted(raw.rglob("*")) if path.is_file()]
    sounds = {name: 2.0 for name in files if name.endswith((".wav", ".flac", ".mp3", ".ogg", ".sph", ".webm"))}
    said, entries = find_transcripts(raw, [name for name in files if name not in sounds], sounds)
    text = {path.split("/")[-1]: parts[0].text for path, parts in said.items()}
    assert text["1272-128104-0000.wav"].startswith("MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES")
    assert text["cen2-ffmm-b.sph"] == "F R A N C E S M A R Y"
    assert "eighteen forty-four" in text["LJ001-0092.wav"]
    assert text["de_rhasspy-0148.flac"].startswith("Anton Diedrich Gütschow war")
    assert text["sense_and_sensibility_01_austen_64kb-0880.wav"] == "he was not an ill disposed young man"
    assert sum(name.startswith("an4/") for name in said) == 45
    assert sum(name.startswith("dev-clean_converted/") for name in said) == 66
    assert not [name for name in said if name.startswith(("librosa_examples", "fleursdumal", "broken", "wake words"))]
    assert {entry.reason for entry in entries} == {"missing_audio", "not_a_transcript"}
