"""A run and its corpus: another corpus is refused with counts, a moved one is not; the file stays small."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechssl.asr.finetune import finetune
from speechssl.config import ShardConfig
from speechssl.core.errors import DataError, RunError
from speechssl.core.ledger import read_ledger
from speechssl.data.ingest.manifest import write_manifest
from speechssl.data.ingest.utterance import Utterance
from speechssl.data.store import catalogue, identity, reader
from speechssl.data.store.identity import Difference, Identity, difference, identity_of, is_unchanged, text_keys
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.writer import shard_manifest
from speechssl.training.pretrain import pretrain
from tests.conftest import tone_wave
from tests.faults.runs import config

WORDS = ("ab ba", "cd", "dab", "bad cab")


def shards_of(place, names, *, louder=(), texts=None, shard_seconds=4.0):
    """Write shards of tones with these ids; those in ``louder`` have other audio."""
    place.mkdir(parents=True)
    utterances = []
    for number, name in enumerate(names):
        text = (texts or {}).get(name, WORDS[sum(map(ord, name)) % len(WORDS)])
        wave = tone_wave(text, np.random.default_rng(sum(map(ord, name)))) * (1.5 if name in louder else 1.0)
        soundfile.write(place / f"{name}.wav", wave, 16_000, subtype="PCM_16")
        split = "dev" if number % 8 == 7 else "train"
        utterances.append(Utterance(name, f"{name}.wav", len(wave) / 16_000, 16_000, 1, text=text, split=split))
    write_manifest(place / "manifest.jsonl", utterances)
    shard_manifest(place / "manifest.jsonl", place / "shards", ShardConfig(shard_seconds=shard_seconds, workers=1))
    return place / "shards"


NAMES = [f"u{number:02d}" for number in range(24)]


def between(old, new):
    return difference(identity_of(old), identity_of(new), lambda: new.ids)


def test_H1_gone_new_and_changed_ids_are_counted_and_named(tmp_path):
    old = open_corpus(shards_of(tmp_path / "old", NAMES))
    new = open_corpus(shards_of(tmp_path / "new", [*NAMES[3:], "other"], louder=NAMES[5:7]))
    found = between(old, new)
    assert (found.gone, found.new, found.changed) == (3, 1, 2)
    assert {name: sorted(ids) for name, ids in found.examples.items()} == {
        "gone": NAMES[:3], "new": ["other"], "changed": NAMES[5:7],
    }  # fmt: skip
    assert "1 ids new (other)" in str(found)
    assert not between(old, old)
    other = open_corpus(shards_of(tmp_path / "cut", NAMES, shard_seconds=2.0))
    again = between(old, other)
    assert again.reordered and not (again.gone or again.new or again.changed)
    assert "divided into shards in another way" in str(again)


def test_H1_random_changes_are_counted_as_a_plain_loop_counts_them():
    rng = np.random.default_rng(3)
    for _ in range(20):
        old = {f"id{i}": int(rng.integers(3)) for i in rng.choice(40, 25, replace=False)}
        new = {f"id{i}": int(rng.integers(3)) for i in rng.choice(40, 25, replace=False)}
        made = []
        for names in (old, new):
            keys = text_keys(names)
            places = np.argsort(keys)
            contents = np.array(list(names.values()), dtype=np.uint64)[places]
            made.append(Identity(keys[places], contents, str(list(names)), "", tuple(names)))
        found = difference(*made, lambda new=new: new)
        assert found.gone == sum(name not in new for name in old)
        assert found.new == sum(name not in old for name in new)
        assert found.changed == sum(name in old and old[name] != value for name, value in new.items())


def test_H1_the_file_takes_16_bytes_an_utterance_and_comes_back(tmp_path):
    keys = np.sort(np.random.default_rng(0).integers(1 << 60, size=100_000, dtype=np.uint64))
    made = Identity(keys, keys[::-1].copy(), "order", "listing", ("ü",))
    made.save(tmp_path / "corpus.npz")
    assert (tmp_path / "corpus.npz").stat().st_size < 16 * len(keys) + 2_000
    found = Identity.load(tmp_path / "corpus.npz")
    assert found.digest == made.digest and found.ids == ("ü",)
    with (tmp_path / "corpus.npz").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(DataError, match=r"corpus\.npz"):
        Identity.load(tmp_path / "corpus.npz")


def test_H1_a_corpus_without_its_indexes_in_memory_has_the_same_identity(tmp_path, monkeypatch):
    place = shards_of(tmp_path / "x", NAMES)
    eager = open_corpus(place, splits=("train",))
    monkeypatch.setattr(reader, "LARGE", 0)
    lazy = open_corpus(place, splits=("train",))
    assert lazy.lazy
    assert identity_of(lazy).digest == identity_of(eager).digest
    kept = identity_of(lazy)
    shutil.copytree(place, tmp_path / "moved")
    moved = open_corpus(tmp_path / "moved", splits=("train",))
    monkeypatch.setattr(catalogue, "read_index", None)  # its listing is enough
    assert is_unchanged(kept, moved)
    assert not is_unchanged(kept, open_corpus(tmp_path / "moved", splits=("dev",)))
    assert not is_unchanged(identity_of(eager), eager)


def test_H1_transcripts_count_where_they_are_given(tmp_path):
    corpus = open_corpus(shards_of(tmp_path / "x", NAMES[:4]))
    texts = dict.fromkeys(NAMES[:4], "a")
    made = identity_of(corpus, texts)
    other = identity_of(corpus, texts | {NAMES[1]: "b"})
    found = difference(made, other, lambda: corpus.ids)
    assert found == Difference(0, 0, 1, False, {"gone": (), "new": (), "changed": (NAMES[1],)})


@pytest.fixture
def stopped(tmp_path):
    """A wav2vec 2.0 run of 24 utterances that has checkpoints and no model yet."""
    place = shards_of(tmp_path / "old", NAMES)
    cfg = config("wav2vec2", place, tmp_path / "run", steps=2, save_every=1)
    shutil.rmtree(pretrain(cfg))
    return cfg


def test_H1_pretraining_refuses_another_corpus_at_the_same_path(stopped, tmp_path):
    cfg = stopped
    shutil.move(tmp_path / "old" / "shards", tmp_path / "kept")
    shards_of(tmp_path / "new", [f"n{number}" for number in range(9)])
    shutil.move(tmp_path / "new" / "shards", tmp_path / "old" / "shards")
    with pytest.raises(
        RunError, match=r"another corpus .*: 21 ids gone \(u\d\d, .*\), 8 ids new \(n\d, .*, 0 ids changed"
    ):
        pretrain(cfg)
    assert not (tmp_path / "run" / "model").exists()
    assert not [entry for entry in read_ledger(tmp_path / "run" / "ledger.jsonl") if entry.reason == "corpus_changed"]
    model = pretrain(cfg, allow_changes=True)
    assert (model / "config.json").exists()
    (entry,) = [e for e in read_ledger(tmp_path / "run" / "ledger.jsonl") if e.reason == "corpus_changed"]
    assert (entry.stage, entry.item, entry.action) == ("pretrain", "corpus", "allowed")
    assert "21 ids gone" in entry.detail
    shutil.rmtree(model)
    pretrain(cfg)  # the new corpus is now the one of the run


def test_H1_moved_shards_are_the_same_corpus(stopped, tmp_path):
    shutil.copytree(tmp_path / "old" / "shards", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "old")
    cfg = replace(stopped, data=replace(stopped.data, shards=str(tmp_path / "elsewhere")))
    assert (pretrain(cfg) / "config.json").exists()
    assert str(tmp_path / "elsewhere") in (tmp_path / "run" / "config.toml").read_text()


def test_H1_a_run_of_an_older_version_gets_an_identity(stopped, tmp_path):
    (tmp_path / "run" / "corpus.npz").unlink()
    pretrain(stopped)
    assert Identity.load(tmp_path / "run" / "corpus.npz").keys.size == 21


def test_H1_fine_tuning_refuses_other_transcripts(tmp_path):
    place = shards_of(tmp_path / "old", NAMES)
    cfg = config("ctc", place, tmp_path / "run", steps=2, save_every=1, validate_every=0)
    shutil.rmtree(finetune(cfg))
    shutil.rmtree(tmp_path / "old")
    shards_of(tmp_path / "old", NAMES, texts={NAMES[0]: "bab", NAMES[7]: "cad"})
    with pytest.raises(RunError, match=r"\(corpus\).*(1 ids gone|1 ids changed)"):
        finetune(cfg)
    finetune(cfg, allow_changes=True)
    changes = [e.item for e in read_ledger(tmp_path / "run" / "ledger.jsonl") if e.reason == "corpus_changed"]
    assert changes == ["corpus", "corpus-dev"]


def test_H1_changed_settings_that_were_allowed_are_in_the_ledger(stopped, tmp_path):
    cfg = replace(stopped, optim=replace(stopped.optim, lr=0.5))
    with pytest.raises(RunError, match=r"(?s)optim.lr: 0.001 -> 0.5.*--allow-changes"):
        pretrain(cfg)
    pretrain(cfg, allow_changes=True)
    (entry,) = [e for e in read_ledger(tmp_path / "run" / "ledger.jsonl") if e.reason == "config_changed"]
    assert (entry.item, entry.detail, entry.action) == ("optim.lr", "0.001 -> 0.5", "allowed")


def test_H1_ids_of_a_large_corpus_are_hashed_in_one_go(monkeypatch):
    """What an utterance costs: one digest of its id, and array operations."""
    calls = []
    blake2b = identity.hashlib.blake2b
    monkeypatch.setattr(identity.hashlib, "blake2b", lambda *a, **k: (calls.append(1), blake2b(*a, **k))[1])

    class Many:
        lazy = False
        first_rows = np.array([0, 5_000])

        def parts(self):
            ids = [f"id{i}" for i in range(5_000)]
            yield ids, np.arange(5_000), np.arange(5_000, dtype=np.uint32)

    made = identity_of(Many())
    assert len(calls) <= 5_000 + 3
    assert len(made.ids) == identity.KEPT_IDS
