"""Common Voice, FLEURS, VoxPopuli, LJ Speech and TED-LIUM on small trees: the tables' splits, exactly."""

import pytest

from speechssl.data.ingest.public.build import READERS
from speechssl.data.ingest.public.recipes import RECIPES
from tests.support.trees import audio, ledger, made, plant

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"


def row(speaker: str, clip: str, text: str) -> str:
    return f"{speaker}\t{clip}\t{text}\t2\t0\t\tfemale\t\tcy\t\n"


@pytest.fixture
def voices(tmp_path):
    place = "cv-corpus-17.0/cy"
    root = plant(tmp_path, {
        f"{place}/train.tsv": HEADER + row("a", "c1.mp3", "Un \"dau\"") + row("a", "c2.mp3", "tri"),
        f"{place}/dev.tsv": HEADER + row("b", "c3.mp3", "pedwar"),
        f"{place}/test.tsv": HEADER + row("c", "c4.mp3", "pump") + row("c", "lost.mp3", "chwech"),
        f"{place}/validated.tsv": HEADER + row("a", "c1.mp3", "Un") + row("c", "c4.mp3", "pump")
        + row("c", "c5.mp3", "saith") + row("b", "c6.mp3", "wyth") + row("a", "c7.mp3", "naw")
        + row("d", "c8.mp3", "deg"),
        f"{place}/other.tsv": HEADER + row("e", "c9.mp3", "un ar ddeg"),
        f"{place}/clip_durations.tsv": "clip\tduration[ms]\nc1.mp3\t500\n",
    })  # fmt: skip
    for number in range(1, 10):
        audio(root / place / "clips" / f"c{number}.mp3", 0.5 + 0.05 * number, 32_000)
    return root


def splits(found):
    return {i: u.split for i, u in found.items()}


def test_common_voice_has_exactly_its_own_splits(voices):
    found, summary = made("common-voice", voices)
    assert splits(found) == {"c1": "train", "c2": "train", "c3": "dev", "c4": "test"}
    assert {(u.language, u.meta["gender"]) for u in found.values()} == {("cy", "female")}
    assert found["c1"].text == 'Un "dau"'
    assert found["c4"].speaker == "c"
    assert ledger(voices) == [("cv-corpus-17.0/cy/test.tsv:3", "missing_audio")]
    assert summary.files == 4


def test_what_is_validated_joins_train_and_never_test(voices):
    """c5 and c6 are of speakers in test and dev: in test they would change it, in train they would leak."""
    found, _ = made("common-voice", voices, "train", "dev", "test", "validated", "other")
    assert splits(found) == {
        "c1": "train", "c2": "train", "c3": "dev", "c4": "test", "c5": "extra", "c6": "extra", "c7": "train",
        "c8": "train", "c9": "train",
    }  # fmt: skip
    assert found["c8"].text == "deg"
    assert found["c9"].text is None  # nobody has reviewed it


def test_validated_alone_still_knows_whose_clips_are_held_out(voices):
    found, _ = made("common-voice", voices, "validated")
    assert splits(found) == {"c5": "extra", "c6": "extra", "c7": "train", "c8": "train"}


def test_a_clip_in_two_tables_stays_out_of_train(voices):
    place = voices / "cv-corpus-17.0/cy"
    (place / "train.tsv").write_text(HEADER + row("c", "c4.mp3", "pump") + row("a", "c1.mp3", "un"))
    found, _ = made("common-voice", voices, "train", "test")
    assert splits(found) == {"c1": "train", "c4": "test"}
    assert ("cv-corpus-17.0/cy/clips/c4.mp3", "conflicting_splits") in ledger(voices)


def test_two_languages_side_by_side(voices):
    plant(voices, {"cv-corpus-17.0/br/train.tsv": "client_id\tpath\tsentence\nz\tbr1.mp3\tdemat\n"})
    audio(voices / "cv-corpus-17.0/br/clips/br1.mp3", 0.7, 32_000)
    found, _ = made("common-voice", voices, "train")
    assert {i: u.language for i, u in found.items()} == {"c1": "cy", "c2": "cy", "br1": "br"}


