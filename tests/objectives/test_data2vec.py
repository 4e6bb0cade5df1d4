"""data2vec 2.0 against its scalar oracle, its teacher and views, and broken versions that the health rules name."""

from dataclasses import replace

import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.objectives.data2vec import Data2Vec
from speechssl.training.monitoring.health import Health
from speechssl.training.parallel import start_parallel
from tests.oracles import data2vec as oracle
from tests.support.objectives import MODEL, STEMS, build, make_batch

LENGTHS = [16_000, 9_000]
DEEP = replace(MODEL, encoder=replace(MODEL.encoder, layers=3))


def one_view(objective, x, mask, visible_only):
    """Return decoder output [F, D] of one view [F] of one utterance, from its projected features x [1, F, D]."""
    encoder = objective.encoder
    x = torch.where(mask[:, None], encoder.mask_embedding, x[0])[None]
    x = x + encoder.position(x)
    seen = x[:, ~mask] if visible_only else x
    relative = None
    if encoder.relative_position is not None:
        places = torch.arange(len(mask))[~mask] if visible_only else torch.arange(len(mask))
        relative = encoder.relative_position(places[None], places[None])
    pre = encoder.cfg.encoder.norm == "pre"
    seen = seen if pre else encoder.norm(seen)
    for block in encoder.blocks:
        seen = block(seen, None, relative=relative)
    seen = encoder.norm(seen) if pre else seen
    if visible_only:
        x = torch.zeros_like(x)
        x[:, ~mask] = seen
    else:
        x = seen
    return objective.decoder.predict(objective.decoder(x, None)[0])


@pytest.mark.parametrize("visible_only", [True, False])
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("stem", ["layer", "logmel"])
def test_loss_equals_the_scalar_oracle(stem, norm, visible_only):
    positions = {"pos_depth": 2, "relative_position": "alibi"} if stem == "layer" else {}
    model = replace(DEEP, frontend=STEMS[stem], encoder=replace(DEEP.encoder, norm=norm, **positions))
    objective = build("data2vec", model=model, top_layers=2, clones=3, visible_only=visible_only).double().eval()
    with torch.no_grad():
        for value in objective.teacher.parameters():
            value.add_(0.1 * torch.randn_like(value))  # not the student
    prepared = objective.prepare(make_batch(LENGTHS))
    expected, predictions = [], []
    with torch.no_grad():
        loss = objective(prepared)
        for row, length in enumerate(LENGTHS):
            encoder, frames = objective.encoder, objective.encoder.frames(length)
            x = encoder.project(encoder.features(prepared.batch.wave[row : row + 1, :length]))
            branches = objective.teacher.context(x, None, branches=True).branches
            target = oracle.targets([branch[0].tolist() for branch in branches], 2)
            for view in range(3):
                mask = prepared.mask[3 * row + view, :frames]
                predicted = one_view(objective, x, mask, visible_only)
                expected += [target[t] for t in mask.nonzero().flatten().tolist()]
                predictions += predicted[mask].tolist()
    total, ratio = oracle.regression(predictions, expected)
    assert len(expected) == loss.n_targets > 60
    assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    assert loss.metrics["unexplained_variance"].item() == pytest.approx(ratio, rel=1e-6)
    assert loss.metrics["target_deviation"].item() == pytest.approx(oracle.deviation(expected), rel=1e-6)
    assert loss.metrics["target_rank"].item() == pytest.approx(oracle.effective_rank(expected), rel=1e-6)
    assert loss.metrics["prediction_deviation"].item() == pytest.approx(oracle.deviation(predictions), rel=1e-6)
    assert loss.metrics["masked_fraction"].item() == pytest.approx(
        len(expected) / (3 * sum(objective.encoder.frames(n) for n in LENGTHS))
    )


