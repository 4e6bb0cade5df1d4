"""Tables of the field's toolkits, each as its own scripts write them, with paths of another machine."""

import json

import pytest

from tests.support.said import said_in, texts_in

CLIPS = [f"audio/c{n}.wav" for n in range(3)]
SEGMENTS = "s1-r1-0 r1 0.0 0.8\ns1-r1-1 r1 0.8 -1\ns2-r2-0 r2 0.2 1.5\n"
TEXT = "s1-r1-0 CLOSED THE DOOR\ns1-r1-1 AND RETURNED\ns2-r2-0 SHE HANDED HIM\n"
KALDI = {
    "data/train/wav.scp": "r1 /elsewhere/audio/r1.wav\nr2 audio/r2.wav\n",
    "data/train/segments": SEGMENTS,
    "data/train/text": TEXT,
    "data/train/utt2spk": "s1-r1-0 s1\ns1-r1-1 s1\ns2-r2-0 s2\n",
    "data/train/spk2utt": "s1 s1-r1-0 s1-r1-1\ns2 s2-r2-0\n",
    "data/train/reco2dur": "r1 1.6\nr2 1.6\n",
}


def parts(said):
    return [(p.id, p.span, p.text, p.speaker, p.split) for path in sorted(said) for p in said[path]]


def test_kaldi_segments_give_times_texts_and_speakers(tmp_path):
    said, ledger = said_in(tmp_path, KALDI, ["audio/r1.wav", "audio/r2.wav"])
    assert parts(said) == [
        ("s1-r1-0", (0.0, 0.8), "CLOSED THE DOOR", "s1", "train"),
        ("s1-r1-1", (0.8, None), "AND RETURNED", "s1", "train"),
        ("s2-r2-0", (0.2, 1.3), "SHE HANDED HIM", "s2", "train"),
    ]
    assert ledger == []


def test_kaldi_without_segments_names_whole_recordings(tmp_path):
    files = {"wav.scp": "u1 a/one.wav\nu2 a/my two.wav\n", "text": "u1 eins\nu2\tzwei\n", "utt2spk": "u1 u1\nu2 u2\n"}
    said, ledger = said_in(tmp_path, files, ["a/one.wav", "a/my two.wav"])
    assert parts(said) == [("u2", None, "zwei", None, None), ("u1", None, "eins", None, None)]
    assert ledger == []


def test_utt2spk_is_never_taken_for_transcripts(tmp_path):
    said, ledger = said_in(tmp_path, {"utt2spk": "c0 anna\nc1 anna\nc2 ben\n", "text": "c0 a\nc1 b\nc2 c\n"}, CLIPS)
    assert [(p.text, p.speaker) for path in CLIPS for p in said[path]] == [("a", "anna"), ("b", "anna"), ("c", "ben")]
    assert ledger == []


def test_spk2utt_names_speakers_where_utt2spk_is_missing(tmp_path):
    files = {"wav.scp": "u0 c0.wav\nu1 c1.wav\n", "text": "u0 a\nu1 b\n", "spk2utt": "anna u0\nben u1\n"}
    said, ledger = said_in(tmp_path, files, CLIPS)
    assert [(p.text, p.speaker) for path in CLIPS[:2] for p in said[path]] == [("a", "anna"), ("b", "ben")]
    assert ledger == []


def test_files_of_an_espnet_folder_are_no_transcripts_and_a_pipe_names_the_text_it_costs(tmp_path):
    files = {
        "dump/test/wav.scp": "c0 dump/c0.wav\nc1 dump/c1.wav\nc2 flac -c -d -s /x/c2.flac |\n",
        "dump/test/text": "c0 A\nc1 B\nc2 C\n",
        "dump/test/utt2num_samples": "c0 100\nc1 200\nc2 300\n",
        "dump/test/rec2dur": "c0 1\n",
    }
    said, ledger = said_in(tmp_path, files, CLIPS)
    assert [(path, p.text, p.split) for path in sorted(said) for p in said[path]] == [
        ("audio/c0.wav", "A", "test"), ("audio/c1.wav", "B", "test"),
    ]  # fmt: skip
    assert ledger == [("dump/test/wav.scp:3", "piped_audio"), ("dump/test/text:3", "piped_audio")]


def test_speechbrain_parts_in_samples_of_an_unknown_rate_are_bad_rows(tmp_path):
    item = {"u": {"wav": {"file": "{root}/c0.wav", "start": 8000, "stop": 24000}, "words": "hi"}}
    said, ledger = said_in(tmp_path, {"t.json": json.dumps(item)}, CLIPS)
    assert said == {}
    assert ledger == [("t.json:1", "bad_row")]


