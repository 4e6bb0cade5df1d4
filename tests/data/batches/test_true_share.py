"""Batches of true and of pseudo-labels: the share, the order of each kind, and their texts."""

from collections import Counter

import pytest

from speechssl.config import DataConfig
from speechssl.data.batches.mixture import Mixture, with_true_share
from speechssl.data.batches.plan import Plan
from speechssl.data.batches.stream import Stream
from speechssl.data.store.reader import open_corpus
from tests.support.tones import write_shards

CFG = DataConfig(min_seconds=0.1, max_seconds=5.0, batch_seconds=4.0, buckets=2, workers=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shares"), {"train": 30})


def labelled(corpus, pseudo, share):
    return with_true_share(lambda without: Plan.finetune(corpus, CFG, 1, without=without), corpus, pseudo, share, 1)


@pytest.mark.parametrize("share", [0.1, 1 / 3, 0.5, 0.9])
def test_the_share_is_kept_and_each_kind_goes_through_its_own_epochs(shards, share):
    corpus = open_corpus(shards)
    pseudo = set(corpus.ids[8:])
    plan = labelled(corpus, pseudo, share)
    assert isinstance(plan, Mixture)
    seen: dict[bool, Counter] = {True: Counter(), False: Counter()}
    true_batches = 0
    for k in range(200):
        batch = plan.micro(k)
        (kind,) = {corpus.ids[row] in pseudo for row in batch.rows}  # a batch is of one kind
        true_batches += not kind
        assert abs(true_batches - (k + 1) * share) < 2
        seen[kind].update((batch.epoch, corpus.ids[row]) for row in batch.rows)
    for kind, ids in ((True, pseudo), (False, set(corpus.ids[:8]))):
        assert max(seen[kind].values()) == 1  # nothing comes twice in an epoch
        done = max(epoch for epoch, _ in seen[kind])
        assert done > 0
        assert {name for epoch, name in seen[kind] if epoch == 0} == ids


def test_without_a_share_or_without_both_kinds_it_is_the_plan_of_fine_tuning(shards):
    corpus = open_corpus(shards)
    plain = Plan.finetune(corpus, CFG, 1)
    for pseudo, share in ((set(corpus.ids[8:]), 0.0), (set(), 0.5), (set(corpus.ids), 0.5)):
        plan = labelled(corpus, pseudo, share)
        assert [plan.micro(k) for k in range(20)] == [plain.micro(k) for k in range(20)]


def test_batches_have_the_texts_of_the_pseudo_labels(shards):
    corpus, plain = open_corpus(shards), open_corpus(shards)
    name = corpus.ids[3]
    corpus.texts = {name: "bad cab"}
    plan = labelled(corpus, {name}, 0.5)
    with Stream(corpus, plan, CFG, batches_per_step=2, encode=lambda text: [ord(c) for c in text]) as stream:
        true, made = stream.step(0)
        if name in true.ids:
            true, made = made, true
    assert made.ids == (name,)
    assert made.texts == ("bad cab",)
    assert bytes(made.targets[0].tolist()) == b"bad cab"
    assert true.texts == tuple(plain.utterances()[each].text for each in true.ids)
