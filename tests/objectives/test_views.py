"""SimCLR and MoCo against their scalar oracle; views, ranks and queue; broken versions, which a health rule names."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import AugmentConfig, MaskConfig
from speechssl.core.errors import ConfigError
from speechssl.core.randomness import key
from speechssl.data.batches.augment import Sounds, augmenter
from speechssl.objectives.two_views import views
from speechssl.training.parallel import start_parallel
from tests.oracles import views as oracle
from tests.oracles.data2vec import moving_average
from tests.support.objectives import MODEL, STEMS, build, findings, make_batch
from tests.training.test_parallel import on_ranks

LENGTHS = [16_000, 9_000, 12_000]
SPEEDS = AugmentConfig(speeds=(0.9, 1.1), noise_snr_db=(5.0, 10.0))
PLAIN = {"augment": AugmentConfig(), "crop": 1.0, "mask": MaskConfig(prob=0.0, min_spans=0)}
LEVELS = pytest.mark.parametrize("level", ["frame", "utterance"])


def unit(vector):
    size = math.sqrt(math.fsum(x * x for x in vector))
    return [x / size for x in vector]


def embedded(objective, view, encoder, head, mask):
    """Return the embeddings of the items of a view, a list for each utterance, each utterance encoded alone."""
    found = []
    for row, frames in enumerate(view.frame_lengths.tolist()):
        samples = view.wave.shape[1] if view.lengths is None else int(view.lengths[row])
        own = None if mask is None else mask[row : row + 1, :frames]
        x = encoder(view.wave[row : row + 1, :samples], mask=own).x[0]
        if objective.cfg.level == "frame":
            x = x[view.items.positions[row, : view.items.counts[row]]]
        else:
            x = x.mean(dim=0, keepdim=True)
        found.append((head.out(torch.relu(head.hidden(x)))).tolist())
    return found


@LEVELS
@pytest.mark.parametrize("stem", STEMS)
def test_simclr_equals_the_scalar_oracle(stem, level):
    changes = {"augment": SPEEDS} if level == "utterance" else {}
    objective = build("simclr", model=replace(MODEL, frontend=STEMS[stem]), level=level, **changes).double().eval()
    prepared = objective.prepare(make_batch(LENGTHS))
    total, right, chance, n, vectors = 0.0, 0, 0.0, 0, []
    with torch.no_grad():
        loss = objective(prepared)
        one, other = (
            embedded(objective, view, objective.encoder, objective.head, view.mask)
            for view in (prepared.one, prepared.other)
        )
    if level == "utterance":  # all utterances are one group
        one, other = ([[vectors[0] for vectors in view]] for view in (one, other))
    for first, second in zip(one, other, strict=True):
        cost, hits, candidates = oracle.nt_xent(first, second, 0.1)
        total, right, n = total + cost, right + hits, n + len(first)
        chance += len(first) * math.log(candidates)
        vectors += [unit(vector) for vector in first + second]
    assert n == loss.n_targets == (3 if level == "utterance" else sum(prepared.one.items.counts.tolist())) > 2
    assert loss.sum.item() == pytest.approx(total, rel=1e-6)
    assert loss.metrics["contrastive"].item() == pytest.approx(total / n, rel=1e-6)
    assert loss.metrics["relative_loss"].item() == pytest.approx(total / chance, rel=1e-6)
    assert loss.metrics["accuracy"].item() == pytest.approx(right / n / 2, rel=1e-6)
    assert loss.metrics["embedding_variance"].item() == pytest.approx(oracle.variance(vectors), rel=1e-6)
    assert loss.metrics["equal_views"] == 0


@LEVELS
@pytest.mark.parametrize("stem", STEMS)
def test_moco_equals_the_scalar_oracle(stem, level):
    objective = build("moco", model=replace(MODEL, frontend=STEMS[stem]), level=level).double().eval()
    with torch.no_grad():
        for value in [*objective.teacher.parameters(), *objective.key_head.parameters()]:
            value.add_(0.1 * torch.randn_like(value))  # not the encoder of the queries
    prepared = objective.prepare(make_batch(LENGTHS))
    with torch.no_grad():
        loss = objective(prepared)
        queries = embedded(objective, prepared.one, objective.encoder, objective.head, prepared.one.mask)
        keys = embedded(objective, prepared.other, objective.teacher.encoder, objective.key_head, None)
    total, right, chance, n, queue = 0.0, 0, 0.0, 0, objective.queue.tolist()
    assert len(queue) == 16
    for mine, theirs in zip(queries, keys, strict=True):
        theirs = [unit(vector) for vector in theirs]
        for place, query in enumerate(mine):
            others = theirs[:place] + theirs[place + 1 :]
            cost, hit = oracle.info_nce(unit(query), theirs[place], others + queue, 0.07)
            total, right, n, chance = total + cost, right + hit, n + 1, chance + math.log(len(theirs) + 16)
    assert n == loss.n_targets > 2
    assert loss.sum.item() == pytest.approx(total, rel=1e-6)
    assert loss.metrics["relative_loss"].item() == pytest.approx(total / chance, rel=1e-6)
    assert loss.metrics["accuracy"].item() == pytest.approx(right / n, rel=1e-6)


def test_the_oracle_by_hand():
    loss, right, candidates = oracle.nt_xent([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]], 1.0)
    assert loss == pytest.approx(2 * math.log(1 + 2 / math.e)) and (right, candidates) == (4, 3)
    assert oracle.nt_xent([[1.0]], [[1.0]], 0.1) == (0.0, 2, 1)
    loss, right = oracle.info_nce([1.0, 0.0], [0.0, 1.0], [[1.0, 0.0]], 0.5)
    assert loss == pytest.approx(math.log(1 + math.exp(2))) and not right
    assert oracle.variance([[1.0, 0.0], [1.0, 0.0]]) == 0 and oracle.variance([[1.0], [-1.0]]) == 1
    assert oracle.queued([1, 2, 3], [4, 5]) == [3, 4, 5] and oracle.queued([1, 2], [3, 4, 5]) == [4, 5]


# --------------------------------------------------------------------------------------------------- views


def test_items_are_the_same_moments_of_both_views():
    objective = build("simclr", **PLAIN | {"crop": 0.7})
    grid, starts = objective.encoder.frontend.grid, set()
    for epoch in range(20):
        batch = make_batch([16_000, 9_000], epoch=epoch)
        prepared = objective.prepare(batch)
        assert torch.equal(prepared.one.items.counts, prepared.other.items.counts)
        for row, count in enumerate(prepared.one.items.counts.tolist()):
            frames = grid.frames(int(batch.lengths[row]))
            held = math.ceil(0.7 * frames)
            assert prepared.one.frame_lengths[row] == prepared.other.frame_lengths[row] == held
            assert 2 * held - frames <= count <= held
            for place in range(count):
                one, other = (
                    view.wave[row, begin : begin + grid.receptive]
                    for view in (prepared.one, prepared.other)
                    for begin in [int(view.items.positions[row, place]) * grid.hop]
                )
                assert torch.equal(one, other)
            starts.add(int(prepared.one.items.positions[row, 0]) - int(prepared.other.items.positions[row, 0]))
    assert min(starts) < 0 < max(starts)  # neither view is always the first


def test_views_are_augmented_and_masked_by_keys_of_their_own():
    noisy = AugmentConfig(noise_snr_db=(5.0, 10.0), noise_prob=1.0)
    objective = build("moco", crop=1.0, augment=noisy)
    batch = make_batch([16_000, 9_000], epoch=2)
    prepared = objective.prepare(replace(batch, wave=batch.wave.float()))
    for number, view in enumerate((prepared.one, prepared.other)):
        for row, (item, length) in enumerate([("u0", 16_000), ("u1", 9_000)]):
            grid = objective.encoder.frontend.grid
            used = (grid.frames(length) - 1) * grid.hop + grid.receptive
            expected = augmenter(noisy, key("view", 3, number), Sounds(quick=True))(
                batch.wave[row, :used].float().numpy(), 2, item
            )
            np.testing.assert_array_equal(view.wave[row, : len(expected)], expected)
            assert not view.wave[row, len(expected) :].any()
    assert not torch.equal(prepared.one.mask, prepared.other.mask)
    assert prepared.one.mask.any() and prepared.equal == 0


def test_noise_and_rooms_come_from_the_sounds_of_the_run():
    class Ones(Sounds):
        def noise(self, samples, slope, random):
            return np.ones(samples, np.float32)

    changes = {"crop": 1.0, "augment": AugmentConfig(noise_snr_db=(0.0, 0.0), noise_prob=1.0)}
    objective = build("simclr", **changes)
    objective.sounds = Ones()
    prepared = objective.prepare(make_batch([16_000, 16_000]))
    added = prepared.one.wave[0] - make_batch([16_000]).wave[0, : prepared.one.wave.shape[1]]
    torch.testing.assert_close(added, added[:1].expand_as(added), atol=1e-5, rtol=0)


def test_int16_batches_give_the_views_of_float_batches():
    batch = make_batch(LENGTHS)
    samples = (batch.wave * 3000).clamp(-32768, 32767).to(torch.int16)
    whole, again = (build("simclr").prepare(replace(batch, wave=wave)) for wave in (samples, samples.float() / 32768))
    assert whole.one.wave.dtype == torch.float32
    assert torch.equal(whole.one.wave, again.one.wave) and torch.equal(whole.other.wave, again.other.wave)


@pytest.mark.parametrize("kind", ["simclr", "moco"])
def test_at_the_level_of_utterances_padding_changes_nothing(kind):
    objective = build(kind, level="utterance", augment=SPEEDS).double().eval()
    losses = [
        objective(objective.prepare(batch))
        for batch in (
            make_batch(LENGTHS),
            make_batch(LENGTHS, total=20_000),
            make_batch([*LENGTHS, 16_000, 300], weights=[1.0, 1.0, 1.0, 0.0, 1.0]),
        )
    ]
    assert [loss.n_targets for loss in losses] == [3, 3, 3]
    assert losses[0].sum.item() == pytest.approx(losses[1].sum.item(), rel=1e-6)
    assert losses[0].sum.item() == pytest.approx(losses[2].sum.item(), rel=1e-6)


def test_what_has_no_negative_is_no_target():
    assert build("simclr", level="utterance").prepare(make_batch([16_000])).n_targets == 0
    one_frame = build("simclr").encoder.frontend.receptive
    assert build("simclr").prepare(make_batch([one_frame])).n_targets == 0
    assert build("moco").prepare(make_batch([one_frame])).n_targets == 1  # the queue holds negatives
    assert build("moco", level="utterance").prepare(make_batch([16_000])).n_targets == 1


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("simclr", {"crop": 0.5}, "objective.crop"),
        ("moco", {"crop": 1.5, "level": "utterance"}, "objective.crop"),
        ("simclr", {"augment": SPEEDS}, "moves frames off the grid"),
        ("simclr", {"augment": AugmentConfig(gain_db=-1.0)}, "augment"),
        ("simclr", {"gather": True}, "objective.gather"),
        ("moco", {"queue": 0}, "objective.queue"),
        ("moco", {"momentum": 1.5}, "objective.momentum"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(kind, **changes)


# --------------------------------------------------------------------------------------------------- ranks


ROWS = ([16_000, 9_000], [12_000, 8_000, 16_000])
"""Utterances of two halves of a micro-batch."""
GATHERED = {"level": "utterance", "gather": True, "crop": 0.6}


def still(kind, **changes):
    """Return an objective without dropout, in training."""
    encoder = replace(MODEL.encoder, dropout=0.0, attention_dropout=0.0, input_dropout=0.0)
    return build(kind, model=replace(MODEL, encoder=encoder), **changes).double().train()


def half(number, weights=None):
    first = len(ROWS[0]) * number
    return make_batch(ROWS[number], tuple(f"u{first + i}" for i in range(len(ROWS[number]))), weights)


def _gathered(parallel, empty):
    """Return the loss of a rank's half, and the gradient of the loss of all ranks, as the loop has them."""
    objective = still("simclr", **GATHERED)
    objective.ranks = parallel
    module = parallel.wrap(objective)
    weights = [0.0] * 3 if empty and parallel.rank else None
    prepared = objective.prepare(half(parallel.rank, weights))
    loss = module(prepared)
    summed = loss.sum if prepared.n_targets else sum(value.sum() for value in objective.parameters()) * 0.0
    (summed * parallel.world).backward()
    gradients = {name: value.grad.tolist() for name, value in objective.named_parameters()}
    return loss.sum.item(), loss.n_targets, gradients, loss.metrics.get("accuracy", torch.zeros(())).item()


