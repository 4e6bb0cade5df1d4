"""Frames decoded by compiled code: the samples of libsndfile, bit for bit, or a refusal; whatever the bytes are."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.store.flac import _first_frame, _stream
from speechssl.data.store.flac_frames import _crc16_tables, decode_frames

RANDOM = np.random.default_rng(0)


def encoded(wave, level=2, rate=16_000):
    data = io.BytesIO()
    soundfile.write(data, wave, rate, format="FLAC", subtype="PCM_16", compression_level=level / 8)
    return data.getvalue()


def decoded(data, start, count, most=65_535, guard=64):
    """Return (samples decoded, out); what lies around ``out`` must not change."""
    memory = np.full(count + 2 * guard, 12_345, np.int16)
    out = memory[guard : guard + count]
    done = decode_frames(_stream(data), _first_frame(data), start, out, np.empty(most, np.int32))
    assert (memory[:guard] == 12_345).all()
    assert (memory[guard + count :] == 12_345).all()
    return done, out


def noise(n, scale):
    return np.clip(RANDOM.normal(0, scale, n), -32768, 32767).astype(np.int16)


def rough(n):
    """Loud and silent stretches: Rice parameters from 0 to 14 in one stream."""
    return (RANDOM.normal(0, 1, n) * np.repeat(10 ** RANDOM.uniform(-1, 4.4, n // 100 + 1), 100)[:n]).clip(
        -32768, 32767
    ).astype(np.int16)  # fmt: skip


WAVES = {
    "speech-like": np.cumsum(noise(50_000, 40)).astype(np.int16),
    "smooth": (12_000 * np.sin(np.arange(40_000) / 50) + noise(40_000, 1)).astype(np.int16),
    "very smooth": (30_000 * np.sin(np.arange(40_000) / 400)).astype(np.int16),
    "white": noise(30_000, 8000),
    "rough": rough(60_000),
    "full scale": RANDOM.integers(-32768, 32768, 20_000).astype(np.int16),
    "alternating": np.tile(np.array([-32768, 32767], np.int16), 5000),
    "clicks": np.where(RANDOM.random(30_000) < 0.001, 30_000, 0).astype(np.int16),
    "silence": np.zeros(5000, np.int16),
    "constant": np.full(5000, -77, np.int16),
    "8 bits": noise(30_000, 50) * np.int16(256),
    "even": noise(30_000, 50) * np.int16(2),
    "one sample": np.array([-5], np.int16),
    "one frame": noise(1152, 100),
    "a frame and a sample": noise(1153, 100),
    "a frame and 300": noise(1452, 100),
    "many frames": noise(1152 * 2100, 3),
}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("wave", WAVES.values(), ids=WAVES)
def test_samples_are_exact(wave, level):
    data = encoded(wave, level)
    done, out = decoded(data, 0, len(wave))
    assert done == len(wave)
    assert np.array_equal(out, wave)


@pytest.mark.parametrize("start", [0, 1, 1151, 1152, 1153, 30_000, 49_999])
@pytest.mark.parametrize("count", [0, 1, 1152, 5000])
def test_any_part_of_a_stream(start, count):
    wave = WAVES["speech-like"]
    count = min(count, len(wave) - start)
    done, out = decoded(encoded(wave), start, count)
    assert done >= start + count
    assert np.array_equal(out, wave[start : start + count])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 700), st.floats(0, 15)), min_size=1, max_size=12), st.integers(0, 2**32))
def test_samples_are_exact_whatever_they_are(pieces, seed):
    random = np.random.default_rng(seed)
    wave = np.concatenate([random.normal(0, 2**loud, n) for n, loud in pieces]).clip(-32768, 32767).astype(np.int16)
    done, out = decoded(encoded(wave), 0, len(wave))
    assert done == len(wave)
    assert np.array_equal(out, wave)


TONE = (9000 * np.sin(np.arange(40_000) / 3) + noise(40_000, 30)).astype(np.int16)


@pytest.mark.parametrize("wave", [np.stack([WAVES["white"]] * 2, axis=1), TONE], ids=["stereo", "linear"])
def test_what_shards_do_not_hold_is_refused(wave):
    done, _ = decoded(encoded(wave, level=5), 0, len(wave))
    assert done < len(wave)


def test_another_rate_is_refused():
    assert decoded(encoded(WAVES["white"], rate=8000), 0, 30_000)[0] == 0


def test_blocks_larger_than_promised_are_refused():
    assert decoded(encoded(WAVES["white"]), 0, 30_000, most=1151)[0] == 0


@pytest.mark.parametrize("name", ["speech-like", "8 bits", "constant"])
def test_every_damaged_frame_is_refused(name):
    """One bit anywhere in a frame: no sample of it or after it is believed, nothing is read or written outside."""
    wave = WAVES[name][:4000]
    whole = encoded(wave)
    first = _first_frame(whole)
    for place in RANDOM.permutation(8 * (len(whole) - first))[:1500]:
        data = bytearray(whole)
        data[first + place // 8] ^= 1 << place % 8
        done, out = decoded(bytes(data), 0, len(wave))
        assert done < len(wave), place
        assert np.array_equal(out[:done], wave[:done])


def test_cut_streams_are_refused():
    wave = WAVES["speech-like"][:4000]
    whole = encoded(wave)
    for size in [*range(42, 120), *RANDOM.integers(120, len(whole), 200), len(whole) - 1]:
        done, _ = decoded(whole[:size], 0, len(wave))
        assert done < len(wave)


def with_crcs(frame):
    """Return a frame with the CRC-16 that makes it look whole."""
    crc = 0
    for byte in frame:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
    return frame + crc.to_bytes(2, "big")


@pytest.mark.parametrize("seed", range(5))
def test_wild_frames_with_right_checksums_do_no_harm(seed):
    """Random subframes behind a good header: every kind, order, partition and code a stranger could write."""
    random = np.random.default_rng(seed)
    for _ in range(400):
        n = int(random.integers(1, 4000))
        header = b"\xff\xf8\x75\x08\x00" + (n - 1).to_bytes(2, "big") + b"\x00"
        kind = int(random.choice([0, 1, 8, 9, 10, 11, 12, int(random.integers(64)), 8]))
        zeros = bytes(int(random.integers(0, 40)))
        body = bytes([kind << 1 | int(random.random() < 0.2)]) + random.bytes(int(random.integers(0, 60))) + zeros
        data = (
            b"fLaC\x80\x00\x00\x22" + bytes(34) + with_crcs(header + body + random.bytes(int(random.integers(0, 3000))))
        )
        done, _ = decoded(data, int(random.integers(0, 10)), int(random.integers(0, 5000)), most=n)
        assert done in {0, n}


def test_a_run_of_zeros_without_end_stops():
    header = b"\xff\xf8\x75\x08\x00" + (999).to_bytes(2, "big") + b"\x00"
    data = b"fLaC\x80\x00\x00\x22" + bytes(34) + with_crcs(header + b"\x10" + bytes(100_000))
    assert decoded(data, 0, 1000)[0] == 0


def test_frame_checksums_are_those_of_the_standard():
    tables = _crc16_tables().astype(int)
    data = b"123456789"  # CRC-16 of polynomial 0x8005, no reflection, from 0: 0xFEE8 (RFC 9639 section 9.3)
    crc = 0
    for i, byte in enumerate(data):
        crc ^= tables[len(data) - 1 - i, byte]
    assert crc == 0xFEE8
    assert with_crcs(data)[-2:] == b"\xfe\xe8"