def test_lhotse_supervisions_name_parts_of_recordings(tmp_path):
    line = {"id": "s0", "recording_id": "c0", "start": 0.5, "duration": 1.0, "channel": 0, "text": "hi", "speaker": "x"}
    said, ledger = said_in(tmp_path, {"supervisions.jsonl": json.dumps(line), "cuts.jsonl.gz": "x"}, CLIPS)
    assert [(p.id, p.span, p.text, p.speaker) for p in said["audio/c0.wav"]] == [("s0", (0.5, 1.0), "hi", "x")]
    assert ledger == [("cuts.jsonl.gz", "archive")]


def test_what_kaldi_lines_cannot_give_is_named(tmp_path):
    files = {
        "wav.scp": "r1 audio/c0.wav\nr2 sph2pipe -f wav /x/r2.sph |\nr3 raw.ark:17\nr1 audio/c1.wav\n",
        "segments": "u1 r1 0 1\nu2 r2 0 1\nu3 r9 0 1\nu4 r1 5 4\n",
        "text": "u1 one\nu1 other\nu2 two\nu9 nine\n",
    }
    said, ledger = said_in(tmp_path, files, CLIPS)
    assert parts(said) == [("u1", (0.0, 1.0), "one", None, None)]
    assert sorted(ledger) == [
        ("segments:2", "piped_audio"), ("segments:3", "missing_audio"), ("segments:4", "bad_row"),
        ("text:2", "conflicting_transcripts"), ("text:3", "missing_audio"), ("text:4", "missing_audio"),
        ("wav.scp:2", "piped_audio"), ("wav.scp:3", "bad_row"), ("wav.scp:4", "bad_row"),
    ]  # fmt: skip


def test_kaldi_recordings_that_are_not_there_are_listed(tmp_path):
    said, ledger = said_in(tmp_path, {"wav.scp": "r1 gone.wav\nr2 c1.wav\n", "text": "r1 a\nr2 b\n"}, CLIPS)
    assert parts(said) == [("r2", None, "b", None, None)]
    assert ledger == [("wav.scp:1", "missing_audio")]


FAIRSEQ = "/data/audio\n" + "".join(f"c{n}.wav\t32000\n" for n in range(3))
LETTERS = "O N E |\nT W O | T W O |\nI T ' S |\n"


@pytest.mark.parametrize("labels", [
    {"valid.wrd": "ONE\nTWO TWO\nIT'S\n", "valid.ltr": LETTERS}, {"valid.ltr": LETTERS},
])  # fmt: skip
def test_fairseq_labels_belong_to_the_lines_of_their_manifest(tmp_path, labels):
    said, ledger = said_in(tmp_path, {"valid.tsv": FAIRSEQ, **labels}, CLIPS)
    assert [(p.text, p.split) for path in CLIPS for p in said[path]] == [
        ("ONE", "valid"), ("TWO TWO", "valid"), ("IT'S", "valid"),
    ]  # fmt: skip
    assert ledger == []


def test_a_fairseq_manifest_without_labels_gives_splits_and_no_frame_counts(tmp_path):
    said, ledger = said_in(tmp_path, {"train.tsv": FAIRSEQ}, CLIPS)
    assert [(p.text, p.split, p.meta) for path in CLIPS for p in said[path]] == [(None, "train", {})] * 3
    assert ledger == []


def test_fairseq_labels_of_another_length_are_refused(tmp_path):
    said, ledger = said_in(tmp_path, {"train.tsv": FAIRSEQ, "train.wrd": "ONE\nTWO\n"}, CLIPS)
    assert [p.text for path in CLIPS for p in said[path]] == [None] * 3
    assert ledger == [("train.wrd", "label_mismatch")]


def each(line):
    """Return the line with N and WORD of every recording in it."""
    return "".join(line.replace("N", str(n)).replace("WORD", word) + "\n" for n, word in enumerate(WORDS))


