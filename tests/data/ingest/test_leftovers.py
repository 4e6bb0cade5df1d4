"""Files that look like transcripts or audio and gave nothing are named."""

from speechssl.data.ingest.leftovers import leftovers
from tests.support.said import texts_in


def test_a_table_of_other_recordings_is_named(tmp_path):
    files = {
        "m.csv": "1,2\n3,4\n", "transcripts.txt": "nothing here\n", "x.jsonl": '{"step": 1}\n', "README.txt": "hi\n",
        "LICENSE": "free\n", "config.json": "{}", "train_manifest.json": "[]", "notes.md": "x",
    }  # fmt: skip
    texts, ledger = texts_in(tmp_path, files, ["c0.wav"])
    assert texts == {}
    assert ledger == [(n, "unused_table") for n in ("m.csv", "train_manifest.json", "transcripts.txt", "x.jsonl")]


def test_formats_that_are_not_read_are_named_with_what_to_do():
    names = ["a/1.TextGrid", "a/2.TextGrid", "b.srt", "clips.zip", "d.parquet", "h.pcm", "s.tar.gz", "x.tar", "n.xlsx",
             "other.gz", "setup.yaml", "photo.jpg", "phones.ctm"]  # fmt: skip
    found = [(entry.item, entry.reason) for entry in leftovers(names)]
    assert found == [
        ("a", "unread_annotations"), ("b.srt", "unread_annotations"), ("clips.zip", "archive"),
        ("d.parquet", "unread_table"), ("h.pcm", "headerless_audio"), ("n.xlsx", "unread_table"),
        ("s.tar.gz", "archive"), ("x.tar", "archive"),
    ]  # fmt: skip
    assert "2 .textgrid files" in next(entry.detail for entry in leftovers(names) if entry.item == "a")
