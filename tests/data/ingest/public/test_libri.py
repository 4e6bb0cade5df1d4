"""LibriSpeech, LibriTTS, Libri-Light limited and MLS on small trees: ids, splits, texts, lists, what is missing."""

import json

import pytest

from speechssl.core.errors import ConfigError, DataError
from speechssl.data.ingest.ids import read_ids
from tests.support.trees import ledger, made, plant

SPEECH = {
    "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": 0.5,
    "LibriSpeech/dev-clean/84/121123/84-121123-0001.flac": 0.6,
    "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n"
    "84-121123-0001 BUT IN LESS\n",
    "LibriSpeech/test-other/367/130732/367-130732-0000.flac": 0.5,
    "LibriSpeech/test-other/367/130732/367-130732.trans.txt": "367-130732-0000 LOBSTERS AND LOBSTERS\n",
    "LibriSpeech/train-clean-100/19/198/19-198-0000.flac": 0.5,
    "LibriSpeech/train-clean-100/19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n",
    "LibriSpeech/SPEAKERS.TXT": "19 | F | train-clean-100 | 25.19 | Kara Shallenberg\n",
}


@pytest.fixture
def speech(tmp_path):
    return plant(tmp_path / "data", SPEECH)


def test_librispeech_keeps_its_splits_ids_speakers_and_texts(speech):
    found, summary = made("librispeech", speech)
    assert {i: (u.split, u.speaker, u.language, u.text, u.meta["subset"]) for i, u in found.items()} == {
        "84-121123-0000": ("dev", "84", "en", "GO DO YOU HEAR", "dev-clean"),
        "84-121123-0001": ("dev", "84", "en", "BUT IN LESS", "dev-clean"),
        "367-130732-0000": ("test", "367", "en", "LOBSTERS AND LOBSTERS", "test-other"),
        "19-198-0000": ("train", "19", "en", "NORTHANGER ABBEY", "train-clean-100"),
    }
    assert summary.split_rule == "given by the source for 4 labelled utterances"
    expected = [(name, "incomplete_subset") for name in ("dev-clean", "test-other", "train-clean-100")]
    expected += [(n, "missing_subset") for n in ("dev-other", "test-clean", "train-clean-360", "train-other-500")]
    assert ledger(speech) == expected


def test_nothing_is_carved_out_of_an_official_train(speech):
    """Many speakers of train alone: `speechssl manifest` would make dev and test of some, a recipe must not."""
    for speaker in range(20, 40):
        base = f"LibriSpeech/train-clean-100/{speaker}/1/{speaker}-1"
        plant(speech, {f"{base}-0000.flac": 0.3, f"{base}.trans.txt": f"{speaker}-1-0000 WORDS\n"})
    found, _ = made("librispeech", speech, "train-clean-100")
    assert len(found) == 21
    assert {u.split for u in found.values()} == {"train"}
    assert ledger(speech) == [("train-clean-100", "incomplete_subset")]


@pytest.mark.parametrize("place", ["LibriSpeech", "LibriSpeech/dev-clean"])
def test_the_folder_may_be_given_at_any_depth(speech, place, tmp_path):
    found, _ = made("librispeech", speech / place, "dev-clean", output=str(tmp_path / "out"))
    assert sorted(found) == ["84-121123-0000", "84-121123-0001"]


def test_only_the_wanted_subset_is_decoded(speech):
    (speech / "LibriSpeech/train-clean-100/19/198/19-198-0000.flac").write_bytes(b"damaged")
    found, summary = made("librispeech", speech, "dev-clean", "test-other")
    assert sorted(found) == ["367-130732-0000", "84-121123-0000", "84-121123-0001"]
    assert summary.files == 3


def test_what_is_missing_is_in_the_ledger(speech):
    book = speech / "LibriSpeech/dev-clean/84/121123"
    (book / "84-121123-0001.flac").unlink()
    plant(book, {"84-121123-0002.flac": 0.4})
    (speech / "LibriSpeech/test-other/367/130732/367-130732.trans.txt").write_text("367-130732-0000\n")
    found, _ = made("librispeech", speech, "dev-clean", "test-other")
    trans = "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt"
    assert ledger(speech)[:4] == [
        ("LibriSpeech/dev-clean/84/121123/84-121123-0002.flac", "missing_transcript"),
        ("LibriSpeech/test-other/367/130732/367-130732.trans.txt:1", "bad_row"),
        ("LibriSpeech/test-other/367/130732/367-130732-0000.flac", "missing_transcript"),
        (trans, "missing_audio"),
    ]
    assert found["84-121123-0002"].text is None
    entries = [json.loads(line) for line in (speech / "manifest/ledger.jsonl").read_text().splitlines()]
    assert "'84-121123-0001'" in next(e["detail"] for e in entries if e["reason"] == "missing_audio")