@pytest.mark.parametrize("empty", [False, True], ids=["two halves", "a rank without targets"])
def test_two_ranks_that_gather_compute_what_one_does_with_the_whole_batch(empty):
    zero, one = on_ranks(_gathered, empty)
    whole = make_batch(ROWS[0] if empty else [*ROWS[0], *ROWS[1]])
    alone = still("simclr", **GATHERED)
    loss = alone(alone.prepare(whole))
    loss.sum.backward()
    assert (zero[1], one[1]) == ((2, 0) if empty else (2, 3))
    assert zero[0] + one[0] == pytest.approx(loss.sum.item(), rel=1e-6)
    assert zero[2] == one[2]
    right = (zero[1] * zero[3] + one[1] * one[3]) / loss.n_targets
    assert right == pytest.approx(loss.metrics["accuracy"].item(), rel=1e-6)
    for name, value in alone.named_parameters():
        torch.testing.assert_close(torch.tensor(zero[2][name]).double(), value.grad, rtol=1e-5, atol=1e-9, msg=name)


def test_validation_gathers_nothing():
    class Waiting:
        rank = 0

        def rows(self, value):
            raise AssertionError("the other ranks do not come")

    objective = still("simclr", **GATHERED).eval()
    objective.ranks = Waiting()
    assert objective(objective.prepare(half(1))).n_targets == 3


