"""Each fault of the sound from one measurement that has it, beside the sound one that has none."""

from dataclasses import replace

import pytest

from speechssl.config import AuditConfig
from speechssl.data.audit.measure import Measurement
from speechssl.data.audit.sound import check_sound
from speechssl.data.audit.spectrum import Activity
from speechssl.data.ingest.utterance import Utterance

SOUND = Activity(-20.0, -70.0, 0.1, 0.1, 2.5, 0.83, 0)
GOOD = Measurement(
    format="wav", sample_rate=16_000, channels=1, duration=3.0, samples=48_000, digest="d", peak=0.5,
    channel_db=(-20.0,), activity=SOUND, snr_db=40.0,
)  # fmt: skip
ROW = Utterance("u", "u.wav", 3.0, 16_000, 1)
STEREO = {"channels": 2, "channel_db": (-20.0, -21.0), "correlation": 0.9}


def found(measured, row=ROW, *, whole=True, claimed=False):
    return [f.check for f in check_sound(row, measured, AuditConfig(), whole=whole, claimed=claimed)]


def test_nothing_wrong():
    assert found(GOOD, claimed=True) == []
    assert found(replace(GOOD, **STEREO)) == []


@pytest.mark.parametrize(
    ("changes", "checks"),
    [
        ({"duration": 0.05, "clipped": 0.5}, ["too_short"]),
        ({"duration": 31.0}, ["too_long"]),
        ({"sample_rate": 8_000, "bandwidth": 4_000.0}, ["low_rate"]),
        ({"bandwidth": 4_000.0}, ["narrowband"]),
        ({"bandwidth": 5_500.0}, []),
        ({"clipped": 0.003}, ["clipping"]),
        ({"dc": -0.02}, ["dc_offset"]),
        ({"snr_db": 5.0}, ["low_snr"]),
        ({"snr_db": 5.0, "duration": 0.9}, []),
        ({"snr_db": None}, []),
        ({"hum": (50.0, 20.0)}, ["hum"]),
        ({"hum": (50.0, 10.0)}, []),
        ({"activity": None}, []),
        (STEREO | {"channel_db": (-20.0, -80.0)}, ["dead_channel"]),
        (STEREO | {"channel_db": (-90.0, -100.0)}, []),
        (STEREO | {"correlation": -0.95}, ["inverted_channel"]),
        (STEREO | {"correlation": None}, []),
        ({"reason": "empty_file"}, ["empty_file"]),
        ({"reason": "decoder_crash"}, ["unusable"]),
    ],
)
def test_one_number_one_fault(changes, checks):
    assert found(replace(GOOD, **changes)) == checks


@pytest.mark.parametrize(
    ("changes", "checks"),
    [
        ({"loud_db": -50.0}, ["quiet"]),
        ({"loud_db": -70.0, "quiet_db": -90.0}, ["silent"]),
        ({"quiet_db": -22.0, "leading": 2.5}, ["no_speech"]),
        ({"leading": 2.5}, ["leading_silence"]),
        ({"trailing": 2.5}, ["trailing_silence"]),
        ({"speech_share": 0.1}, ["mostly_silence"]),
        ({"gaps": 2}, ["dropouts"]),
    ],
)
def test_faults_over_time(changes, checks):
    sound = replace(SOUND, **changes)
    assert found(replace(GOOD, activity=sound, channel_db=(sound.loud_db,))) == checks


def test_lossy_coders_make_holes_themselves():
    assert found(replace(GOOD, format="ogg", activity=replace(SOUND, gaps=2))) == []


def test_channels_that_cancel_are_not_silent():
    cancelled = replace(GOOD, **STEREO | {"correlation": -1.0}, activity=replace(SOUND, loud_db=-110.0))
    assert found(cancelled) == ["inverted_channel"]


@pytest.mark.parametrize(
    ("row", "whole", "checks"),
    [
        ({"duration": 2.0}, True, ["duration_mismatch"]),
        ({"duration": 2.0}, False, []),
        ({"duration": 4.0}, False, ["duration_mismatch"]),
        ({"duration": 2.95}, True, []),
        ({"duration": 0.0}, True, []),
        ({"sample_rate": 22_050}, True, ["header_mismatch"]),
        ({"channels": 2}, True, ["header_mismatch"]),
        ({"sample_rate": 0, "channels": 0}, True, []),
    ],
)
def test_claims_of_the_manifest(row, whole, checks):
    assert found(GOOD, replace(ROW, **row), whole=whole, claimed=True) == checks
    assert found(GOOD, replace(ROW, **row), whole=whole, claimed=False) == []


def test_a_finding_says_how_far_off_it_is():
    (finding,) = check_sound(ROW, replace(GOOD, clipped=0.01234), AuditConfig(), whole=True, claimed=True)
    assert (finding.value, finding.threshold, finding.severity) == (0.0123, 0.002, "warning")
    assert (finding.item, finding.path) == ("u", "u.wav")
    assert "1.23 %" in finding.detail
