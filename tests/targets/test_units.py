"""Units: MFCC against torchaudio, alignment, k-means, tables, labelling of a corpus with damage and interruptions."""

import math
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.arrays import load_arrays, save_arrays
from speechssl.core.errors import AudioError, DataError
from speechssl.core.ledger import Entry
from speechssl.models.encoder import SpeechEncoder
from speechssl.targets import fit
from speechssl.targets import kmeans as kmeans_module
from speechssl.targets import units as units_module
from speechssl.targets.audio import group_rows, read_ahead
from speechssl.targets.features import LayerFeatures, MfccFeatures, NormalisedFeatures
from speechssl.targets.fit import sample_features
from speechssl.targets.kmeans import KMeans, fit_kmeans
from speechssl.targets.mfcc import mfcc, mfcc_frames, nearest_frames
from speechssl.targets.source import Source
from speechssl.targets.table import UnitTable
from speechssl.targets.units import label_corpus, make_units

MODEL = ModelConfig(
    frontend=FrontendConfig(kind="logmel", n_mels=20, stack=2),
    encoder=EncoderConfig(dim=16, layers=2, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2),
)


class Tones:
    """A corpus in memory: each utterance steps through a few of five tones; some rows may be unreadable."""

    def __init__(self, count=12, broken=()):
        rng = np.random.default_rng(0)
        self.broken = set(broken)
        self.waves = []
        for row in range(count):
            pitch = np.repeat(rng.choice([150, 300, 600, 1200, 2400], 4), 2_000 + 161 * row)
            noise = rng.normal(size=len(pitch))
            self.waves.append((0.3 * np.sin(2 * np.pi * pitch.cumsum() / 16_000) + 1e-3 * noise).astype(np.float32))
        self.ids = [f"tone-{row}" for row in range(count)]
        self.samples = np.array([len(wave) for wave in self.waves])
        self.reads = []

    def read(self, row):
        self.reads.append(row)
        if row in self.broken:
            raise AudioError(self.ids[row], "checksum", "bytes differ from the index")
        return self.waves[row]

    @property
    def contents(self):
        return np.array([zlib.crc32(wave.tobytes()) for wave in self.waves], dtype=np.uint64)


def encoder():
    torch.manual_seed(0)
    return SpeechEncoder(MODEL)


def source(corpus, features=None, **changes):
    features = features or MfccFeatures(encoder())
    return Source(corpus, features, range(len(corpus.ids)), **{"batch_seconds": 2.0, "threads": 2, **changes})


def settings(**changes):
    return {"clusters": 5, "hours": 1.0, "starts": 3, "seed": 1, **changes}


# ------------------------------------------------------------------------------------------------------ MFCC


@pytest.mark.parametrize("samples", [400, 559, 560, 561, 16_000, 16_123])
def test_mfcc_of_joined_waveforms_is_that_of_each_alone(samples):
    rng = np.random.default_rng(samples)
    waves = [rng.normal(size=n).astype(np.float32) for n in (5_000, samples, 400)]
    for wave, found in zip(waves, mfcc(waves), strict=True):
        own = kaldi.mfcc(torch.from_numpy(wave)[None], sample_frequency=16_000, use_energy=False).t()
        first = compute_deltas(own)
        torch.testing.assert_close(found.t(), torch.cat([own, first, compute_deltas(first)]))
        assert found.shape == (mfcc_frames(len(wave)), 39)


def test_alignment_takes_the_mfcc_frame_with_the_nearest_centre():
    # The waveform stem (hop 320, 400 samples) meets every second MFCC frame exactly, as HuBERT subsamples.
    assert nearest_frames(50, 16_400, hop=320, receptive=400).tolist() == list(range(0, 100, 2))
    for hop, receptive in ((640, 880), (480, 720), (320, 400), (160, 400)):
        samples, frames = 20_000, (20_000 - receptive) // hop + 1
        found = nearest_frames(frames, samples, hop=hop, receptive=receptive)
        centres = [j * 160 + 200 for j in range(mfcc_frames(samples))]
        for i, j in enumerate(found.tolist()):
            distances = [abs(i * hop + receptive / 2 - centre) for centre in centres]
            assert distances[j] == min(distances)


def test_mfcc_features_have_one_frame_for_each_encoder_frame():
    model = encoder()
    features = MfccFeatures(model)
    waves = [np.ones(n, dtype=np.float32) for n in (features.min_samples, 7_777, 16_000)]
    assert [len(values) for values in features(waves)] == [int(model.frames(len(wave))) for wave in waves]
    assert len(features(waves)[0]) == 1


