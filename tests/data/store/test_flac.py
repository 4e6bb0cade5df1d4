"""The choice of a FLAC decoder: compiled code only once it pays, only where it agrees, and the others for the rest."""

import io
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import AudioError
from speechssl.data.audio.decode import encode_flac
from speechssl.data.store import flac

WAVE = np.random.default_rng(1).normal(0, 3000, 40_000).astype(np.int16)
DATA = encode_flac(WAVE)


@pytest.fixture
def compiled(monkeypatch):
    """Compiled code from the first 100,000 samples on."""
    made = flac._Compiled(pays_after=100_000)
    monkeypatch.setattr(flac, "_compiled", made)
    return made


def read(data=DATA, start=0, count=40_000, samples=40_000):
    out = np.zeros(count, np.int16)
    flac.decode_flac(data, item="utt", samples=samples, start=start, out=out)
    return out


def test_compiled_code_comes_when_it_pays(compiled):
    for i in range(5):
        assert (compiled._frames is not None) == (i > 2)
        assert np.array_equal(read(), WAVE)


def test_a_short_look_at_a_corpus_loads_no_compiler():
    code = (
        "import sys, numpy as np; from speechssl.data.audio.decode import encode_flac; "
        "from speechssl.data.store import flac; "
        "data = encode_flac(np.arange(30000, dtype=np.int16)); "
        "[flac.decode_flac(data, item='x', samples=30000, start=0, out=np.empty(30000, np.int16)) for _ in range(9)]; "
        "print('numba' in sys.modules, 'speechssl.data.store.flac_frames' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_it_refuses_the_others_decode(compiled, monkeypatch):
    monkeypatch.setattr(flac, "REFUSALS", 3)
    data = io.BytesIO()
    smooth = (9000 * np.sin(np.arange(40_000) / 9) + WAVE / 100).astype(np.int16)
    soundfile.write(data, smooth, 16_000, format="FLAC", subtype="PCM_16", compression_level=5 / 8)
    for _ in range(5):
        read()
    assert compiled._frames is not None
    for i in range(4):
        assert (compiled._frames is not None) == (i < 3)  # shards of linear predictors: it is asked no more
        assert np.array_equal(read(data.getvalue()), smooth)


def test_a_part_far_from_the_start_is_found_by_search(compiled):
    for _ in range(3):
        read()
    calls = []
    frames, compiled._frames = compiled._frames, lambda *words: calls.append(words[2]) or frames(*words)
    for start, count in [(0, 40_000), (100, 100), (101, 100), (30_000, 10_000)]:
        assert np.array_equal(read(start=start, count=count), WAVE[start : start + count])
    assert calls == [0, 100]


def test_damage_is_told_as_ever(compiled):
    for _ in range(3):
        read()
    bad = bytearray(DATA)
    bad[len(bad) // 2] ^= 4
    with pytest.raises(AudioError) as caught:
        read(bytes(bad))
    assert caught.value.reason in {"undecodable", "length_mismatch"}
    with pytest.raises(AudioError, match="length_mismatch"):
        read(samples=40_001)


def test_many_threads_give_the_same(compiled):
    found = [[] for _ in range(4)]

    def work(mine):
        mine.extend(np.array_equal(read(start=7, count=39_000), WAVE[7:39_007]) for _ in range(30))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * 30] * 4
    assert compiled._frames is not None


@pytest.mark.parametrize("broken", ["wrong samples", "refuses", "raises", "missing"])
def test_compiled_code_that_is_not_right_is_not_used(broken, compiled, monkeypatch, caplog):
    class Module:
        @staticmethod
        def decode_frames(stream, first, start, out, room):
            if broken == "raises":
                raise ValueError("no such instruction")
            out[:] = 1
            return len(out) if broken == "wrong samples" else 0

    def load(name):
        if broken == "missing":
            raise ImportError("no numba here")
        return Module

    monkeypatch.setattr(flac.importlib, "import_module", load)
    with caplog.at_level(logging.INFO, "speechssl"):
        for _ in range(6):
            assert np.array_equal(read(), WAVE)
    assert compiled._frames is None
    assert len(caplog.messages) == 1
    assert "FLAC is not decoded by numba" in caplog.messages[0]


def test_numba_that_compiles_nothing_is_not_used():
    code = "from speechssl.data.store import flac; print(flac._load())"
    environment = {"NUMBA_DISABLE_JIT": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "None"


def test_the_first_frame_lies_behind_all_metadata():
    assert DATA[flac._first_frame(DATA) :][:2] == b"\xff\xf8"
    assert flac._first_frame(DATA[:50]) == 50
    assert flac._first_frame(b"fLaC\x00\xff\xff\xff") == 8
