"""Mixtures: groups have their shares of the batches, batch k is a function of k, each group keeps its own epochs."""

import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from speechssl.config import DataConfig, MixConfig, ShardConfig
from speechssl.config.load import from_dict, load_config
from speechssl.core.errors import ConfigError, DataError
from speechssl.data.batches import mixture
from speechssl.data.batches.mixture import BLOCK, Mixture, mixed
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.store.joined import JoinedCorpus, open_data
from speechssl.data.store.reader import open_corpus
from speechssl.data.store.writer import shard_manifest
from tests.data.batches.test_plan import speech_like
from tests.support.chirps import chirp_manifest

CFG = DataConfig(batch_seconds=40.0, buckets=4, window_shards=2)


def corpus_of_languages(n=600):
    """Utterances of languages, a few with none: 70 % en, 20 % de, 10 % eu."""
    corpus = speech_like(n, per_shard=50)
    drawn = np.random.Generator(np.random.PCG64(5)).choice(["en", "de", "eu", None], n, p=[0.69, 0.2, 0.1, 0.01])
    languages = dict(zip(corpus.ids, drawn.tolist(), strict=True))
    corpus.utterances = lambda: {name: SimpleNamespace(language=lang, text="x") for name, lang in languages.items()}
    return corpus, languages


def plan_of(corpus, cfg=CFG, seed=3):
    return lambda without: Plan.pretrain(corpus, cfg, seed, align=320, without=without)


def expected_shares(corpus, languages, temperature, weights, shortest):
    """The slow oracle: hours summed one by one."""
    hours = {}
    for name, samples in zip(corpus.ids, corpus.samples.tolist(), strict=True):
        if samples >= shortest:
            group = languages[name] or "unknown"
            hours[group] = hours.get(group, 0.0) + samples / 16_000 / 3600
    powers = {group: weights.get(group, 1.0) * value**temperature for group, value in hours.items()}
    return {group: power / sum(powers.values()) for group, power in powers.items()}


@pytest.mark.parametrize(
    ("temperature", "weights"), [(1.0, {}), (0.5, {}), (0.0, {}), (0.0, {"eu": 5.0, "en": 0.5}), (0.7, {"de": 3.0})]
)
def test_every_prefix_has_the_expected_shares(temperature, weights):
    corpus, languages = corpus_of_languages()
    texts = tuple(f"{name}={weight}" for name, weight in weights.items())
    plan = mixed(plan_of(corpus), corpus, MixConfig(by="language", temperature=temperature, weights=texts), 3)
    expected = expected_shares(corpus, languages, temperature, weights, 2 * 16_000)
    counts = Counter()
    for k in range(800):
        groups = {languages[corpus.ids[row]] or "unknown" for row in plan.micro(k).rows}
        assert len(groups) == 1, "a batch is of one group"
        counts += Counter(groups)
        for group, share in expected.items():
            assert abs(counts[group] - share * (k + 1)) <= 2 + len(expected) * share + (k + 1) * len(expected) / BLOCK
    assert plan.shares == pytest.approx(expected, abs=len(expected) / BLOCK)


def test_a_group_goes_through_its_own_epochs_in_the_order_of_its_own_plan(monkeypatch):
    monkeypatch.setattr(mixture, "BLOCK", 500)
    corpus, languages = corpus_of_languages(200)
    plan = mixed(plan_of(corpus), corpus, MixConfig(by="language", temperature=0.0), 3)
    others = np.flatnonzero([languages[name] != "eu" for name in corpus.ids])
    alone = plan_of(corpus)(others)
    taken = [plan.micro(k) for k in range(450, 750)]
    batches = [batch for batch in taken if languages[corpus.ids[batch.rows[0]]] == "eu"]
    before = sum(languages[corpus.ids[plan.micro(k).rows[0]]] == "eu" for k in range(450))
    assert len(batches) > 60
    assert batches == [alone.micro(before + i) for i in range(len(batches))]
    used = Counter(row for k in range(alone.batches_per_epoch) for row in alone.micro(k).rows)
    assert set(used.values()) == {1}


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    corpus, _ = corpus_of_languages(200)
    cfg = MixConfig(by="language", temperature=0.3)
    plan, again, other = (mixed(plan_of(corpus, seed=seed), corpus, cfg, seed) for seed in (3, 3, 4))
    numbers = [9, 25_000, 3, 10_001, 9, 9_999, 10_000]
    found = [plan.micro(k) for k in numbers]
    assert found == [again.micro(k) for k in numbers]
    assert found[0] == found[4]
    del corpus.utterances  # a lambda cannot be pickled
    assert found == [pickle.loads(pickle.dumps(plan)).micro(k) for k in numbers]
    assert found != [other.micro(k) for k in numbers]
    whole = plan_of(corpus)(None)
    assert (plan.n_rows, plan.n_samples, plan.dropped) == (whole.n_rows, whole.n_samples, whole.dropped)