# --------------------------------------------------------------------------------------------------- k-means


def test_a_fit_is_as_good_as_that_of_scikit_learn():
    """Mean squared distance, by the recipe of HuBERT's ``learn_kmeans``."""
    from sklearn.cluster import MiniBatchKMeans

    points = np.random.default_rng(5).normal(size=(30_000, 6)).astype(np.float32)
    recipe = {"batch_size": 10_000, "max_no_improvement": 100, "reassignment_ratio": 0.0, "compute_labels": False}
    plain = MiniBatchKMeans(25, n_init=3, tol=0.0, random_state=11, **recipe).fit(points).cluster_centers_

    def distance(centroids) -> float:
        nearest = torch.cdist(torch.from_numpy(points), torch.as_tensor(centroids)).min(dim=1).values
        return float(nearest.square().mean())

    assert distance(fit_kmeans(points, 25, seed=11, starts=3).centroids) < 1.01 * distance(plain)


def test_a_fit_can_be_stopped_before_each_start_and_each_mini_batch():
    points = np.random.default_rng(5).normal(size=(3_000, 6)).astype(np.float32)
    asked = []
    fit_kmeans(points, 7, seed=11, starts=3, check=lambda: asked.append(1))
    assert len(asked) % kmeans_module.LOOK_EVERY == 3

    class StopHereError(Exception):
        pass

    for place in (1, 10, len(asked)):
        left = iter([None] * (place - 1))

        def stop(left=left):
            if next(left, 0) == 0:
                raise StopHereError

        with pytest.raises(StopHereError):
            fit_kmeans(points, 7, seed=11, starts=3, check=stop)


def test_a_fit_ends_when_every_frame_is_a_centroid():
    points = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    assert sorted(fit_kmeans(points, 4, seed=1, starts=2).centroids.round().int().tolist()) == np.eye(4)[::-1].tolist()


def test_kmeans_finds_separated_groups_and_assigns_the_nearest_centroid():
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(6, 10)) * 20 + 1_000
    labels = rng.integers(0, 6, 900)
    points = (centres[labels] + rng.normal(size=(900, 10))).astype(np.float32)
    kmeans = fit_kmeans(points, 6, seed=1, starts=5)
    units = kmeans.assign(torch.from_numpy(points))
    assert len({(int(a), int(b)) for a, b in zip(labels, units, strict=True)}) == 6
    brute = ((points[:, None].astype(np.float64) - kmeans.centroids.numpy()[None]) ** 2).sum(-1).argmin(1)
    assert units.tolist() == brute.tolist()
    assert torch.equal(fit_kmeans(points, 6, seed=1, starts=5).centroids, kmeans.centroids)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((3, 2), dtype=np.float32), "3 frames cannot make 4 clusters"),
        (np.full((9, 2), np.nan, dtype=np.float32), "not finite"),
        (np.zeros((9, 2), dtype=np.float32), "silence"),
    ],
)
def test_kmeans_refuses_what_it_cannot_cluster(points, message):
    with pytest.raises(DataError, match=message):
        fit_kmeans(points, 4, seed=1, starts=1)


# ----------------------------------------------------------------------------------------------------- table


