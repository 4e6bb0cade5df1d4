"""Webdataset tars that others made: every usable sample is read, everything else is named."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
import soxr
from webdataset import ShardWriter, TarWriter

from speechssl.config import ManifestConfig, ShardConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.core.ledger import read_ledger
from speechssl.data.audio.decode import decode
from speechssl.data.ingest.foreign import tars as foreign
from speechssl.data.ingest.foreign.manifest import manifest_of
from speechssl.data.ingest.foreign.tars import find_tars, read_tars
from speechssl.data.ingest.manifest import read_manifest
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.verify import verify_shards
from speechssl.data.store.writer import shard_manifest

FORMATS = {
    # extension: soundfile's format and subtype, rate, channels
    "flac": ("FLAC", "PCM_16", 16_000, 1),
    "wav": ("WAV", "PCM_16", 16_000, 1),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100, 2),
    "ogg": ("OGG", "VORBIS", 22_050, 1),
    "opus": ("OGG", "OPUS", 48_000, 2),
}


def wave_of(number, rate=16_000):
    time = np.arange(round((0.6 + 0.1 * (number % 5)) * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 20 * number) * time)).astype(np.float32)


def encoded(number, kind):
    form, subtype, rate, channels = FORMATS[kind]
    buffer = io.BytesIO()
    wave = np.repeat(wave_of(number, rate)[:, None], channels, axis=1)
    soundfile.write(buffer, wave, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def tar_of(path, members):
    """Write a tar of (name, bytes) with the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def tars(tmp_path):
    """Two tars by webdataset's own writer, each with all formats; keys with folders, dots and repeated numbers."""
    folder = tmp_path / "tars"
    folder.mkdir()
    with ShardWriter(f"{folder}/part-%03d.tar", maxcount=5, verbose=0) as writer:
        for number in range(10):
            kind = list(FORMATS)[number % 5]
            sample = {"__key__": f"spk{number % 3}/utt{number}", kind: encoded(number, kind)}
            if number % 2:
                sample["json"] = {"transcript": f"Words {number}", "speaker": f"s{number % 3}", "duration": 99.0}
            else:
                sample["txt"] = f"words {number}\n"
            writer.write(sample)
    return folder


def test_pretraining_reads_tars_of_others_in_every_format(tars, tmp_path):
    corpus = open_corpus(tars)
    assert corpus.ids == [f"spk{n % 3}_utt{n}" for n in range(10)]
    for number in range(10):
        kind = list(FORMATS)[number % 5]
        (tmp_path / f"a.{kind}").write_bytes(encoded(number, kind))
        expected = decode(tmp_path / f"a.{kind}", item="a")
        wave = corpus.read(number)
        assert len(wave) == corpus.samples[number] == len(expected)
        np.testing.assert_allclose(wave, expected, atol=1 / 32_768)
        middle = corpus.read(number, 1000, 2000)
        np.testing.assert_array_equal(middle, wave[1000:3000])
    said = corpus.utterances()
    assert said["spk1_utt1"].text == "Words 1" and said["spk1_utt1"].speaker == "s1"
    assert said["spk2_utt2"].text == "words 2" and said["spk1_utt7"].sample_rate == 44_100
    assert said["spk1_utt1"].meta == {"duration": 99.0, "source_id": "spk1/utt1"}
    assert said["spk1_utt1"].duration == pytest.approx(0.7)


def test_tars_are_looked_through_once_and_again_when_one_changed(tars):
    first = open_corpus(tars).contents.tolist()
    (index,) = [path for path in tars.iterdir() if path.is_dir()]
    written = (index / "summary.json").stat().st_mtime_ns
    assert open_corpus(str(tars)).contents.tolist() == first
    assert (index / "summary.json").stat().st_mtime_ns == written
    with TarWriter(str(tars / "part-001.tar")) as writer:
        writer.write({"__key__": "new", "wav": encoded(3, "wav")})
    assert open_corpus(tars).ids[-1] == "new" and len(open_corpus(tars)) == 6