def test_without_a_mixture_the_plan_is_the_one_it_was():
    corpus = speech_like(100)
    made = []
    plan = mixed(lambda without: made.append(without) or plan_of(corpus)(without), corpus, MixConfig(), 3)
    assert made == [None]
    assert not isinstance(plan, Mixture)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two folders of shards: five of one language, ten of another."""
    folders = []
    for name, seconds in (("aa", [2.5, 3.0, 2.6, 3.1, 2.7] * 2), ("bb", [2.2] * 12)):
        place = tmp_path_factory.mktemp(name)
        manifest = chirp_manifest(place / "audio", seconds, prefix=name)
        shard_manifest(manifest, place / "shards", ShardConfig(shard_seconds=8.0, workers=1))
        folders.append(str(place / "shards"))
    return folders


def test_joined_folders_are_one_corpus(two):
    cfg = DataConfig(shards=two[0], mix=MixConfig(corpora=(two[1],)))
    corpus, parts = open_data(cfg), [open_corpus(place) for place in two]
    assert corpus.ids == [name for part in parts for name in part.ids]
    for i in range(len(corpus)):
        part = parts[corpus.folder_of[i]]
        np.testing.assert_array_equal(corpus.read(i), part.read(part.ids.index(corpus.ids[i])))
    assert corpus.utterances() == parts[0].utterances() | parts[1].utterances()
    copy = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(copy.read(12), corpus.read(12))
    assert copy.utterances() == corpus.utterances()
    dev = open_data(cfg, splits=("dev",))
    assert dev.ids == [name for place in two for name in open_corpus(place, splits=("dev",)).ids]
    assert open_data(cfg, ids=["bb-001"]).ids == ["bb-001"]


def test_ids_in_common_and_other_encodings_are_refused(two, tmp_path):
    with pytest.raises(DataError, match=r"two of them have an utterance 'aa-\d+'; give one of them other ids"):
        open_data(DataConfig(shards=two[0], mix=MixConfig(corpora=(two[0],))))
    manifest = chirp_manifest(tmp_path / "audio", [0.5], prefix="cc")
    shard_manifest(manifest, tmp_path / "shards", ShardConfig(encoding="pcm16", workers=1))
    with pytest.raises(DataError, match="one encoding for all of them, not flac and pcm16"):
        open_data(DataConfig(shards=two[0], mix=MixConfig(corpora=(str(tmp_path / "shards"),))))


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_and_resumed_runs_get_the_batches_of_the_step(two, world):
    mix = MixConfig(corpora=(two[1],), by="corpus", temperature=0.0, weights=(f"{two[1]}=3",))
    cfg = DataConfig(shards=two[0], mix=mix, batch_seconds=5.0, workers=0)
    corpus = open_data(cfg, splits=("train",))
    assert isinstance(corpus, JoinedCorpus)
    plan = mixed(plan_of(corpus, cfg), corpus, mix, 3)
    assert sum(mixture._quotas(np.array([0.9998, 0.0001, 0.00005, 0.00005]))) == BLOCK
    assert plan.shares == {two[0]: 0.25, two[1]: 0.75}
    expected = [tuple(corpus.ids[row] for row in plan.micro(k).rows) for k in range(12)]
    found = {}
    for rank in range(world):
        with Stream(corpus, plan, cfg, batches_per_step=4, rank=rank, world=world, start=1) as stream:
            for step in (1, 2):
                for i, batch in enumerate(stream.step(step)):
                    found[step * 4 + i * world + rank] = batch.ids
    assert [found[k] for k in range(4, 12)] == expected[4:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "language", "weights": ("de",)}, "give NAME=WEIGHT with a weight above 0"),
        ({"by": "language", "weights": ("de=0",)}, "give NAME=WEIGHT with a weight above 0"),
        ({"by": "language", "temperature": -1.0}, "equal shares"),
        ({"weights": ("de=2",)}, "need mix.by"),
        ({"temperature": 0.5}, "need mix.by"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, {"mix": settings})


def test_unknown_groups_empty_groups_and_single_corpora_are_refused():
    corpus, languages = corpus_of_languages(200)
    with pytest.raises(ConfigError, match=r"data.mix.weights: fr: not among de, en, eu, unknown"):
        mixed(plan_of(corpus), corpus, MixConfig(by="language", weights=("fr=1",)), 3)
    with pytest.raises(ConfigError, match="which names none"):
        mixed(plan_of(corpus), corpus, MixConfig(by="corpus"), 3)
    corpus.samples[[languages[name] == "eu" for name in corpus.ids]] = 100
    with pytest.raises(DataError, match=r"data.mix: eu: no utterance is left for pretrain \(too_short\)"):
        mixed(plan_of(corpus), corpus, MixConfig(by="language"), 3)


def test_the_command_line_sets_a_mixture():
    words = ["--mix.corpora", "a", "b", "--mix.by", "corpus", "--mix.weights", "a=2", "--mix.temperature", "0.5"]
    assert load_config(DataConfig, None, words).mix == MixConfig(("a", "b"), "corpus", 0.5, ("a=2",))