WANT = {"audio/c0.wav": "one", "audio/c1.wav": "two", "audio/c2.wav": "three"}
WORDS = ("one", "two", "three")
NEMO = "".join(
    json.dumps({"audio_filepath": f"/data/c{n}.wav", "duration": 0.7, "text": w}) + "\n" for n, w in enumerate(WORDS)
)
SPEECHBRAIN = {f"u{n}": {"wav": f"{{data_root}}/c{n}.wav", "length": 0.7, "words": w} for n, w in enumerate(WORDS)}
ESPNET = {"utts": {f"c{n}": {"input": [], "output": [{"text": w}], "utt2spk": "s"} for n, w in enumerate(WORDS)}}
FLEURS = "".join(
    f"{n}\tc{n}.wav\t{w.title()}!\t{w}\t{' '.join(w)} |\t8000\tMALE\n" for n, w in enumerate(WORDS)
)  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [
    ("train_manifest.json", NEMO),  # NeMo: JSON lines
    ("train_manifest.json", NEMO.split("\n")[0] + "\n" + "\n".join(NEMO.split("\n")[1:])),
    ("dev.manifest", NEMO),
    ("train.json", json.dumps(SPEECHBRAIN, indent=1)),
    ("train.csv", "ID,duration,wav,spk_id,wrd\n" + each("uN,1,$data_root/cN.wav,s,WORD")),
    ("data.json", json.dumps(ESPNET)),
    ("list.json", json.dumps([{"file": f"c{n}.wav", "sentence": w} for n, w in enumerate(WORDS)])),
    ("list.json", json.dumps({"data": [{"path": f"c{n}.wav", "text": w} for n, w in enumerate(WORDS)]})),
    ("labels.json", json.dumps({f"c{n}.wav": w for n, w in enumerate(WORDS)})),
    ("train.tsv", FLEURS),
    ("train.txt", FLEURS),
    ("filelists/audio_text_train_filelist.txt", "".join(f"DUMMY/c{n}.wav|{w}\n" for n, w in enumerate(WORDS))),
    ("filelists/multi.txt", "".join(f"DUMMY/c{n}.wav|7|{w}\n" for n, w in enumerate(WORDS))),
    ("train.list", "".join(f"c{n}.wav|speaker|EN|{w}|w a1 h aa2 n|0 1 2 1 0\n" for n, w in enumerate(WORDS))),
    ("ref.stm", ";; c\n" + "".join(f"c{n} 1 s 0.00 2.00 <o,f0,male> {w}\n" for n, w in enumerate(WORDS))),
    ("ref.trn", "".join(f"{w} (c{n})\n" for n, w in enumerate(WORDS))),
    ("metadata.csv", "file_name,transcription\n" + "".join(f"audio/c{n}.wav,{w}\n" for n, w in enumerate(WORDS))),
    ("audio/metadata.jsonl", each('{"file_name": "cN.wav", "text": "WORD"}')),
    ("st/train.tsv", "id\taudio\tn_frames\ttgt_text\tspeaker\n" + each("i\t/d/cN.wav\t9\tWORD\ts")),
])  # fmt: skip
def test_tables_of_toolkits_give_their_texts(tmp_path, name, content):
    texts, ledger = texts_in(tmp_path, {name: content}, CLIPS)
    assert texts == WANT
    assert ledger == []


def test_parts_of_a_recording_in_nested_json_and_in_samples(tmp_path):
    segments = [{"sid": "a", "begin_time": 0.5, "end_time": 1.0, "text": "x"}]
    nested = {"audios": [{"path": "c0.wav", "title": "t", "segments": segments}]}
    csv = "ID,duration,wav,start,stop,spk_id\nu1,0.5,c1.wav,8000,16000,s\n"
    said, ledger = said_in(tmp_path, {"m.json": json.dumps(nested), "v.csv": csv}, CLIPS)
    assert [(p.span, p.text, p.speaker) for path in sorted(said) for p in said[path]] == [
        ((0.5, 0.5), "x", None), ((0.5, 0.5), None, "s"),
    ]  # fmt: skip
    assert ledger == []


def test_segments_that_are_not_scored_and_bad_lines_of_nist_files_are_listed(tmp_path):
    stm = "c0 1 s 0 2 <> fine\nc1 1 s 0 2 IGNORE_TIME_SEGMENT_IN_SCORING\nc2 1 s 2 1 back\n"
    trn = "words (c0)\nmore words (c1)\nno id\n"
    said, ledger = said_in(tmp_path, {"a.stm": stm, "b/b.trn": trn}, CLIPS)
    assert ("a.stm:2", "unscored") in ledger
    assert ("a.stm:3", "bad_row") in ledger
    assert ("b/b.trn:3", "bad_row") in ledger
    assert said["audio/c0.wav"][0].text == "fine"


def test_sidecars_of_thchs30_and_with_the_whole_name(tmp_path):
    files = {
        "audio/c0.wav.trn": "ni hao\nni3 hao3\nn i3 h ao3\n", "audio/c1.wav.txt": "two",
        "audio/c2.json": '{"text": "3"}',
        "other/c0.wav.trn": "../audio/c0.wav.trn\n", "audio/vivos01.txt": "vivos01 xin chao",
    }  # fmt: skip
    texts, ledger = texts_in(tmp_path, files, [*CLIPS, "other/c0.wav", "audio/vivos01.wav"])
    assert texts == {
        "audio/vivos01.wav": "xin chao",
        "audio/c0.wav": "ni hao",
        "audio/c1.wav": "two",
        "audio/c2.wav": "3",
    }
    assert ledger == [("other/c0.wav.trn", "not_a_transcript")]
