import pytest

from speechssl.data.ingest.layouts import canonical_split, speaker_of, split_of


@pytest.mark.parametrize(("path", "speaker"), [
    ("LibriSpeech/train-clean-5/1970/28415/1970-28415-0000.flac", "1970"),
    ("LibriTTS/dev-clean/84/121123/84_121123_000007_000001.wav", "84"),
    ("1970/28415/1971-28415-0000.flac", None),
    ("1970/28415/28415-1970-0000.flac", None),
    ("VCTK/wav48/p225/p225_001.wav", "p225"),
    ("VCTK/wav48_silence_trimmed/s5/s5_001_mic1.flac", "s5"),
    ("an4/wav/an4_clstk/fash/an251-fash-b.sph", "fash"),
    ("an4/wav/an4_clstk/mrjc2/cen3-mrjc2-b.sph", "mrjc2"),
    ("TIMIT/TRAIN/DR1/FCJF0/SA1.WAV", "fcjf0"),
    ("free-spoken-digit-dataset/recordings/0_jackson_12.wav", "jackson"),
    ("wake words/alexa/0.flac", None),
    ("alexa/alexa_106.wav", None),
    ("x.wav", None),
])  # fmt: skip
def test_speakers(path, speaker):
    assert speaker_of(path) == speaker


@pytest.mark.parametrize(("path", "split"), [
    ("LibriSpeech/train-clean-100/1/2/1-2-3.flac", "train"),
    ("dev-clean_converted/1272/128104/1272-128104-0000.wav", "dev"),
    ("LibriSpeech/test-other/1/2/x.flac", "test"),
    ("data/Validation/x.wav", "dev"),
    ("train/test/x.wav", "test"),
    ("test_recordings/x.wav", None),
    ("training camp/x.wav", None),
    ("test.wav", None),
])  # fmt: skip
def test_splits(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize(("name", "split"), [
    ("validation", "dev"), ("Valid", "dev"), ("train-clean-100", "train"), ("TEST", "test"), ("eval", "test"),
    ("test_other", "test"), ("extra", "extra"), ("trainer", "trainer"), ("", None), (None, None),
])  # fmt: skip
def test_one_name_for_each_split(name, split):
    assert canonical_split(name) == split