def test_a_named_subset_that_is_not_there_stops(speech):
    with pytest.raises(DataError, match=r"no recording of LibriSpeech \(test-clean\).*--download fetches them"):
        made("librispeech", speech, "dev-clean", "test-clean")
    with pytest.raises(ConfigError, match="no subset 'test-claen'; did you mean 'test-clean'"):
        made("librispeech", speech, "test-claen")


def test_long_test_utterances_keep_their_texts(speech):
    """test-clean holds recordings of 35 s; cut at 30 s its word error rate would not be the published set's."""
    plant(speech, {
        "LibriSpeech/test-clean/61/70968/61-70968-0000.flac": 35.0,
        "LibriSpeech/test-clean/61/70968/61-70968.trans.txt": "61-70968-0000 HE BEGAN\n",
    })  # fmt: skip
    found, _ = made("librispeech", speech, "test-clean")
    assert found["61-70968-0000"].text == "HE BEGAN"
    assert found["61-70968-0000"].duration == 35.0


def test_equal_bytes_stay_in_test_and_leave_train(speech):
    data = (speech / "LibriSpeech/test-other/367/130732/367-130732-0000.flac").read_bytes()
    book = speech / "LibriSpeech/test-other/367/130732"
    (book / "367-130732-0001.flac").write_bytes(data)
    (book / "367-130732.trans.txt").write_text("367-130732-0000 LOBSTERS\n367-130732-0001 LOBSTERS\n")
    (speech / "LibriSpeech/train-clean-100/19/198/19-198-0000.flac").write_bytes(data)
    found, _ = made("librispeech", speech)
    assert sorted(i for i, u in found.items() if u.split == "test") == ["367-130732-0000", "367-130732-0001"]
    assert not [u for u in found.values() if u.split == "train"]
    assert ("LibriSpeech/train-clean-100/19/198/19-198-0000.flac", "duplicate_audio") in ledger(speech)


def test_another_corpus_is_not_taken_for_it(tmp_path):
    root = plant(tmp_path / "x", {"a.wav": 0.5, "b/c.flac": 0.5})
    with pytest.raises(DataError, match=r"no recording of LibriSpeech .* expected files such as LibriSpeech/dev-clean"):
        made("librispeech", root)
    assert not (root / "manifest" / "manifest.jsonl").exists()


def test_libritts_takes_normalised_texts(tmp_path):
    root = plant(tmp_path, {
        "LibriTTS/dev-clean/84/121123/84_121123_000007_000001.wav": 0.5,
        "LibriTTS/dev-clean/84/121123/84_121123_000007_000001.normalized.txt": "Mister Smith said so.",
        "LibriTTS/dev-clean/84/121123/84_121123_000007_000001.original.txt": "Mr. Smith said so.",
        "LibriTTS/dev-clean/84/121123/84_121123_000008_000000.wav": 0.5,
        "LibriTTS/dev-clean/84/121123/84_121123_000009_000000.normalized.txt": "Gone.",
    })  # fmt: skip
    found, _ = made("libritts", root, "dev-clean")
    one = found["84_121123_000007_000001"]
    assert (one.text, one.meta["original_text"], one.split) == ("Mister Smith said so.", "Mr. Smith said so.", "dev")
    assert ledger(root) == [
        ("LibriTTS/dev-clean/84/121123/84_121123_000008_000000.wav", "missing_transcript"),
        ("LibriTTS/dev-clean/84/121123/84_121123_000009_000000.normalized.txt", "missing_audio"),
    ]


@pytest.fixture
def limited(tmp_path):
    files: dict[str, str | float] = {}
    for number, part in enumerate(["1h/0/clean", "1h/0/other", "1h/1/clean", "9h/clean", "9h/other"]):
        speaker = 100 + number
        base = f"librispeech_finetuning/{part}/{speaker}/7/{speaker}-7"
        files |= {f"{base}-0000.flac": 0.3, f"{base}.trans.txt": f"{speaker}-7-0000 WORD\n"}
    return plant(tmp_path / "limited", files)