# ------------------------------------------------------------------------------------- momentum encoder, queue


def test_the_momentum_encoder_follows_and_gets_no_gradient():
    objective = still("moco", momentum=0.75)
    state = objective.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in objective.teacher.encoder.state_dict().items())
    objective(objective.prepare(make_batch(LENGTHS))).sum.backward()
    slow = {
        "teacher.encoder.blocks.0.up.weight": "encoder.blocks.0.up.weight",
        "key_head.out.weight": "head.out.weight",
    }
    assert all(value.grad is None for value in [*objective.teacher.parameters(), *objective.key_head.parameters()])
    with torch.no_grad():
        for value in objective.parameters():
            value.add_(torch.randn_like(value))
    before = {name: objective.get_parameter(name).flatten().tolist() for name in slow}
    objective.after_update(1, start_parallel("cpu"))
    for name, student in slow.items():
        expected = moving_average(before[name], objective.get_parameter(student).flatten().tolist(), 0.75)
        assert objective.get_parameter(name).flatten().tolist() == pytest.approx(expected, rel=1e-9)


@LEVELS
def test_the_queue_is_first_in_first_out_and_takes_the_keys_of_updates_alone(level):
    objective, parallel = still("moco", level=level, queue=50), start_parallel("cpu")
    expected = objective.queue.tolist()
    assert all(math.hypot(*each) == pytest.approx(1) for each in expected)
    for step in range(3):
        objective.begin_step(step)
        for number in range(2):
            prepared = objective.prepare(make_batch([9_000, 8_000], epoch=2 * step + number))
            objective(prepared)
            keys = prepared.other.items.gather(objective.keys(prepared))
            if step != 1:
                expected = oracle.queued(expected, keys.tolist())
        objective.eval()(prepared)  # validation
        objective.train()
        if step != 1:  # a step without an update
            objective.after_update(step + 1, parallel)
    assert torch.equal(objective.queue, torch.tensor(expected, dtype=torch.float64))


