import base64
import html.parser
import io
import re
import zlib

import numpy as np
import pytest
import soundfile

from speechssl.reports.page.audio import MEL_BANDS, RANGE_DB, log_mel, player, spectrogram

RATE = 16_000


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def one(self, tag):
        (attributes,) = [attributes for name, attributes in self.found if name == tag]
        return attributes


def tone(hertz, seconds=1.0, rate=RATE, level=0.3):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def bytes_of(address, kind):
    head, data = address.split(",", 1)
    assert head == f"data:{kind};base64"
    return base64.b64decode(data, validate=True)


def pixels(address):
    """Decode the picture with an independent reader of the PNG specification's chunks."""
    data = bytes_of(address, "image/png")
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert int.from_bytes(data[at + 8 + size : at + 12 + size], "big") == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = (int.from_bytes(chunks[b"IHDR"][i : i + 4], "big") for i in (0, 4))
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]


def test_a_player_holds_the_sound():
    wave = tone(440) + tone(1500, level=0.1)
    tag = Tags(player(wave, RATE, label="a tone")).one("audio")
    assert tag["aria-label"] == "a tone" and "controls" in tag and "autoplay" not in tag
    heard, rate = soundfile.read(io.BytesIO(bytes_of(tag["src"], "audio/mpeg")), dtype="float32")
    assert rate == RATE and len(heard) == len(wave)
    assert np.square(heard - wave).mean() < 0.01 * np.square(wave).mean()
    assert len(tag["src"]) < 0.3 * 2 * len(wave)


def test_a_rate_that_mp3_lacks_is_heard_all_the_same():
    wave = tone(440, rate=7_000)
    tag = Tags(player(wave, 7_000, label="a tone")).one("audio")
    heard, rate = soundfile.read(io.BytesIO(bytes_of(tag["src"], "audio/flac")), dtype="float32")
    assert rate == 7_000 and np.abs(heard - wave).max() < 1e-4


def test_a_library_without_mp3_writes_flac(monkeypatch):
    whole = soundfile.write

    def without(file, data, rate, **kind):
        if kind["format"] == "MP3":
            raise soundfile.LibsndfileError(1, "no such format: ")
        whole(file, data, rate, **kind)

    monkeypatch.setattr(soundfile, "write", without)
    assert "data:audio/flac;base64," in player(tone(440), RATE, label="a")


def test_equal_samples_give_equal_bytes():
    wave = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert player(wave, RATE, label="x") == player(wave.copy(), RATE, label="x")
    assert spectrogram(wave, label="x") == spectrogram(wave.copy(), label="x")


@pytest.mark.parametrize("hertz", [150, 700, 2000, 6000])
def test_a_tone_is_a_line_at_its_frequency(hertz):
    levels = log_mel(tone(hertz), RATE, 40)
    assert levels.shape == (MEL_BANDS, 40) and levels.max() == 0
    mel = 2595 * np.log10(1 + np.array([hertz, RATE / 2]) / 700)
    band = (MEL_BANDS + 1) * mel[0] / mel[1] - 1
    assert np.abs(levels[:, 5:-5].argmax(0) - band).max() <= 0.6
    far = np.abs(np.arange(MEL_BANDS) - band) > 20
    assert levels[far, 5:-5].max() < -30


def test_levels_are_decibels():
    wave = np.concatenate([tone(1000, level=0.5), tone(1000, level=0.05)])
    levels = log_mel(wave, RATE, 100).max(0)
    assert levels[10:45].mean() - levels[55:90].mean() == pytest.approx(20, abs=0.2)


def test_a_short_event_in_a_long_clip_is_not_lost():
    wave = np.zeros(60 * RATE, np.float32)
    wave[30 * RATE : 30 * RATE + RATE // 10] = tone(1000, 0.1)
    levels = log_mel(wave, RATE, 200).max(0)
    assert 99 <= levels.argmax() <= 101 and levels[:90].max() < -RANGE_DB


def test_the_picture_runs_from_quiet_to_loud_and_from_low_to_high():
    wave = np.concatenate([np.zeros(RATE, np.float32), tone(300)])
    image = pixels(Tags(spectrogram(wave, label="x", width=64)).one("img")["src"]).astype(int)
    assert image.shape == (MEL_BANDS, 64, 3)
    assert (image[:, :28] == 255).all() and image[:, 40:60].sum(2).min() < 120
    darkest = image[:, 50].sum(1).argmin()
    assert darkest > 0.7 * MEL_BANDS  # 300 Hz is near the bottom
    ramp = np.unique(image.reshape(-1, 3), axis=0).sum(1)
    assert len(ramp) > 8


def test_silence_is_white_and_damage_is_silence():
    for wave in (np.zeros(500, np.float32), np.full(500, np.nan, np.float32), np.full(500, np.inf, np.float32)):
        assert (pixels(Tags(spectrogram(wave, label="x", width=16)).one("img")["src"]) == 255).all()
        assert "audio/mpeg" in player(wave, label="x")


def test_one_sample_and_odd_rates():
    for wave, rate in ((np.ones(1, np.float32), RATE), (tone(100, rate=8_000), 8_000), (tone(99, rate=44_100), 44_100)):
        page = Tags(spectrogram(wave, rate, label="x"))
        assert pixels(page.one("img")["src"]).shape[1] == 640


def test_axes_have_units_and_places():
    page = spectrogram(tone(440, 3.3), label="x")
    places = {text: float(place) for place, text in re.findall(r'<span style="left:([\d.]+)%">([^<]+)', page)}
    assert places == pytest.approx({"0": 0, "1": 30.3, "2": 60.61, "3 s": 90.91}, abs=0.01)
    heights = {text: float(place) for place, text in re.findall(r'<span style="bottom:([\d.]+)%">([^<]+)', page)}
    assert list(heights) == ["0.5", "1", "2", "4", "8 kHz"] and heights["8 kHz"] == 100
    assert "4 kHz" in spectrogram(tone(440, rate=8_000), 8_000, label="x")


def test_labels_are_escaped():
    attack = "\"'><script>alert(1)</script>&\u202e"
    for page in (player(tone(440), label=attack), spectrogram(tone(440), label=attack)):
        tags = Tags(page)
        assert not {"script"} & {name for name, _ in tags.found}
        assert attack in {value for _, attributes in tags.found for value in attributes.values()}


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 8), np.float32)])
def test_what_is_no_sound_is_refused(wave):
    for draw in (player, spectrogram):
        with pytest.raises(ValueError, match="one channel with samples"):
            draw(wave, label="x")


def test_a_picture_too_small_is_refused():
    with pytest.raises(ValueError, match="4 x 100"):
        spectrogram(tone(440), label="x", width=4, height=100)


def test_a_spectrogram_is_small():
    wave = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32) * 0.1  # noise compresses worst
    assert len(spectrogram(wave, label="x")) < 60_000