def test_a_table_without_header_is_named(voices):
    (voices / "cv-corpus-17.0/cy/dev.tsv").write_text(row("b", "c3.mp3", "pedwar"))
    found, _ = made("common-voice", voices)
    assert "c3" not in found
    assert ("cv-corpus-17.0/cy/dev.tsv", "unreadable_text") in ledger(voices)


def test_texts_that_cannot_be_read_are_named(voices, monkeypatch):
    (voices / "cv-corpus-17.0/cy/dev.tsv").write_bytes((HEADER + row("b", "c3.mp3", "M\u00fcller")).encode("latin-1"))
    found, _ = made("common-voice", voices)
    assert "c3" not in found
    assert ("cv-corpus-17.0/cy/dev.tsv", "unreadable_text") in ledger(voices)
    root = plant(voices / "fl", {"fr_fr/audio/dev/1.wav": 0.5, "fr_fr/dev.tsv": ""})
    (root / "fr_fr/dev.tsv").write_bytes("1\t1.wav\tdéjà\tdéjà\n".encode("latin-1"))
    found, _ = made("fleurs", root)
    assert [u.text for u in found.values()] == [None]
    assert ledger(root)[0] == ("fr_fr/dev.tsv", "unreadable_text")


def test_fleurs(tmp_path):
    root = plant(tmp_path / "data", {
        "fr_fr/train.tsv": "7\t100.wav\tBonjour, à tous.\tbonjour à tous\tb o n\t8000\tFEMALE\n"
        + "8\tnone.wav\tX\tx\tx\t1\tMALE\n",
        "fr_fr/test.tsv": "9\t200.wav\tMerci !\tmerci\tm e r\t8000\tMALE\nbroken\n",
        "fr_fr/audio/train/100.wav": 0.5, "fr_fr/audio/train/101.wav": 0.5, "fr_fr/audio/test/200.wav": 0.5,
    })  # fmt: skip
    found, _ = made("fleurs", root)
    assert {i: (u.split, u.text, u.language, u.speaker) for i, u in found.items()} == {
        "fr_fr-train-100": ("train", "bonjour à tous", "fr_fr", None),
        "fr_fr_audio_train_101": ("train", None, "fr_fr", None),
        "fr_fr-test-200": ("test", "merci", "fr_fr", None),
    }
    assert found["fr_fr-train-100"].meta == {"sentence": "7", "raw_text": "Bonjour, à tous.", "gender": "female"}
    assert ledger(root) == [
        ("fr_fr/test.tsv:2", "bad_row"), ("fr_fr/train.tsv:2", "missing_audio"),
        ("fr_fr/audio/train/101.wav", "missing_transcript"), ("dev", "missing_subset"),
    ]  # fmt: skip


def test_voxpopuli(tmp_path):
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    name = "20190115-0900-PLENARY-3-de_20190115-09:01:01_0"
    root = plant(tmp_path / "data", {
        "transcribed_data/de/asr_test.tsv": header + f"{name}\tGuten Tag.\tguten tag\tNone\ttest\tmale\n"
        + "20190115-gone\tX.\tx\t1\ttest\tmale\n",
        "transcribed_data/de/asr_train.tsv": header + "20200101-b\tJa.\tja\t97\ttrain\tfemale\n",
        f"transcribed_data/de/2019/{name}.ogg": 0.5, "transcribed_data/de/2020/20200101-b.ogg": 0.5,
    })  # fmt: skip
    found, _ = made("voxpopuli", root)
    assert {(u.split, u.text, u.speaker, u.language) for u in found.values()} == {
        ("test", "guten tag", None, "de"), ("train", "ja", "97", "de"),
    }  # fmt: skip
    (test,) = [u for u in found.values() if u.split == "test"]
    assert test.meta["source_id"] == name
    assert test.meta["raw_text"] == "Guten Tag."
    assert ledger(root) == [("transcribed_data/de/asr_test.tsv:3", "missing_audio"), ("dev", "missing_subset")]


@pytest.fixture
def lj(tmp_path):
    lines = [f'LJ001-{n:04d}|Raw {n}, "said"|Raw number {n}' for n in range(1, 31)] + ["LJ099-0001|gone|gone"]
    files = {f"LJSpeech-1.1/wavs/LJ001-{n:04d}.wav": 0.3 + n / 100 for n in range(1, 32)}
    return plant(tmp_path, {"LJSpeech-1.1/metadata.csv": "\n".join(lines) + "\n", **files})


