"""Cells that do not match the header, quotation marks, separators, headers in other words, encodings."""

import pytest

from speechssl.data.ingest.transcripts import find_transcripts
from tests.support.said import said_in, texts_in

CLIPS = [f"c{n}.wav" for n in range(4)]


def test_a_quotation_mark_that_is_never_closed_swallows_no_row(tmp_path):
    csv = 'path,sentence\nc0.wav,first\nc1.wav,"broken, here\nc2.wav,third\nc3.wav,fourth"\n'
    texts, ledger = texts_in(tmp_path, {"train.csv": csv}, CLIPS)
    assert texts == {"c0.wav": "first", "c1.wav": "broken, here", "c2.wav": "third", "c3.wav": 'fourth"'}
    assert ledger == [("train.csv:3", "unclosed_quote")]


def test_a_quoted_cell_may_hold_line_ends_and_quotes(tmp_path):
    csv = 'path,sentence\nc0.wav,"two\nlines, and more"\nc1.wav,"say ""hi"""\n"c2.wav","x"\n'
    texts, ledger = texts_in(tmp_path, {"m.csv": csv}, CLIPS)
    assert texts == {"c0.wav": "two lines, and more", "c1.wav": 'say "hi"', "c2.wav": "x"}
    assert ledger == []


@pytest.mark.parametrize(("csv", "texts", "reasons"), [
    ("wav_filename,wav_filesize,transcript\nc0.wav,1,hello, world and more\nc1.wav,1,none\n",
     {"c0.wav": "hello, world and more", "c1.wav": "none"}, [("m.csv:2", "extra_cells")]),
    ("transcript,path\nhello, world,c0.wav\nnone,c1.wav\n",
     {"c0.wav": "hello, world", "c1.wav": "none"}, [("m.csv:2", "extra_cells")]),
    ("path,text,speaker\nc0.wav,hello, world,anna\nc1.wav,none,ben\n", {"c1.wav": "none"}, [("m.csv:2", "bad_row")]),
    ("path,text,speaker\nc0.wav,anna\nc1.wav,none,ben\n", {"c1.wav": "none"}, [("m.csv:2", "bad_row")]),
    ("path,text\nc0.wav,zero,,\nc1.wav,one\n", {"c0.wav": "zero", "c1.wav": "one"}, []),
    ("path,text,,\nc0.wav,zero,,\nc1.wav,one\n", {"c0.wav": "zero", "c1.wav": "one"}, []),
    ("c0.wav,hello, world\nc1.wav,plain\nc2.wav\n",
     {"c0.wav": "hello, world", "c1.wav": "plain"}, [("m.csv:3", "bad_row")]),
    ("c0.wav,anna,hello, world\nc1.wav,ben,plain\nc2.wav,ben,well\n",
     {"c0.wav": "hello, world", "c1.wav": "plain", "c2.wav": "well"}, []),
])  # fmt: skip
def test_a_text_is_whole_or_its_row_is_in_the_ledger(tmp_path, csv, texts, reasons):
    found, ledger = texts_in(tmp_path, {"m.csv": csv}, CLIPS)
    assert found == texts
    assert ledger == reasons


def test_empty_cells_at_the_end_of_a_tab_line_may_be_missing(tmp_path):
    tsv = "client_id\tpath\tsentence\tage\tgender\ns\tc0.wav\tone\t\t\ns\tc1.wav\ttwo\n"
    texts, ledger = texts_in(tmp_path, {"m.tsv": tsv}, CLIPS)
    assert texts == {"c0.wav": "one", "c1.wav": "two"}
    assert ledger == []


@pytest.mark.parametrize(("name", "content"), [
    ("m.csv", "File Name;Transcript\nc0.wav;eins\nc1.wav;zwei\n"),
    ("m.csv", "AUDIO-FILE,SENTENCE\r\nc0.wav,eins\r\nc1.wav,zwei\r\n"),
    ("m.csv", "sep=;\nfile;text\nc0.wav;eins\nc1.wav;zwei\n"),
    ("m.csv", "Datei;Transkript\nc0.wav;eins\nc1.wav;zwei\n"),
    ("m.csv", "файл,текст\nc0.wav,eins\nc1.wav,zwei\n"),
    ("m.csv", "ljud,utskrift\nc0.wav,eins\nc1.wav,zwei\n"),
    ("m.tsv", '"path"\t"text"\n"c0.wav"\t"eins"\n"c1.wav"\t"zwei"\n'),
    ("m.tsv", "path,text\nc0.wav,eins\nc1.wav,zwei\n"),
    ("list.txt", "c0.wav,eins\nc1.wav,zwei\n"),
    ("list.txt", "c0.wav;eins\nc1.wav;zwei\n"),
    ("list.txt", "c0.wav eins\nc1.wav zwei\n"),
    ("list.txt", "c0.wav: eins\nc1.wav: zwei\n"),
    ("m.csv", "path,text\nC:\\data\\c0.wav,eins\n/home/x/C1.WAV,zwei\n"),
    ("m.csv", "path,text\nfile:///data/c%30.wav,eins\nc1.wav,zwei\n"),
    ("m.csv", "# made by hand\npath,text\nc0.wav,eins\nc1.wav,zwei\n"),
    ("m.csv", "#path,text\nc0.wav,eins\nc1.wav,zwei\n"),
    ("m.csv", ",path,text\n0,c0.wav,eins\n1,c1.wav,zwei\n"),
    ("m.jsonl", '[{"path": "c0.wav", "text": "eins"},\n {"path": "c1.wav", "text": "zwei"}]'),
    ("m.csv", "path,text\nc0.wav,eins\nc1.wav,zwei\n\x1a"),
    ("m.txt", "c0.wav\teins\nc1.wav\tzwei\n\x1a"),
    ("m.csv", "path,text\nc0.wav,eins\nc1.wav,zwei\n".encode("utf-16")),
    ("m.csv", "path,text\nc0.wav,eins\nc1.wav,zwei\n".encode("utf-16-le")),
    ("m.csv", "path,text\nc0.wav,eins\nc1.wav,zwei\n".encode("utf-16-be")),
    ("m.csv", b"\xef\xbb\xbfpath,text\nc0.wav,eins\nc1.wav,zwei\n"),
    ("m.csv", "path,text\rc0.wav,eins\rc1.wav,zwei\r"),
])  # fmt: skip
def test_separators_headers_and_encodings_of_other_programs(tmp_path, name, content):
    texts, ledger = texts_in(tmp_path, {name: content}, CLIPS)
    assert texts == {"c0.wav": "eins", "c1.wav": "zwei"}
    assert ledger == []


