"""FLAC decoders: each gives the same samples, whatever they are, in several threads at once; damage is an error."""

import io
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import encode_flac
from speechssl.data.store import flac

WAVE = np.random.default_rng(1).normal(0, 3000, 40_000).astype(np.int16)
DATA = encode_flac(WAVE)
DECODERS = {"libsndfile": flac._decode_soundfile, "dr_flac": flac._faster()}


@pytest.fixture(params=DECODERS, autouse=True)
def decoder(request, monkeypatch):
    if DECODERS[request.param] is None:
        pytest.skip("miniaudio is not installed: pip install 'speechssl[fast]'")
    monkeypatch.setattr(flac, "_decode_miniaudio", DECODERS[request.param])


def read(data=DATA, start=0, count=40_000, samples=40_000):
    out = np.zeros(count, np.int16)
    flac.decode_flac(data, item="utt", samples=samples, start=start, out=out)
    return out


@pytest.mark.parametrize("start", [0, 1, 1151, 1152, 1153, 30_000, 39_999])
@pytest.mark.parametrize("count", [0, 1, 1152, 5000])
def test_any_part_of_a_stream(start, count):
    count = min(count, 40_000 - start)
    assert np.array_equal(read(start=start, count=count), WAVE[start : start + count])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 700), st.floats(0, 15)), min_size=1, max_size=12), st.integers(0, 2**32))
def test_samples_are_exact_whatever_they_are(pieces, seed):
    random = np.random.default_rng(seed)
    wave = np.concatenate([random.normal(0, 2**loud, n) for n, loud in pieces]).clip(-32768, 32767).astype(np.int16)
    assert np.array_equal(read(encode_flac(wave), count=len(wave), samples=len(wave)), wave)


def test_linear_predictors_of_other_encoders_are_decoded():
    data = io.BytesIO()
    smooth = (9000 * np.sin(np.arange(40_000) / 9) + WAVE / 100).astype(np.int16)
    soundfile.write(data, smooth, 16_000, format="FLAC", subtype="PCM_16", compression_level=5 / 8)
    assert np.array_equal(read(data.getvalue()), smooth)


def test_damage_is_an_error():
    bad = bytearray(DATA)
    bad[len(bad) // 2] ^= 4
    with pytest.raises(AudioError) as caught:
        read(bytes(bad))
    assert caught.value.reason in {"undecodable", "length_mismatch"}
    with pytest.raises(AudioError, match="length_mismatch"):
        read(samples=40_001)


def test_many_threads_give_the_same():
    found = [[] for _ in range(4)]

    def work(mine):
        mine.extend(np.array_equal(read(start=7, count=39_000), WAVE[7:39_007]) for _ in range(30))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * 30] * 4