def test_queue_and_momentum_encoder_are_in_checkpoints_and_not_exported():
    objective = build("moco")
    assert {"queue", "key_head.out.weight", "teacher.encoder.norm.weight"} <= objective.state_dict().keys()
    assert {name.split(".")[0] for name in objective.exported()} == {"head", "key_head"}


# ------------------------------------------------------------------------------------------- broken versions


def judged(objective, steps=2):
    """Make updates as the loop does; return what the health rules find."""
    parallel = start_parallel("cpu")
    optimizer = torch.optim.SGD([value for value in objective.parameters() if value.requires_grad], lr=0.05)
    for step in range(steps):
        objective.begin_step(step)
        optimizer.zero_grad()
        loss = objective(objective.prepare(make_batch(LENGTHS, epoch=step)))
        (loss.sum / loss.n_targets).backward()
        optimizer.step()
        objective.after_update(step + 1, parallel)
    return findings(objective, objective(objective.prepare(make_batch(LENGTHS)))) - {"not_learning"}


def has_one_embedding(objective):
    torch.nn.init.zeros_(objective.head.out.weight)


@pytest.mark.parametrize("kind", ["simclr", "moco"])
def test_a_sound_version_is_healthy(kind):
    objective = still(kind)
    torch.nn.init.normal_(objective.head.out.weight)
    assert judged(objective) == set()


@pytest.mark.parametrize("kind", ["simclr", "moco"])
@LEVELS
def test_a_view_that_is_paired_with_itself_is_named(kind, level, monkeypatch):
    objective = still(kind, level=level)
    torch.nn.init.normal_(objective.head.out.weight)
    monkeypatch.setattr(views, "key", lambda name, seed, number: key(name, seed))  # both views by one key
    assert "view_of_itself" in judged(objective)


@pytest.mark.parametrize("kind", ["simclr", "moco"])
def test_views_without_any_augmentation_are_named(kind):
    assert "view_of_itself" in judged(still(kind, **PLAIN))


@pytest.mark.parametrize("kind", ["simclr", "moco"])
def test_collapsed_embeddings_are_named(kind):
    objective = still(kind)
    has_one_embedding(objective)
    assert "embedding_collapse" in findings(objective, objective(objective.prepare(make_batch(LENGTHS))))


def test_a_momentum_encoder_that_never_moves_is_named():
    objective = still("moco", momentum=1.0)
    torch.nn.init.normal_(objective.head.out.weight)
    assert judged(objective) == {"frozen_teacher"}
