"""What the loop, reports and resuming rely on, for every objective of the configuration: a new one is found by itself.

The mathematics of each has its own test, against its oracle.
"""

import pickle
from dataclasses import replace

import pytest
import torch

from speechssl.config import OptimConfig, PretrainConfig
from speechssl.core.errors import CheckpointError
from speechssl.interop.model_folder import load_encoder, save_model
from speechssl.objectives.base import Plateau
from speechssl.training.initialisation import take_heads
from speechssl.training.loop import train
from speechssl.training.monitoring.log import read_metrics
from speechssl.training.parallel import start_parallel
from speechssl.training.run_folder import RunFolder
from tests.support.objectives import KINDS, MODEL, STEMS, build, make_batch
from tests.support.tiny import close, same, training
from tests.training.test_parallel import on_ranks

LENGTHS = [16_000, 12_345, 9_000]
AHEAD = 5
"""Frames from one to the one that APC predicts: none of the stems shows that far ahead."""
SUMMED = {
    "diversity_weight": 0.0,
    "unmasked_weight": 0.3,
    "across": 0,
    "mix_prob": 1.0,
    "noise_share": 1.0,
    "ahead": AHEAD,
}
"""Settings for which a batch is the sum of its utterances: without statistics of a whole batch, and without negatives
or speech of other utterances. With targets on frames that are not masked, and noise, where an objective has such
settings.
"""
NOTHING_DRAWN = {"apc", "next_sample"}
"""Objectives whose targets follow from the audio alone."""
ONE_TARGET_EACH = {"transformation", "segment_order"}
"""Objectives whose target is a class of the whole utterance."""

pytestmark = pytest.mark.parametrize("kind", sorted(KINDS))


def in_float32(batch):
    return replace(batch, wave=batch.wave.float())


def trained_parameters(objective):
    return {name: value for name, value in objective.named_parameters() if value.requires_grad}


def gradients(objective, *batches):
    """Return the summed loss of micro-batches, their targets, and the gradient of each trainable parameter."""
    objective.zero_grad()
    losses = [objective(objective.prepare(batch)) for batch in batches]
    for loss in losses:
        loss.sum.backward()
    found = {name: value.grad for name, value in trained_parameters(objective).items()}
    return sum(loss.sum.item() for loss in losses), sum(loss.n_targets for loss in losses), found


@pytest.mark.parametrize("stem", STEMS)
def test_padding_neighbours_and_accumulation_change_nothing(kind, stem):
    """A padded batch, the same with more padding, and its utterances one by one."""
    model = replace(MODEL, frontend=STEMS[stem])
    objective = build(kind, model=model, **SUMMED).double().eval()
    together = gradients(objective, make_batch(LENGTHS))
    padded = gradients(objective, make_batch(LENGTHS, total=20_000))
    alone = gradients(objective, *(make_batch([n], ids=(f"u{i}",)) for i, n in enumerate(LENGTHS)))
    assert together[1] >= (3 if kind in ONE_TARGET_EACH else 55)
    for total, targets, found in (padded, alone):
        assert targets == together[1]
        assert total == pytest.approx(together[0], rel=1e-5)
        for name, value in found.items():
            torch.testing.assert_close(value, together[2][name], rtol=1e-4, atol=1e-7, msg=name)


def test_a_row_without_weight_is_no_target_and_no_neighbour(kind):
    objective = build(kind, **SUMMED).double().eval()
    with_silent = gradients(objective, make_batch([16_000, 16_000], weights=[1.0, 0.0]))
    alone = gradients(objective, make_batch([16_000]))
    assert with_silent[:2] == pytest.approx(alone[:2], rel=1e-6)


def test_what_is_drawn_depends_on_seed_epoch_and_utterance(kind):
    objective = build(kind).double().eval()

    def loss(preparer, **where):
        return objective(preparer(make_batch([16_000], **where))).sum.item()

    own = loss(objective.preparer())
    assert own == loss(pickle.loads(pickle.dumps(objective.preparer()))) == loss(objective.preparer(seed=3))
    others = {
        loss(objective.preparer(seed=4)),
        loss(objective.preparer(), epoch=1),
        loss(objective.preparer(), ids=("u1",)),
    }
    assert len(others | {own}) == (2 if kind in NOTHING_DRAWN else 4)  # other audio is another loss in any case