def test_the_oracle_by_hand():
    normed = oracle.instance_norm([[1.0, 5.0], [3.0, 5.0]])
    assert normed[0] == [pytest.approx(-1, abs=1e-4), 0.0]
    assert oracle.targets([[[9.0], [9.0]], [[0.0], [4.0]], [[4.0], [0.0]]], 2) == [[0.0], [0.0]]
    assert oracle.targets([[[0.0], [4.0]]], 8)[1] == [pytest.approx(1, abs=1e-4)]  # fewer layers than asked for
    assert oracle.regression([[1.0, 2.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 2.0]]) == (4.5, 2.25)
    assert oracle.deviation([[0.0, 7.0], [2.0, 7.0]]) == 0.5
    assert oracle.effective_rank([[1.0, 2.0], [-1.0, -2.0]]) == pytest.approx(1)
    assert oracle.effective_rank([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) == pytest.approx(2)
    assert oracle.moving_average([1.0], [3.0], 0.75) == [1.5]
    assert [oracle.decay_at(step, 0.5, 1.0, 4) for step in (0, 2, 4, 8)] == [0.5, 0.75, 1.0, 1.0]


def trained(objective, steps=3):
    """Make some updates as the loop does; return the last loss."""
    optimizer, parallel = torch.optim.SGD(objective.encoder.parameters(), lr=0.05), start_parallel("cpu")
    for step in range(steps):
        objective.zero_grad()
        loss = objective(objective.prepare(make_batch([16_000], epoch=step)))
        (loss.sum / loss.n_targets).backward()
        optimizer.step()
        objective.after_update(step + 1, parallel)
    return objective(objective.prepare(make_batch([16_000])))


def test_the_teacher_follows_with_an_annealed_decay():
    options = {"ema_start": 0.5, "ema_end": 0.9, "ema_steps": 4}
    objective = build("data2vec", **options).double()
    name = "blocks.0.up.weight"
    own = objective.teacher.encoder.get_parameter(name)
    for step in (1, 3, 6):
        with torch.no_grad():
            for value in objective.encoder.parameters():
                value.add_(1.0)
        student, before = objective.encoder.get_parameter(name), own.flatten().tolist()
        objective.after_update(step, start_parallel("cpu"))
        decay = oracle.decay_at(step, 0.5, 0.9, 4)
        assert own.flatten().tolist() == pytest.approx(
            oracle.moving_average(before, student.flatten().tolist(), decay), rel=1e-9
        )


def test_the_teacher_begins_as_the_student_and_is_not_exported():
    objective = build("data2vec")
    state = objective.encoder.state_dict()
    teacher = objective.teacher.encoder.state_dict()
    assert {name.split(".")[0] for name in teacher} == {"position", "norm", "blocks"}
    assert all(torch.equal(value, state[name]) for name, value in teacher.items())
    assert {name.split(".")[0] for name in objective.exported()} == {"decoder"}
    assert any(name.startswith("teacher.") for name in objective.state_dict())  # of a checkpoint


def test_views_are_masked_differently_and_share_their_target():
    objective = build("data2vec", clones=3)
    prepared = objective.prepare(make_batch(LENGTHS))
    frames = prepared.mask.shape[1]
    views = prepared.mask.view(2, 3, frames)
    assert not torch.equal(views[0, 0], views[0, 1])
    assert prepared.masked.counts.sum() == prepared.n_targets == len(prepared.shared)
    rows, places = prepared.masked.frames // frames, prepared.masked.frames % frames
    assert torch.equal(prepared.shared, rows // 3 * frames + places)
    valid = torch.tensor([objective.encoder.frames(n) for n in LENGTHS]).repeat_interleave(3)
    assert torch.equal(prepared.visible.counts + prepared.masked.counts, valid)
    one = build("data2vec", clones=1).prepare(make_batch(LENGTHS))
    assert torch.equal(one.mask, views[:, 0])  # a view does not depend on how many there are


def test_the_student_learns_nothing_from_masked_audio():
    """The loss of one view has no gradient in the features of the frames that it masks."""
    objective = build("data2vec", clones=1).double().eval()
    prepared = objective.prepare(make_batch([16_000]))
    x = torch.randn(1, prepared.mask.shape[1], 16, dtype=torch.float64, requires_grad=True)
    objective.predict(x, prepared).square().sum().backward()
    assert x.grad[prepared.mask].abs().max() == 0
    assert x.grad[~prepared.mask].abs().sum(1).min() > 0


def findings(loss, step=600):
    """Return the names of what the health rules say of the metrics of a loss at a step of 1000."""
    health = Health({}, 1000, Data2Vec.rules)
    return {finding.name for finding in health.watch(step, {n: v.item() for n, v in loss.metrics.items()})}


def test_a_sound_objective_is_healthy():
    assert findings(trained(build("data2vec", model=DEEP).double())) == set()


def test_a_teacher_that_never_moves_is_found(monkeypatch):
    monkeypatch.setattr(Data2Vec, "after_update", lambda self, step, parallel: None)
    assert findings(trained(build("data2vec", model=DEEP).double())) == {"frozen_teacher"}


def test_collapsed_targets_are_found():
    objective = build("data2vec", model=DEEP).double()
    with torch.no_grad():
        for block in objective.teacher.encoder.blocks:
            block.down.weight.zero_()
    assert findings(trained(objective)) == {"target_collapse"}


def test_targets_in_one_direction_are_found_although_they_vary():
    objective = build("data2vec", model=DEEP).double()
    with torch.no_grad():
        for block in objective.teacher.encoder.blocks:
            block.down.weight[:] = block.down.weight[:1]  # every channel is the first
    loss = objective(objective.prepare(make_batch([16_000])))
    assert loss.metrics["target_deviation"] > 0.1
    assert "dimension_collapse" in findings(loss)


def test_a_collapsed_stem_is_found():
    objective = build("data2vec", model=DEEP).double()
    with torch.no_grad():
        objective.encoder.projection.weight.zero_()
    assert "stem_collapse" in findings(objective(objective.prepare(make_batch([16_000]))))


def test_equal_predictions_are_found():
    objective = build("data2vec", model=DEEP).double()
    with torch.no_grad():
        objective.decoder.project.weight.zero_()
    assert "prediction_collapse" in findings(objective(objective.prepare(make_batch([16_000]))))


@pytest.mark.parametrize("changes", [{"clones": 0}, {"top_layers": 0}, {"decoder_dim": 17}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match="objective"):
        build("data2vec", **changes)