@pytest.mark.parametrize(("subset", "ids"), [
    (("10min",), ["100", "101"]), (("1h",), ["100", "101", "102"]), ((), ["100", "101", "102", "103", "104"]),
])  # fmt: skip
def test_the_limited_sets_of_libri_light(limited, subset, ids):
    found, _ = made("librilight-limited", limited, *subset)
    assert sorted(found) == [f"{speaker}-7-0000" for speaker in ids]
    assert {u.split for u in found.values()} == {"train"}
    name = subset[0] if subset else "10h"
    assert read_ids([limited / f"manifest/ids/{name}.txt"]) == set(found)
    assert read_ids([limited / "manifest/ids/10min-0.txt"]) == {"100-7-0000", "101-7-0000"}
    assert not ledger(limited)


def test_the_lists_of_libri_light_are_those_of_torchaudio(limited):
    from torchaudio.datasets import LibriLightLimited

    for subset in ("10min", "1h", "10h"):
        peer = LibriLightLimited(limited, subset)
        made("librilight-limited", limited, subset)
        assert read_ids([limited / f"manifest/ids/{subset}.txt"]) == {name for _, name in peer._fileids_paths}


def test_librispeech_agrees_with_torchaudio(speech):
    from torchaudio.datasets import LIBRISPEECH

    found, _ = made("librispeech", speech)
    for subset in ("dev-clean", "test-other", "train-clean-100"):
        peer = LIBRISPEECH(speech, subset)
        for n in range(len(peer)):
            path, _, text, speaker, chapter, number = peer.get_metadata(n)
            utterance = found[f"{speaker}-{chapter}-{number:04d}"]
            assert utterance.path.endswith(path)
            assert (utterance.text, utterance.speaker) == (text, str(speaker))


def test_mls_gives_splits_language_and_the_limited_lists(tmp_path):
    handles = "train/limited_supervision"
    root = plant(tmp_path, {
        "mls_german/train/transcripts.txt": "10_20_000000\teins zwei\n10_20_000001\tdrei\n10_20_000009\tweg\n",
        "mls_german/train/audio/10/20/10_20_000000.flac": 0.5,
        "mls_german/train/audio/10/20/10_20_000001.flac": 0.5,
        "mls_german/test/transcripts.txt": "11_21_000000\tvier\n",
        "mls_german/test/audio/11/21/11_21_000000.flac": 0.5,
        f"mls_german/{handles}/1hr/0/handles.txt": "10_20_000000\n",
        f"mls_german/{handles}/1hr/1/handles.txt": "10_20_000001\n10_20_000009\n",
    })  # fmt: skip
    found, _ = made("mls", root)
    assert {i: (u.split, u.text, u.language, u.speaker) for i, u in found.items()} == {
        "10_20_000000": ("train", "eins zwei", "de", "10"), "10_20_000001": ("train", "drei", "de", "10"),
        "11_21_000000": ("test", "vier", "de", "11"),
    }  # fmt: skip
    assert ledger(root) == [("mls_german/train/transcripts.txt", "missing_audio"), ("dev", "missing_subset")]
    lists = {path.stem: path.read_text().split() for path in (root / "manifest/ids").iterdir()}
    assert lists == {
        "limited-1hr-de": ["10_20_000000", "10_20_000001"], "limited-1hr-de-0": ["10_20_000000"],
        "limited-1hr-de-1": ["10_20_000001"],
    }  # fmt: skip


@pytest.mark.shared_data
def test_real_librispeech(shared_data, tmp_path):
    """The recordings of LibriSpeech in the pack, in the corpus' own layout."""
    real = shared_data / "raw_mixed" / "LibriSpeech"
    found, summary = made("mini-librispeech", real, output=str(tmp_path / "out"))
    assert summary.utterances == 32
    assert summary.labelled_hours == summary.hours
    assert ("dev-clean-2", "missing_subset") in ledger(tmp_path, "out")
    for name, utterance in found.items():
        assert name.split("-")[0] == utterance.speaker
        assert utterance.split == utterance.meta["subset"].split("-")[0]