def test_noise_and_dropout_depend_on_torch_s_seed_alone(kind):
    objective = build(kind).double().train()
    prepared = objective.prepare(make_batch(LENGTHS))
    values = []
    for seed in (9, 9, 10):
        torch.manual_seed(seed)
        values.append(objective(prepared).sum.item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("grad_scale", [0.0, 1.0], ids=["frozen stem", "trained stem"])
def test_every_trainable_parameter_learns_and_no_other(kind, grad_scale):
    objective = build(kind, model=replace(MODEL, frontend=replace(MODEL.frontend, grad_scale=grad_scale))).double()
    frozen = {name for name, value in objective.named_parameters() if not value.requires_grad}
    assert any(name.startswith("encoder.frontend.") for name in frozen) == (grad_scale == 0)
    _, _, found = gradients(objective, make_batch([16_000, 14_000]))
    assert [name for name, value in found.items() if value is None or not value.any()] == []
    assert [name for name, value in objective.named_parameters() if name in frozen and value.grad is not None] == []


def test_no_target_at_all_still_reaches_every_parameter(kind):
    objective = build(kind).double()
    assert objective.encoder.frames(300) == 0
    total, targets, found = gradients(objective, make_batch([16_000, 300], weights=[0.0, 1.0]))
    assert (total, targets) == (0.0, 0)
    assert all(value is not None and not value.any() for value in found.values())


@pytest.mark.parametrize("frames", [1, 2, 4, 7])
@pytest.mark.parametrize("stem", [name for name in STEMS if name != "conv2d"])  # as log-mel, and three times as slow
def test_the_shortest_clips_and_silence_stay_finite(kind, stem, frames):
    objective = build(kind, model=replace(MODEL, frontend=STEMS[stem]))
    shortest = objective.encoder.frontend.receptive + (frames - 1) * objective.encoder.hop
    noise = in_float32(make_batch([shortest, 16_000]))
    silence = replace(noise, wave=torch.zeros_like(noise.wave))
    for batch in (noise, silence, in_float32(make_batch([shortest]))):
        total, _, found = gradients(objective, batch)
        assert torch.isfinite(torch.tensor(total))
        assert all(torch.isfinite(value).all() for value in found.values())
        assert all(torch.isfinite(value) for value in objective(objective.prepare(batch)).metrics.values())


def test_bfloat16_stays_close_and_finite(kind):
    """Products in bfloat16 (emulated where the processor has none); the loss and the weights stay in float32."""
    objective = build(kind).eval()
    prepared = objective.prepare(in_float32(make_batch([16_000, 16_000])))
    exact = objective(prepared).sum.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(prepared)
    loss.sum.backward()
    assert loss.sum.dtype == torch.float32
    assert loss.sum.item() == pytest.approx(exact, rel=0.05)
    assert all(torch.isfinite(value.grad).all() for value in trained_parameters(objective).values())


def test_what_is_declared_is_logged(kind):
    objective = build(kind).double()
    loss = objective(objective.prepare(make_batch(LENGTHS)))
    assert all(value.ndim == 0 and not value.requires_grad for value in loss.metrics.values())
    assert objective.title
    assert objective.curves[0].chance == "loss"  # the loss comes first
    assert objective.chance.keys() <= loss.metrics.keys()
    assert objective.chance.keys() >= {curve.metric for curve in objective.curves if curve.chance}
    for curve in objective.curves:
        assert (f"{curve.metric}_0" if curve.groups else curve.metric) in loss.metrics
        assert not curve.most or hasattr(objective.cfg, curve.most)
    for rule in objective.rules:
        names = [rule.while_above[0]] if isinstance(rule, Plateau) else [rule.metric]
        assert all(any(name.startswith(begin) for name in loss.metrics) for begin in names)
        assert rule.message.format(name="name", value=1.0, step=1, peak=1.0).count("{") == 0


def test_exported_heads_load_back(kind, tmp_path):
    objective, other = build(kind), build(kind, weights=1, seed=8)
    before = objective.exported()
    assert before
    assert not any(name.startswith("encoder.") for name in before)
    save_model(tmp_path / "model", encoder=objective.encoder, extra=before, info={"objective": kind})
    cfg = PretrainConfig(init=str(tmp_path / "model"), objective=objective.cfg)
    assert take_heads(other, cfg, {}).endswith("new: nothing")
    other.encoder = load_encoder(tmp_path / "model")
    assert same(objective.exported(), other.exported())
    assert same(objective.encoder.state_dict(), other.encoder.state_dict())


class Micro:
    """Two micro-batches a step, shared out over ranks; ``stop`` ends in an error, as a killed process would."""

    def __init__(self, objective, parallel, stop=None):
        self.prepare, self.parallel, self.stop = objective.preparer(), parallel, stop
        self.share = 2 // parallel.world

    def step(self, step):
        if step == self.stop:
            raise CheckpointError("pulled the plug")
        for number in range(self.parallel.rank, 2, self.parallel.world):
            yield self.prepare(in_float32(make_batch([8_000, 6_000 + 100 * number], epoch=2 * step + number)))


def run(folder, kind, parallel=None, stop=None):
    """Train for four updates with dropout on; return the weights and everything else that a checkpoint holds."""
    objective, ranks = build(kind), parallel or start_parallel("cpu")
    cfg = training(steps=4, save_every=2)
    with RunFolder(folder).open(PretrainConfig(training=cfg), ranks) as place:
        train(
            objective, Micro(objective, ranks, stop), run=place, parallel=ranks, training=cfg,
            optim=OptimConfig(lr=1e-3), seed=1,
        )  # fmt: skip
    return objective.state_dict()


def test_a_resumed_run_ends_with_the_same_bits(kind, tmp_path):
    with pytest.raises(CheckpointError, match="plug"):
        run(tmp_path / "stopped", kind, stop=3)
    assert same(run(tmp_path / "stopped", kind), run(tmp_path / "whole", kind))


def _on_a_rank(parallel, folder, kind):
    return {name: value.tolist() for name, value in run(folder, kind, parallel).items()}


def test_two_ranks_learn_what_one_learns(kind, tmp_path):
    zero, one = on_ranks(_on_a_rank, tmp_path / "two", kind)
    assert zero == one
    alone = run(tmp_path / "alone", kind)
    assert close({name: torch.tensor(value) for name, value in zero.items()}, alone)
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if line["phase"] == "train"]
        for name in ("alone", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
