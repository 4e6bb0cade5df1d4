"""Units of large corpora: labelled by several processes, mapped from the disk, clustered on more than memory holds."""

import json
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import DataError, RunError
from speechssl.core.ledger import read_ledger
from speechssl.targets import fit
from speechssl.targets import units as units_module
from speechssl.targets.kmeans import KMeans, refine_kmeans
from speechssl.targets.source import Share
from speechssl.targets.table import UnitTable
from speechssl.targets.units import make_units
from speechssl.training.pretrain import pretrain
from tests.data.store.test_identity import NAMES, shards_of
from tests.faults.runs import config
from tests.faults.test_distributed import start_ranks
from tests.targets.test_units import Tones, settings, source

# ---------------------------------------------------------------------------------------------- M7: shares


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.mark.parametrize("world", [2, 3])
def test_M7_the_table_does_not_depend_on_how_many_label(tmp_path, monkeypatch, world):
    monkeypatch.setattr(units_module, "SMALLEST_PART_SECONDS", 2.0)
    corpora = [Tones(broken=[4]) for _ in range(world)]
    alone, entries = [], []
    make_units(source(Tones(broken=[4])), tmp_path / "one", record=alone.extend, **settings())
    tables = {}

    def make(rank):
        record = entries.extend if rank == 0 else None
        share = Share(rank, world, wait_for)
        options = {**settings(), "max_bad_fraction": 0.5, "share": share, "record": record}
        tables[rank] = make_units(source(corpora[rank]), tmp_path / "many", **options)

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tables) == world
    for name in ("units.npz", "kmeans.npz", "units.json"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    read = [set(corpus.reads) for corpus in corpora]
    assert read[1] and len(read[1]) < 12  # a part of them only
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["kmeans.npz", "units.json", "units.npz"]
    assert set(entries) == set(alone) and len(alone) == 1


def short_parts():
    """Divide even a small corpus into several parts."""
    units_module.SMALLEST_PART_SECONDS = 3.0


def test_M7_two_ranks_over_gloo_make_the_bytes_of_one(tone_corpus, uninterrupted, tmp_path):
    cfg = config("hubert", tone_corpus.shards, tmp_path / "run", steps=4)
    runs = start_ranks(cfg, setup=short_parts)
    assert [run.end(120) for run in runs] == [0, 0], runs[0].text() + runs[1].text()
    for name in ("units.npz", "kmeans.npz"):
        place = ("iteration-1", "units", name)
        assert tmp_path.joinpath("run", *place).read_bytes() == uninterrupted("hubert").joinpath(*place).read_bytes()
    assert not list((tmp_path / "run").rglob("parts-*"))


def test_M7_a_rank_that_cannot_read_ends_the_others_with_its_reason(tone_corpus, tmp_path):
    cfg = config("hubert", tone_corpus.shards, tmp_path / "run", steps=4)
    runs = start_ranks(cfg, setup=rank_1_fails)
    assert all(run.end(120) == 1 for run in runs)
    assert "rank 1 could not make the units: no more memory" in runs[0].text()


def rank_1_fails():
    import os

    units_module.SMALLEST_PART_SECONDS = 3.0
    if os.environ["RANK"] == "1":
        units_module.features_of = fails


def fails(*_):
    raise RunError("no more memory")


def test_M7_a_table_is_mapped_and_travels_as_its_path(tmp_path):
    rng = np.random.default_rng(0)
    labels = {f"id{i}": rng.integers(0, 9, int(rng.integers(1, 400))) for i in range(500)}
    UnitTable(labels, n_units=9, hop=320).save(tmp_path / "units.npz")
    table = UnitTable.load(tmp_path / "units.npz")
    assert isinstance(table.units, np.memmap) and isinstance(table.offsets, np.memmap)
    sent = pickle.dumps(table)
    assert len(sent) < 1_000
    for each in (table, pickle.loads(sent), pickle.loads(pickle.dumps(UnitTable(labels, n_units=9, hop=320)))):
        assert all(np.array_equal(each.get(name, 3, 50), values[3:53]) for name, values in labels.items())
        assert each.get("absent") is None
    every = np.concatenate(list(labels.values()))
    assert table.counts().tolist() == np.bincount(every, minlength=9).tolist()
    assert table.quality()["frames_per_run"] == round(len(every) / (np.count_nonzero(np.diff(every)) + 1), 2)


def test_M7_statistics_of_pieces_are_those_of_the_whole(monkeypatch):
    table = UnitTable({"a": np.arange(1_000) // 3 % 7}, n_units=7, hop=320)
    whole = table.quality()
    monkeypatch.setattr("speechssl.targets.table.CHUNK", 64)
    assert UnitTable({"a": np.arange(1_000) // 3 % 7}, n_units=7, hop=320).quality() == whole


# ------------------------------------------------------------------------------------- H1: units of a corpus


def test_H1_units_of_another_corpus_are_refused(tmp_path):
    corpus = Tones()
    make_units(source(corpus), tmp_path, **settings())
    assert make_units(source(corpus), tmp_path, **settings()).get("tone-3") is not None
    other = Tones()
    other.waves[2] = other.waves[2] * np.float32(0.5)
    other.ids[5] = "renamed"
    message = (
        r"units\.npz: made from another corpus: 1 ids gone \(tone-5\), 1 ids new \(renamed\), 1 ids changed \(tone-2"
    )
    with pytest.raises(DataError, match=message):
        make_units(source(other), tmp_path, **settings())
    broken = Tones(broken=[4])  # has no units, and is no other corpus
    make_units(source(broken), tmp_path / "broken", max_bad_fraction=0.5, **settings())
    make_units(source(broken), tmp_path / "broken", **settings())


def test_H1_a_run_labels_an_allowed_corpus_with_the_old_centroids(tmp_path):
    place = shards_of(tmp_path / "old", NAMES)
    cfg = config("hubert", place, tmp_path / "run", steps=4)
    pretrain(cfg)
    for name in ("model", "iteration-1/model", "iteration-2/model"):
        (tmp_path / "run" / name).rename(tmp_path / name.replace("/", "-"))
    units = tmp_path / "run" / "iteration-1" / "units"
    kept = (units / "kmeans.npz").read_bytes()
    other = shards_of(tmp_path / "new", ["another", *NAMES[1:]])
    cfg = replace(cfg, data=replace(cfg.data, shards=str(other)))
    with pytest.raises(RunError, match="was started with another corpus"):
        pretrain(cfg)
    (tmp_path / "run" / "corpus.npz").unlink()
    with pytest.raises(RunError, match=r"units\.npz was made from another corpus: .*--allow-changes"):
        pretrain(cfg)
    pretrain(cfg, allow_changes=True)
    assert (units / "kmeans.npz").read_bytes() == kept
    assert "another" in UnitTable.load(units / "units.npz")
    assert not [e for e in read_ledger(tmp_path / "run" / "ledger.jsonl") if e.reason == "no_units"]


# ------------------------------------------------------------------------------------- M4: all that was asked


def test_M4_every_frame_asked_for_is_used_when_memory_holds_a_part(tmp_path, monkeypatch, capsys):
    corpus = Tones()
    whole = fit.sample_features(source(corpus), hours=1.0, seed=1)
    monkeypatch.setattr(fit, "SAMPLE_BYTES", len(whole) * 39 * 4 // 5)
    seen = []
    refine = fit.refine_kmeans

    def watched(kmeans, frames):
        arrays = list(frames)
        seen.extend(arrays)
        return refine(kmeans, arrays)

    monkeypatch.setattr(fit, "refine_kmeans", watched)
    make_units(source(corpus), tmp_path, **settings())
    order = np.lexsort(np.concatenate(seen).T)
    assert np.array_equal(np.concatenate(seen)[order], whole[np.lexsort(whole.T)])
    quality = json.loads((tmp_path / "units.json").read_text())
    assert quality["kmeans_frames"] == len(whole)
    assert 0.1 * len(whole) < quality["kmeans_sample"] < 0.3 * len(whole)
    assert quality["kmeans_hours"] == pytest.approx(corpus.samples.sum() / 16_000 / 3600, abs=1e-4)
    said, there = capsys.readouterr().err, corpus.samples.sum() / 16_000 / 3600
    assert f"k-means: 1 h asked for, {there:.3g} h there" in said
    assert f"{len(whole):,} frames, each seen once" in said
    assert "start it: no more fit in" in said
    kept = KMeans.load(tmp_path / "kmeans.npz")
    assert (kept.frames, kept.sample) == (quality["kmeans_frames"], quality["kmeans_sample"])


def test_M4_what_fits_is_fitted_as_before_and_said(tmp_path, capsys):
    make_units(source(Tones()), tmp_path, **settings())
    quality = json.loads((tmp_path / "units.json").read_text())
    assert quality["kmeans_sample"] == quality["kmeans_frames"]
    assert "frames, all in memory" in capsys.readouterr().err


def test_M4_streamed_means_are_those_of_a_plain_loop():
    """The oracle: one frame after the other, nearest centre of its mini-batch, running means."""
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(35_000, 3)) + 6 * rng.integers(0, 3, (35_000, 1)) + 50
    start = (50 + 6 * np.arange(3)[:, None] + rng.normal(size=(3, 3))).astype(np.float32)
    pieces = np.array_split(frames.astype(np.float32), 23)
    found = refine_kmeans(KMeans(torch.from_numpy(start)), pieces)
    centres, counts = start.astype(np.float64), np.zeros(3)
    for batch in (frames[:10_000], frames[10_000:20_000], frames[20_000:]):
        nearest = ((batch[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        for frame, centre in zip(batch, nearest, strict=True):
            counts[centre] += 1
            centres[centre] += (frame - centres[centre]) / counts[centre]
    np.testing.assert_allclose(found.centroids.numpy(), centres, rtol=1e-4)
    assert found.frames == 35_000


def test_M4_frames_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        refine_kmeans(KMeans(torch.zeros(2, 2)), [np.full((5, 2), np.nan, np.float32)])