@pytest.mark.parametrize("name", ["m.csv", "words.txt", "table"])
def test_a_table_in_latin_1_is_named_with_what_to_do(tmp_path, name):
    content = "c0.wav\tMüller\nc1.wav\tÄrger\n".encode("latin-1")
    texts, ledger = texts_in(tmp_path, {name: content}, CLIPS)
    assert texts == {}
    assert ledger == [(name, "unreadable_text")]


def test_backslashes_before_quotation_marks_are_understood(tmp_path):
    csv = 'path,text\nc0.wav,"he said \\"hi\\", and left"\nc1.wav,"plain"\n'
    texts, ledger = texts_in(tmp_path, {"m.csv": csv}, CLIPS)
    assert texts == {"c0.wav": 'he said "hi", and left', "c1.wav": "plain"}
    assert ledger == []


@pytest.mark.parametrize(("rows", "want"), [
    ("c0.wav|anna|7 3 5\nc1.wav|berta|1 2 3\nc2.wav|carl|9 9 1\n", ["7 3 5", "1 2 3", "9 9 1"]),
    ("c0.wav|anna|F R A\nc1.wav|berta|A B C\nc2.wav|carl|X Y Z\n", ["F R A", "A B C", "X Y Z"]),
    ("c0.wav|S1|\u6211 \u7231 \u4f60\nc1.wav|S2|\u4f60 \u597d\nc2.wav|S3|\u518d \u89c1\n",
     ["\u6211 \u7231 \u4f60", "\u4f60 \u597d", "\u518d \u89c1"]),
    ("c0.wav|say it|s ey1 ih0 t\nc1.wav|no it is|n ow1 ih0 t ih1 z\nc2.wav|it|ih0 t\n", ["say it", "no it is", "it"]),
    ("c0.wav|1|say it|0 1 1 0\nc1.wav|2|no no|0 1 2 0\nc2.wav|1|it is|0 2 2 0\n", ["say it", "no no", "it is"]),
])  # fmt: skip
def test_the_text_of_a_table_without_a_header_is_told_from_labels(tmp_path, rows, want):
    texts, ledger = texts_in(tmp_path, {"m.txt": rows}, CLIPS)
    assert [texts[f"c{n}.wav"] for n in range(3)] == want
    assert ledger == []


def test_paths_lead_to_a_sibling_folder_and_folders_tell_equal_names_apart(tmp_path):
    files = {
        "transcripts/m.csv": "path,text\n../audio/c0.wav,one\naudio/c1.wav,two\n",
        "t.csv": "path,text\n/old/spk1/c5.wav,three\n/old/spk2/c5.wav,four\n",
    }
    texts, ledger = texts_in(tmp_path, files, ["audio/c0.wav", "audio/c1.wav", "x/spk1/c5.wav", "x/spk2/c5.wav"])
    assert texts == {"audio/c0.wav": "one", "audio/c1.wav": "two", "x/spk1/c5.wav": "three", "x/spk2/c5.wav": "four"}
    assert ledger == []


def test_a_clip_listed_twice_with_two_texts_names_both_lines(tmp_path):
    said, ledger = said_in(tmp_path, {"m.csv": "path,text\nc0.wav,\u0915\u093f\nc0.wav,\u0915\u0940\n"}, CLIPS)
    assert said["c0.wav"][0].text == "\u0915\u093f"
    _, entries = find_transcripts(tmp_path, ["m.csv"], {"c0.wav": 2.0})
    assert "m.csv:2 '\u0915\u093f'" in entries[0].detail
    assert "m.csv:3 '\u0915\u0940'" in entries[0].detail
    assert ledger == [("c0.wav", "conflicting_transcripts")]
