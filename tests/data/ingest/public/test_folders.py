"""Speech Commands, VCTK and YesNo on small trees; their lists agree with torchaudio's."""

from pathlib import Path

import pytest

from tests.support.trees import ledger, made, plant

PLACE = "SpeechCommands/speech_commands_v0.02"


@pytest.fixture
def commands(tmp_path):
    names = ["yes/aa_nohash_0", "yes/bb_nohash_0", "no/aa_nohash_0", "no/cc_nohash_1", "up/dd_nohash_0"]
    return plant(tmp_path, {
        f"{PLACE}/validation_list.txt": "yes/bb_nohash_0.wav\n",
        f"{PLACE}/testing_list.txt": "no/cc_nohash_1.wav\nup/gone_nohash_0.wav\n",
        f"{PLACE}/_background_noise_/pink_noise.wav": 2.0,
        **{f"{PLACE}/{name}.wav": 0.5 + 0.01 * n for n, name in enumerate(names)},
    })  # fmt: skip


def test_speech_commands(commands):
    found, summary = made("speech-commands", commands)
    assert {i: (u.split, u.text, u.speaker) for i, u in found.items()} == {
        "yes-aa-0": ("train", "yes", "aa"), "yes-bb-0": ("dev", "yes", "bb"), "no-aa-0": ("train", "no", "aa"),
        "no-cc-1": ("test", "no", "cc"), "up-dd-0": ("train", "up", "dd"),
    }  # fmt: skip
    assert summary.files == 5
    assert ledger(commands) == [
        (f"{PLACE}/_background_noise_/pink_noise.wav", "background_noise"),
        (f"{PLACE}/up/gone_nohash_0.wav", "missing_audio"), ("v0.02", "incomplete_subset"),
    ]  # fmt: skip


def test_speech_commands_split_as_torchaudio_does(commands):
    from torchaudio.datasets import SPEECHCOMMANDS

    found, _ = made("speech-commands", commands)
    (commands / PLACE / "testing_list.txt").write_text(
        "no/cc_nohash_1.wav\n"
    )  # it does not look whether a file is there
    for split, name in (("train", "training"), ("dev", "validation"), ("test", "testing")):
        peer = SPEECHCOMMANDS(commands, subset=name)
        rows = {str(Path(f).relative_to(commands)) for f in peer._walker}
        assert rows == {str(Path(u.path).relative_to(commands)) for u in found.values() if u.split == split}


def test_without_a_list_its_recordings_are_train_and_that_is_said(commands):
    (commands / PLACE / "validation_list.txt").unlink()
    found, _ = made("speech-commands", commands)
    assert {u.split for u in found.values()} == {"train", "test"}
    assert (f"{PLACE}/validation_list.txt", "missing_list") in ledger(commands)


def test_the_root_of_speech_commands_itself(commands, tmp_path):
    """Unpacked under any name: without a version in it, any version is taken."""
    (commands / PLACE).rename(commands / "mine")
    found, _ = made("speech-commands", commands / "mine", output=str(commands / "out"))
    assert len(found) == 5
    assert ("up/gone_nohash_0.wav", "missing_audio") in ledger(commands, "out")


def test_the_other_version_is_left_alone(commands):
    other = PLACE.replace("0.02", "0.01")
    plant(
        commands,
        {f"{other}/testing_list.txt": "", f"{other}/validation_list.txt": "", f"{other}/go/ee_nohash_0.wav": 0.4},
    )
    found, _ = made("speech-commands", commands)
    assert "go-ee-0" not in found
    found, _ = made("speech-commands", commands, "v0.01")
    assert list(found) == ["go-ee-0"]


@pytest.fixture
def vctk(tmp_path):
    root, files = "VCTK-Corpus-0.92", {}
    for speaker in ("p225", "p226", "p227", "p228", "p229", "s5"):
        for n in ("001", "002"):
            files[f"{root}/txt/{speaker}/{speaker}_{n}.txt"] = f"Please call {speaker} {n}.\n"
            for mic in ("mic1", "mic2"):
                files[f"{root}/wav48_silence_trimmed/{speaker}/{speaker}_{n}_{mic}.flac"] = 0.5
    del files[f"{root}/wav48_silence_trimmed/p226/p226_002_mic1.flac"], files[f"{root}/txt/p226/p226_001.txt"]
    files[f"{root}/speaker-info.txt"] = (
        "ID  AGE  GENDER  ACCENTS  REGION\np225  23  F    English    Southern  England\ns5  20  M\n"
    )
    return plant(tmp_path, files)


def test_vctk(vctk):
    found, summary = made("vctk", vctk)
    wanted = {
        f"{speaker}_{n}_mic1" for speaker in ("p225", "p226", "p227", "p228", "p229", "s5") for n in ("001", "002")
    }
    assert set(found) == wanted - {"p226_002_mic1"}
    assert found["p225_001_mic1"].text == "Please call p225 001."
    assert found["p225_001_mic1"].meta == {"gender": "F", "accent": "English", "microphone": "mic1"}
    assert found["s5_001_mic1"].meta == {"gender": "M", "microphone": "mic1"}
    assert found["p226_001_mic1"].text is None
    assert "by hash of the" in summary.split_rule
    of_speakers = {(u.speaker, u.split) for u in found.values()}
    assert len(of_speakers) == 6  # none in two splits
    assert {split for _, split in of_speakers} == {"train", "dev", "test"}
    assert ledger(vctk) == [
        ("VCTK-Corpus-0.92/wav48_silence_trimmed/p226/p226_001_mic1.flac", "missing_transcript"),
        ("VCTK-Corpus-0.92/txt/p226/p226_002.txt", "missing_audio"),
    ]


def test_vctk_of_both_microphones(vctk):
    found, _ = made("vctk", vctk, "all")
    assert len(found) == 23
    found, _ = made("vctk", vctk, "mic2")
    assert {u.meta["microphone"] for u in found.values()} == {"mic2"}


def test_vctk_of_an_earlier_version(tmp_path):
    root = plant(tmp_path, {"VCTK-Corpus/wav48/p225/p225_001.wav": 0.5, "VCTK-Corpus/txt/p225/p225_001.txt": "Please."})
    found, _ = made("vctk", root)
    assert found["p225_001"].text == "Please."


def test_yesno(tmp_path):
    names = ["_".join(f"{n:08b}") for n in range(40)]
    root = plant(tmp_path, {f"waves_yesno/{name}.wav": 0.3 + 0.01 * i for i, name in enumerate(names)})
    found, _ = made("yesno", root)
    assert found["0_0_0_0_0_0_1_0"].text == "NO NO NO NO NO NO YES NO"
    assert {u.language for u in found.values()} == {"he"}
    assert {u.split for u in found.values()} == {"train", "dev", "test"}
    assert ledger(root) == [("all", "incomplete_subset")]

    from torchaudio.datasets import YESNO

    assert sorted(found) == YESNO(root)._walker