def test_table_gives_slices_and_statistics(tmp_path):
    table = UnitTable({"a": np.array([0, 0, 1, 1]), "b": np.array([3, 3, 3])}, n_units=5, hop=320)
    table.save(tmp_path / "units.npz")
    loaded = UnitTable.load(tmp_path / "units.npz")
    for each in (table, loaded):
        assert each.get("a", 1, 2).tolist() == [0, 1]
        assert each.get("a", 3, 10).tolist() == [1]
        assert each.get("a", 9, 2).tolist() == []
        assert each.get("b").tolist() == [3, 3, 3]
        assert each.get("c") is None
        assert ("a" in each, "c" in each, len(each), each.hop, each.n_units) == (True, False, 2, 320, 5)
    shares = [2 / 7, 2 / 7, 3 / 7]
    quality = loaded.quality()
    assert quality["entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-4)
    assert (quality["dead"], quality["units"], quality["frames"], quality["utterances"]) == (2, 5, 7, 2)
    assert quality["largest_share"] == pytest.approx(3 / 7, abs=1e-4)
    assert quality["frames_per_run"] == pytest.approx(7 / 3, abs=0.01)


def test_table_refuses_units_out_of_range():
    with pytest.raises(ValueError, match="below n_units = 2"):
        UnitTable({"a": np.array([2])}, n_units=2, hop=320)
    with pytest.raises(ValueError, match="65,536"):
        UnitTable({"a": np.array([2])}, n_units=70_000, hop=320)


def test_damaged_tables_are_refused_with_their_name(tmp_path):
    path = tmp_path / "units.npz"
    UnitTable({"a": np.arange(1_000) % 7}, n_units=7, hop=320).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(np.arange(40, dtype=np.uint16).__mod__(7).astype(np.uint16).tobytes()[:20]) + 300] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], b"", b"not a zip"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"units\.npz: missing or damaged"):
            UnitTable.load(path)
    save_arrays(path, ids=np.zeros(1, np.uint8), offsets=np.arange(5), units=np.arange(9), header=np.array([9, 1]))
    with pytest.raises(DataError, match="not a table of units"):
        UnitTable.load(path)
    with pytest.raises(DataError, match="missing"):
        load_arrays(tmp_path / "absent.npz", {"x"})
    with pytest.raises(DataError, match="cannot be written"):
        (tmp_path / "folder.npz").mkdir()
        save_arrays(tmp_path / "folder.npz", x=np.zeros(1))
    assert not list(tmp_path.glob("*.tmp"))


# --------------------------------------------------------------------------------------------------- reading


def test_groups_hold_every_row_once_within_the_limit():
    corpus = Tones()
    groups = group_rows(corpus, range(12), 2.0)
    assert sorted(row for group in groups for row in group) == list(range(12))
    assert all(len(group) * corpus.samples[group].max() <= 32_000 for group in groups)
    assert len(groups) < 12
    assert [len(group) for group in group_rows(corpus, range(12), 0.1)] == [1] * 12


def test_reading_ahead_keeps_order_and_passes_errors_on():
    corpus = Tones(broken=[2])
    read = list(read_ahead(corpus, [[0, 2], [1]], 3, lambda group: group))
    assert [item for group in read for item, _ in group] == ["tone-0", "tone-2", "tone-1"]
    assert isinstance(read[0][1][1], AudioError)

    def fail(group):
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        list(read_ahead(corpus, [[0], [1], [3]], 2, fail))


# ------------------------------------------------------------------------------------------------- whole way


def test_units_tell_tones_apart_and_do_not_depend_on_grouping(tmp_path):
    corpus = Tones()
    table = make_units(source(corpus), tmp_path / "one", **settings())
    other = make_units(source(corpus, batch_seconds=30.0, threads=1), tmp_path / "two", **settings())
    assert set(table.ids) == set(corpus.ids)
    assert all(table.get(item).tolist() == other.get(item).tolist() for item in corpus.ids)
    assert table.quality()["dead"] == 0
    # Each tone lasts 25 frames of 20 ms or more: units must hold still within it.
    assert table.quality()["frames_per_run"] > 3
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["kmeans.npz", "units.json", "units.npz"]


def test_finished_units_are_not_made_again(tmp_path):
    corpus = Tones()
    first = make_units(source(corpus), tmp_path, **settings())
    corpus.reads.clear()
    again = make_units(source(corpus), tmp_path, **settings())
    assert corpus.reads == []
    assert np.array_equal(first.units, again.units)


def test_interrupted_labelling_goes_on_with_the_next_part(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "PART_SECONDS", 1.0)
    corpus, whole = Tones(), Tones()
    expected = make_units(source(whole), tmp_path / "whole", **settings())
    sample = sample_features(source(corpus), hours=1.0, seed=1)
    kmeans = fit_kmeans(sample, 5, seed=1, starts=3)
    save = UnitTable.save
    saved = []

    def save_two(table, path):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)
        save(table, path)

    monkeypatch.setattr(UnitTable, "save", save_two)
    with pytest.raises(KeyboardInterrupt):
        label_corpus(source(corpus), kmeans, tmp_path, part_seconds=1.0)
    monkeypatch.setattr(UnitTable, "save", save)
    done = {item for path in saved for item in UnitTable.load(path).ids}
    corpus.reads.clear()
    table = label_corpus(source(corpus), kmeans, tmp_path, part_seconds=1.0)
    assert done and not done & {corpus.ids[row] for row in corpus.reads}
    assert set(table.ids) == set(expected.ids) == set(corpus.ids)
    assert list(tmp_path.glob("parts-*")) == []
    # Parts of other centroids are not taken for these.
    moved = label_corpus(source(corpus), KMeans(kmeans.centroids.flip(0)), tmp_path)
    assert all((table.get(item) + moved.get(item) == 4).all() for item in corpus.ids)