def test_lj_speech_is_divided_by_recording(lj):
    found, summary = made("ljspeech", lj)
    assert len(found) == 31
    assert found["LJ001-0007"].text == "Raw number 7"
    assert found["LJ001-0007"].meta["raw_text"] == 'Raw 7, "said"'
    assert {u.speaker for u in found.values()} == {"LJ"}
    assert {u.split for u in found.values()} == {"train", "dev", "test"}
    assert "NOT speaker-disjoint" in summary.split_rule
    assert ledger(lj) == [
        ("LJSpeech-1.1/metadata.csv:31", "missing_audio"),
        ("LJSpeech-1.1/wavs/LJ001-0031.wav", "missing_transcript"), ("all", "incomplete_subset"),
    ]  # fmt: skip


def test_lj_speech_agrees_with_torchaudio(lj):
    from torchaudio.datasets import LJSPEECH

    found, _ = made("ljspeech", lj)
    rows = {name: texts[-1] for name, *texts in LJSPEECH(lj)._flist}
    assert {i: u.text for i, u in found.items() if u.text} == {k: v for k, v in rows.items() if k in found}


STM = """\
{0} 1 {0} 0.00 1.50 <o,f0,male> hello it 's <unk> me(2)
{0} 1 inter_segment_gap 1.50 1.80 <o,,unknown> ignore_time_segment_in_scoring
;; a comment
{0} 1 {0} 1.80 3.00 <o,f0,male> good bye
"""


@pytest.fixture
def talks(tmp_path):
    data, legacy = "TEDLIUM_release-3/data", "TEDLIUM_release-3/legacy"
    files: dict[str, str | float] = {f"{data}/sph/{talk}.sph": 4.0 for talk in ("Ann", "Bob", "Cid")}
    files |= {f"{data}/stm/{talk}.stm": STM.format(talk) for talk in ("Ann", "Bob", "Cid", "Eve")}
    files |= {f"{legacy}/test/stm/Bob.stm": STM.format("Bob"), f"{legacy}/dev/stm/Cid.stm": STM.format("Cid")}
    files |= {f"{data}/stm/Bad.stm": "Ann 1 Ann 3.0 1.0 <o> x\nnonsense\n", f"{data}/sph/Bad.sph": 0.5}
    return plant(tmp_path, files)


def test_tedlium_talks_are_cut_as_their_segments_say(talks):
    found, _ = made("tedlium", talks)
    assert {i: (u.split, u.start, u.duration, u.text) for i, u in found.items()} == {
        f"{talk}-{line}": (split, *part)
        for talk, split in (("Ann", "train"), ("Bob", "test"), ("Cid", "dev"))
        for line, part in (("0001", (0.0, 1.5, "hello it's me")), ("0004", (1.8, pytest.approx(1.2), "good bye")))
    }
    assert found["Ann-0001"].meta == {"unknown_words": 1}
    assert found["Ann-0004"].speaker == "Ann"
    reasons = ledger(talks)
    assert reasons.count(("TEDLIUM_release-3/data/stm/Ann.stm:1", "unknown_words")) == 1
    assert ("TEDLIUM_release-3/data/stm/Eve.stm", "missing_audio") in reasons
    assert [r for r in reasons if r[1] == "bad_row"] == [
        (f"TEDLIUM_release-3/data/stm/Bad.stm:{n}", "bad_row") for n in (1, 2)
    ]


def test_tedlium_of_another_release(tmp_path):
    root = plant(tmp_path, {
        "TEDLIUM_release1/train/stm/Ann.stm": STM.format("Ann"), "TEDLIUM_release1/train/sph/Ann.sph": 4.0,
        "TEDLIUM_release2/test/stm/Ann.stm": STM.format("Ann"), "TEDLIUM_release2/test/sph/Ann.sph": 4.5,
    })  # fmt: skip
    found, _ = made("tedlium", root, "release1")
    assert {u.split for u in found.values()} == {"train"}
    found, _ = made("tedlium", root, "release2")
    assert {u.split for u in found.values()} == {"test"}


def test_every_recipe_has_a_reader():
    assert set(READERS) == {recipe.name for recipe in RECIPES}
