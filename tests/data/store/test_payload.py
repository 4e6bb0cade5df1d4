"""Payloads: FLAC and PCM hold the same samples; what is damaged is told from what is whole."""

import io
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
import soundfile

from speechssl.config import ShardConfig
from speechssl.core.errors import AudioError, DataError
from speechssl.data.store import flac
from speechssl.data.store.payload import crc32, decode_payload, encode_payload, encoding_of
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.verify import verify_shards
from speechssl.data.store.writer import shard_manifest
from tests.support.chirps import chirp_manifest

WAVE = (np.random.default_rng(0).normal(0, 0.2, 5000)).astype(np.float32)
EXACT = np.clip(np.rint(WAVE * 32768), -32768, 32767).astype(np.int16)


def decode(data, encoding, *, item, samples, start, count):
    out = np.full(count, -1, dtype=np.int16)
    decode_payload(data, encoding, item=item, samples=samples, start=start, out=out)
    return out


@pytest.fixture(params=["pcm16", "flac", "flac-miniaudio"])
def encoding(request, monkeypatch):
    name, _, by = request.param.partition("-")
    faster = flac._faster()
    if by == "miniaudio" and faster is None:
        pytest.skip("miniaudio is not installed: pip install 'speechssl[fast]'")
    monkeypatch.setattr(flac, "_decode_miniaudio", faster if by == "miniaudio" else None)
    return name


@pytest.mark.parametrize(("start", "count"), [(0, 5000), (1234, 1000), (4999, 1), (17, 0)])
def test_samples_come_back_exactly(encoding, start, count):
    data = encode_payload(WAVE, encoding)
    out = decode(data, encoding, item="x", samples=5000, start=start, count=count)
    assert np.array_equal(out, EXACT[start : start + count])
    assert encode_payload(WAVE, encoding) == data
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")  # and any program reads the member
    assert rate == 16_000
    assert np.array_equal(samples, EXACT)


def test_a_length_that_is_not_the_index_s(encoding):
    data = encode_payload(WAVE, encoding)
    with pytest.raises(AudioError, match=r"length_mismatch|undecodable"):
        decode(data, encoding, item="x", samples=5001, start=0, count=5001)


def test_cut_and_spoilt_payloads(encoding):
    data = encode_payload(WAVE, encoding)
    for bad in (data[:-600], data[:20], b"RIFF" + bytes(60), bytes(100)):
        with pytest.raises(AudioError) as caught:
            decode(bad, encoding, item="utt", samples=5000, start=0, count=5000)
        assert caught.value.reason in {"undecodable", "length_mismatch"}


def test_flac_of_more_than_16_bits_is_not_rounded_in_silence(monkeypatch):
    data = io.BytesIO()
    soundfile.write(data, WAVE, 16_000, format="FLAC", subtype="PCM_24")
    with pytest.raises(AudioError, match="24 bits"):
        decode(data.getvalue(), "flac", item="x", samples=5000, start=0, count=5000)


def test_a_header_that_claims_more_than_there_is_costs_no_memory(encoding):
    data = bytearray(encode_payload(WAVE, encoding))
    data[21:26] = bytes([data[21] | 15]) + b"\xff" * 4  # FLAC: 2^36 - 1 samples; WAV: a wild header
    with pytest.raises(AudioError):
        decode(bytes(data), encoding, item="x", samples=5000, start=0, count=5000)


def test_encoding_of_a_folder():
    assert encoding_of({}, "x") == "flac"  # shards of earlier versions
    with pytest.raises(DataError, match=r"x: shards in encoding 'opus', this program reads flac, pcm16"):
        encoding_of({"encoding": "opus"}, "x")


def test_pcm_shards_hold_the_samples_of_flac_shards(tmp_path):
    manifest = chirp_manifest(tmp_path / "tones", [0.5 + 0.1 * i for i in range(12)])
    corpora = {}
    for name in ("flac", "pcm16"):
        shard_manifest(manifest, tmp_path / name, ShardConfig(shard_seconds=5.0, workers=1, encoding=name))
        assert verify_shards(tmp_path / name).ok
        corpora[name] = open_corpus(tmp_path / name)
    flac, pcm = corpora["flac"], corpora["pcm16"]
    assert flac.ids == pcm.ids
    for i in range(len(flac)):
        assert np.array_equal(flac.read(i), pcm.read(i))
        assert np.array_equal(flac.read(i, 320, 1600), pcm.read(i, 320, 1600))
    with tarfile.open(next((tmp_path / "pcm16").glob("*.tar"))) as tar:
        assert {name.rsplit(".", 1)[1] for name in tar.getnames()} == {"wav", "json", "txt"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_stock_webdataset_reads_pcm_shards(tmp_path):
    import webdataset

    manifest = chirp_manifest(tmp_path / "tones", [0.5, 0.7])
    shard_manifest(manifest, tmp_path / "s", ShardConfig(workers=1, encoding="pcm16"))
    (tar,) = (tmp_path / "s").glob("*.tar")
    samples = webdataset.WebDataset(str(tar), shardshuffle=False)
    seen = {sample["__key__"]: soundfile.read(io.BytesIO(sample["wav"]))[0] for sample in samples}
    corpus = open_corpus(tmp_path / "s")
    for i, name in enumerate(corpus.ids):
        assert np.allclose(seen[name], corpus.read(i))


def test_damage_in_a_pcm_shard_is_found(tmp_path):
    manifest = chirp_manifest(tmp_path / "tones", [0.5, 0.7])
    shard_manifest(manifest, tmp_path / "s", ShardConfig(workers=1, encoding="pcm16"))
    (tar,) = (tmp_path / "s").glob("*.tar")
    corpus = open_corpus(tmp_path / "s")
    data = bytearray(tar.read_bytes())
    data[corpus.row(0).offset + 1000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(AudioError, match="damaged_payload"):
        open_corpus(tmp_path / "s").read(0)
    assert [entry.reason for entry in verify_shards(tmp_path / "s").problems] == ["damaged_payload"]


@pytest.mark.parametrize("size", [0, 1, 3, 64, 4097, 100_003])
def test_the_checksum_is_that_of_zlib(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32(data) == crc32(bytearray(data)) == crc32(memoryview(data)) == zlib.crc32(data)
    assert crc32(memoryview(b"x" + data)[1:]) == zlib.crc32(data)


def test_without_the_faster_library_the_checksum_is_zlib_itself():
    code = (
        "import sys; sys.modules['isal'] = None; import zlib; from speechssl.data.store.payload import crc32; "
        "print(crc32 is zlib.crc32)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