def test_unreadable_utterances_are_recorded_and_left_out(tmp_path):
    corpus = Tones(broken=[4])
    entries = []
    table = make_units(source(corpus), tmp_path, record=entries.extend, **settings())
    assert entries == [Entry("pretrain", "tone-4", "checksum", "bytes differ from the index", action="dropped")]
    assert table.get("tone-4") is None
    assert len(table) == 11


def test_too_many_unreadable_utterances_stop(tmp_path):
    with pytest.raises(DataError, match="checksum: 9"):
        make_units(source(Tones(broken=range(9))), tmp_path / "most", **settings())
    with pytest.raises(DataError, match="0 frames cannot make 5"):
        make_units(source(Tones(broken=range(12))), tmp_path / "all", **settings())


def test_no_utterance_long_enough_for_a_frame():
    corpus = Tones(2)
    corpus.waves = [wave[:100] for wave in corpus.waves]
    corpus.samples = np.array([100, 100])
    with pytest.raises(DataError, match="no utterance is long enough"):
        label_corpus(source(corpus), KMeans(torch.zeros(2, 39)), Path("absent"))


def test_sample_is_keyed_and_bounded(monkeypatch):
    corpus = Tones()
    whole = sample_features(source(corpus), hours=1.0, seed=1)
    frames = sum(int(encoder().frames(int(n))) for n in corpus.samples)
    assert whole.shape == (frames, 39)
    part = sample_features(source(corpus), hours=2.0 / 3600, seed=1)
    assert 0 < len(part) < frames
    assert np.array_equal(part, sample_features(source(corpus, threads=1), hours=2.0 / 3600, seed=1))
    assert not np.array_equal(part, sample_features(source(corpus), hours=2.0 / 3600, seed=2))
    monkeypatch.setattr(fit, "SAMPLE_BYTES", 39 * 4 * frames // 4)
    small = sample_features(source(corpus), hours=1.0, seed=1)
    assert 0.15 * frames < len(small) < 0.35 * frames


def test_layer_features_are_those_of_the_encoder_alone_and_in_groups():
    model = encoder()
    corpus = Tones(5)
    for layer in (1, 2):
        features = LayerFeatures(model, layer, device="cpu", bf16=False)
        together = features(corpus.waves)
        for wave, found in zip(corpus.waves, together, strict=True):
            with torch.no_grad():
                expected = model(torch.from_numpy(wave)[None], layers=True).layers[layer][0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not model.training
    half = LayerFeatures(model, 1, device="cpu", bf16=True)(corpus.waves[:2])
    assert all(values.dtype == torch.float32 for values in half)


def test_units_of_a_layer(tmp_path):
    corpus = Tones()
    table = make_units(
        source(corpus, LayerFeatures(encoder(), 1, device="cpu", bf16=False)), tmp_path, **settings(clusters=4)
    )
    assert set(table.ids) == set(corpus.ids)
    assert table.quality()["dead"] == 0
    assert '"features": "layer 1"' in (tmp_path / "units.json").read_text()


def test_normalised_features_forget_gain_and_offset_of_an_utterance():
    wave = np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1
    wave *= np.linspace(0.1, 1.0, 16_000, dtype=np.float32)
    features = NormalisedFeatures(MfccFeatures(encoder()))
    loud, quiet = features([wave, wave * 0.1])
    assert loud.shape[1] == features.dim == 39
    assert torch.allclose(loud.mean(0), torch.zeros(39), atol=1e-4)
    assert torch.allclose(loud.std(0, correction=0), torch.ones(39), atol=1e-2)
    assert torch.allclose(loud, quiet, atol=0.05)


def test_threads_that_make_the_first_mfcc_of_a_process_need_not_import_torchaudio():
    """Its modules import each other in circles: threads that import it at the same time can see half of it."""
    code = (
        "import sys\n"
        "from speechssl.config import ModelConfig\n"
        "from speechssl.models.encoder import SpeechEncoder\n"
        "from speechssl.targets.features import MfccFeatures\n"
        "MfccFeatures(SpeechEncoder(ModelConfig()))\n"
        "assert 'torchaudio.compliance.kaldi' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