def test_a_place_that_is_read_only_gets_its_index_in_the_cache(tars, tmp_path, monkeypatch):
    monkeypatch.setattr("speechssl.data.store.foreign_index.os.access", lambda path, mode: False)
    corpus = open_corpus(tars, cache=str(tmp_path / "cache"))
    assert len(corpus) == 10 and len(list((tmp_path / "cache").glob("index-*/summary.json"))) == 1
    assert not list(tars.glob(".speechssl-index-*/summary.json"))


def test_braces_name_tars_and_one_that_is_missing_is_an_error(tars):
    pattern = f"{tars}/part-{{000..001}}.tar"
    assert [path.name for path in find_tars(pattern)] == ["part-000.tar", "part-001.tar"]
    assert len(open_corpus(f"{tars}/part-{{001..001}}.tar")) == 5
    with pytest.raises(DataError, match=r"part-002\.tar: no such tar"):
        open_corpus(f"{tars}/part-{{000..002}}.tar")
    with pytest.raises(DataError, match="decompress"):
        (tars / "part-003.tar.gz").write_bytes(b"")
        find_tars(tars / "part-003.tar.gz")


def test_a_manifest_of_tars_has_what_their_members_say_and_shards_follow(tars, tmp_path):
    summary = manifest_of(tars, tmp_path / "corpus", ManifestConfig(workers=1))
    assert summary.utterances == 10 and summary.speakers == 3
    utterances = {item.id: item for item in read_manifest(tmp_path / "corpus" / "manifest.jsonl")}
    assert utterances["spk1_utt1"].text == "Words 1" and utterances["spk2_utt2"].text == "words 2"
    again = manifest_of(tars, tmp_path / "corpus", ManifestConfig(workers=1))
    assert again == summary
    shard_manifest(tmp_path / "corpus" / "manifest.jsonl", tmp_path / "shards", ShardConfig(workers=1))
    assert verify_shards(tmp_path / "shards").ok
    ours, theirs = open_corpus(tmp_path / "shards"), open_corpus(tars)
    for id_ in ours.ids:
        np.testing.assert_array_equal(ours.read(ours.ids.index(id_)), theirs.read(theirs.ids.index(id_)))


def test_keys_end_at_the_first_dot_and_members_of_one_key_may_lie_apart(tmp_path):
    tar = tar_of(
        tmp_path / "train.tar",
        [
            ("./a/b.c/x1.audio.flac", encoded(1, "flac")),
            ("y.WAV", encoded(2, "wav")),
            ("./a/b.c/x1.txt", "caf\u00e9 \n noir".encode()),
            ("y.json", json.dumps({"text": "why", "split": "validation", "offset": 3.0}).encode()),
        ],
    )
    (first, second), entries = read_tars([tar])
    assert entries == [] and (first.id, second.id) == ("a_b_c_x1", "y")
    assert first.said.text == "caf\u00e9 noir" and first.said.split == "train"
    assert second.said.text == "why" and second.said.split == "dev" and second.said.meta["offset"] == 3.0


def test_a_key_that_comes_in_several_tars_gets_the_name_of_its_tar(tmp_path):
    tars = [tar_of(tmp_path / f"{name}.tar", [("000.wav", encoded(1, "wav"))]) for name in ("a", "b")]
    samples, entries = read_tars(tars)
    assert [sample.id for sample in samples] == ["a-000", "b-000"] and entries == []


def test_everything_that_gives_no_sample_is_in_the_ledger(tmp_path):
    link = tarfile.TarInfo("l.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar = tar_of(
        tmp_path / "t" / "some.tar",
        [
            ("a.wav", encoded(1, "wav")), ("a.wav", encoded(2, "wav")), ("a.json", b"[1]"), ("noext", b"x"),
            ("b.jpg", b"x"), ("c.flac", b"not audio at all"), ("d.wav", encoded(3, "wav")), ("d.txt", b"\xff\xfe\xfd"),
            ("e.wav", encoded(4, "wav")), ("e.txt", b"one"), ("e.json", b'{"text": "two"}'), ("f.wav", b""),
        ],
    )  # fmt: skip
    with tarfile.open(tar, "a") as archive:
        archive.addfile(link)
    corpus = open_corpus(tar)
    assert corpus.ids == ["a", "d", "e"]
    assert corpus.utterances()["e"].text == "one" and corpus.utterances()["d"].text is None
    (index,) = [path for path in tar.parent.iterdir() if path.is_dir()]
    reasons = {(entry.item.partition("/")[2], entry.reason) for entry in read_ledger(index / "ledger.jsonl")}
    assert reasons == {
        ("", "duplicate_member"), ("a.json", "bad_row"), ("noext", "no_key"), ("b", "no_audio"),
        ("c.flac", "not_audio"), ("d.txt", "unreadable_text"), ("e", "two_transcripts"), ("f.wav", "empty_file"),
        ("l.wav", "no_file"),
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_damaged_tar_costs_what_lies_behind_the_damage_and_says_so(tmp_path, damage):
    tar = tar_of(tmp_path / "x.tar", [(f"u{n}.wav", encoded(n, "wav")) for n in range(4)])
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        third = archive.getmembers()[2]
    if damage == "cut":
        data = data[: third.offset_data + 700]
    else:
        data[third.offset : third.offset + 512] = b"\x55" * 512
    tar.write_bytes(data)
    corpus = open_corpus(tar)
    assert corpus.ids == ["u0", "u1"]
    (index,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {entry.reason for entry in read_ledger(index / "ledger.jsonl")} & {"damaged_shard", "truncated_shard"}


def test_a_payload_that_changed_under_the_index_is_an_error_at_reading(tars):
    corpus = open_corpus(tars)
    row = corpus.row(0)
    with (tars / "part-000.tar").open("r+b") as file:
        file.seek(row.offset + 100)
        file.write(b"\0\xff\0\xff")
    with pytest.raises(AudioError, match="damaged_payload"):
        corpus.read(0)


def test_tars_without_audio_are_refused(tmp_path):
    tar = tar_of(tmp_path / "pictures.tar", [("a.jpg", b"x")])
    with pytest.raises(DataError, match="no_audio 1"):
        open_corpus(tar)
    with pytest.raises(DataError, match="no_audio"):
        manifest_of(tar, tmp_path / "out", ManifestConfig(workers=1))


def test_a_folder_with_audio_beside_tars_is_a_folder_of_audio(tars):
    soundfile.write(tars / "loose.wav", wave_of(1), 16_000)
    assert find_tars(tars) == []


def test_resampled_audio_is_what_soxr_gives(tmp_path):
    wave = wave_of(4, 48_000)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 48_000, format="WAV", subtype="FLOAT")
    corpus = open_corpus(tar_of(tmp_path / "r.tar", [("r.wav", buffer.getvalue())]))
    np.testing.assert_allclose(corpus.read(0), soxr.resample(wave, 48_000, 16_000, "HQ"), atol=2e-3)


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("x.tar", 1), ("x-{000..122}.tar", 123), ("x-{5..1}.tar", 5), ("{a,b}-{1..3}.tar", 6),
        ("{a,{b,c},d{0..9}}", 60),
        ("{0..99999}{0..99999}{0..99999}.tar", 10**15), ("{0.." + "9" * 5000 + "}", 10**18), ("{0..9}" * 400, 10**18),
    ],
)  # fmt: skip
def test_the_size_of_a_pattern_is_known_before_it_is_expanded(pattern, size):
    assert foreign._pattern_size(pattern) == size


def test_a_pattern_of_too_many_tars_is_refused_by_name():
    with pytest.raises(DataError, match="names up to 1,000,000,000 tars"):
        foreign.find_tars("x-{000000..999999999}.tar")
