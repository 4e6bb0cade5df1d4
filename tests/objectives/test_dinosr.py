"""DinoSR against its scalar oracle, its teacher and codebooks, and broken versions that the health rules name."""

import math
from dataclasses import replace

import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.training.parallel import start_parallel
from tests.oracles import codebooks as clustering
from tests.oracles import data2vec as averages
from tests.oracles import dinosr as oracle
from tests.support.objectives import KINDS, MASK, MODEL, STEMS, build, findings, make_batch

LENGTHS = [16_000, 9_000]
DEEP = replace(MODEL, encoder=replace(MODEL.encoder, layers=3))


def apart(objective):
    """Give the teacher weights that are not the student's."""
    with torch.no_grad():
        for value in objective.teacher.parameters():
            value.add_(0.1 * torch.randn_like(value))


def frames_of(objective, prepared, top=2):
    """Return the teacher's layers [K][N][D] at the masked frames, utterance by utterance."""
    layers = [[] for _ in range(top)]
    for row, length in enumerate(LENGTHS):
        x = objective.encoder.project(objective.encoder.features(prepared.batch.wave[row : row + 1, :length]))
        branches = [branch[0].tolist() for branch in objective.teacher.context(x, None, branches=True).branches]
        masked = prepared.mask[row].nonzero().flatten().tolist()
        for layer, frames in zip(layers, oracle.targets(branches, top, masked), strict=True):
            layer += frames
    return layers


def student_of(objective, prepared, layers):
    """Return the student's outputs [N, D] at the masked frames, one for each of its layers that are asked for."""
    found = [[] for _ in layers]
    for row, length in enumerate(LENGTHS):
        wave, mask = prepared.batch.wave[row : row + 1, :length], prepared.mask[row : row + 1]
        mask = mask[:, : objective.encoder.frames(length)]
        output = objective.encoder(wave, mask=mask, layers=True)
        for rows, layer in zip(found, layers, strict=True):
            rows.append((output.x if layer == -1 else output.layers[layer])[mask])
    return [torch.cat(rows) for rows in found]


@pytest.mark.parametrize("student_layer", ["last", "same"])
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("stem", ["layer", "logmel"])
def test_loss_and_codebooks_equal_the_scalar_oracle(stem, norm, student_layer):
    model = replace(DEEP, frontend=STEMS[stem], encoder=replace(DEEP.encoder, norm=norm, dropout=0.0, input_dropout=0.0,
                    attention_dropout=0.0))  # fmt: skip
    objective = build("dinosr", model=model, top_layers=2, entries=9, student_layer=student_layer).double()
    apart(objective)
    prepared = objective.prepare(make_batch(LENGTHS))
    with torch.no_grad():
        loss = objective(prepared)
        frames = frames_of(objective, prepared)
        student = student_of(objective, prepared, [-2, -1] if student_layer == "same" else [-1, -1])
        logits = [head(x).tolist() for head, x in zip(objective.codes.heads, student, strict=True)]
    sums, counts = objective.codes.sums.tolist(), objective.codes.counts.tolist()
    books = [clustering.entries(*book) for book in zip(sums, counts, strict=True)]
    total, accuracy, codes = oracle.loss(logits, frames, books)
    n = loss.n_targets
    assert len(codes[0]) == n > 30
    assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    assert loss.metrics["masked_loss"].item() == pytest.approx(total / n, rel=1e-9)
    assert loss.metrics["accuracy"].item() == pytest.approx(accuracy, abs=1e-6)
    objective.codes.follow(start_parallel("cpu").sum)
    for k in range(2):
        perplexity, active, deviation = oracle.usage(codes[k], frames[k])
        assert active > 2
        assert loss.metrics[f"code_perplexity_{k}"].item() == pytest.approx(perplexity, rel=1e-6)
        assert loss.metrics[f"active_codes_{k}"].item() == active
        assert loss.metrics[f"target_deviation_{k}"].item() == pytest.approx(deviation, rel=1e-6)
        new_sums, new_counts = clustering.moved(sums[k], counts[k], frames[k], 0.9)
        assert objective.codes.counts[k].tolist() == pytest.approx(new_counts, rel=1e-9)
        assert objective.codes.sums[k].flatten().tolist() == pytest.approx([x for row in new_sums for x in row])


def test_the_oracle_by_hand():
    branches = [[[9.0], [9.0]], [[0.0], [4.0]], [[4.0], [0.0]]]
    assert oracle.targets(branches, 2, [1]) == [[[pytest.approx(1, abs=1e-4)]], [[pytest.approx(-1, abs=1e-4)]]]
    logits, frames, books = [[[0.0, 0.0]], [[2.0, 0.0]]], [[[1.0]], [[0.2]]], [[[0.0], [1.0]]] * 2
    total, accuracy, codes = oracle.loss(logits, frames, books)
    assert total == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)
    assert (accuracy, codes) == (1.0, [[1], [0]])
    assert oracle.usage([3, 3, 5, 5], [[0.0], [0.0], [2.0], [2.0]]) == (pytest.approx(2), 2, 1.0)


def trained(objective, steps=3):
    """Make some updates as the loop does; return a loss after them."""
    parameters = [value for value in objective.parameters() if value.requires_grad]
    optimizer, parallel = torch.optim.SGD(parameters, lr=0.05), start_parallel("cpu")
    for step in range(steps):
        objective.begin_step(step)
        objective.zero_grad()
        loss = objective(objective.prepare(make_batch([16_000], epoch=step)))
        (loss.sum / loss.n_targets).backward()
        optimizer.step()
        objective.after_update(step + 1, parallel)
    return objective(objective.prepare(make_batch([16_000])))


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_the_teacher_follows_but_its_positional_convolution_is_the_student_s(schedule):
    objective = build("dinosr", ema_start=0.5, ema_end=0.9, ema_steps=4, ema_schedule=schedule).double()
    own = objective.teacher.encoder.get_parameter("blocks.0.up.weight")
    for step in (1, 3, 6):
        with torch.no_grad():
            for value in objective.encoder.parameters():
                value.add_(1.0)
        student, before = objective.encoder.get_parameter("blocks.0.up.weight"), own.flatten().tolist()
        objective.after_update(step, start_parallel("cpu"))
        decay = averages.decay_at(step, 0.5, 0.9, 4) if schedule == "linear" else 0.9 - 0.4 * math.exp(-step / 4)
        assert own.flatten().tolist() == pytest.approx(
            averages.moving_average(before, student.flatten().tolist(), decay), rel=1e-9
        )
        assert torch.equal(objective.teacher.encoder.position.direction, objective.encoder.position.direction)


def test_after_so_many_updates_teacher_and_stem_are_frozen_and_the_rest_learns():
    objective = build("dinosr", model=DEEP, freeze_after=2).double()
    parallel = start_parallel("cpu")
    assert [objective.begin_step(step) for step in (0, 1)] == [False, False]
    trained(objective, steps=2)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    assert [objective.begin_step(step) for step in (2, 3)] == [True, False]
    frozen = {name.split(".")[1] for name, value in objective.named_parameters() if not value.requires_grad}
    assert frozen == {"encoder", "frontend", "feature_norm", "projection"}  # the first is that of the teacher
    objective.zero_grad()
    objective(objective.prepare(make_batch([16_000]))).sum.backward()
    with torch.no_grad():
        for value in objective.parameters():
            if value.grad is not None:
                value -= 0.01 * value.grad
    objective.after_update(3, parallel)
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    parts = {".".join(name.split(".")[:2]) for name in changed}
    assert not any(part.startswith("teacher") for part in parts)
    assert parts.isdisjoint({"encoder.frontend", "encoder.feature_norm", "encoder.projection"})
    assert parts >= {"encoder.position", "encoder.blocks", "encoder.mask_embedding", "codes.heads", "codes.sums"}


def test_what_a_skipped_update_or_a_validation_saw_moves_no_codebook():
    one, other = build("dinosr").double(), build("dinosr").double()
    prepared = one.prepare(make_batch([16_000]))
    one(prepared)
    assert one.codes.seen_counts.sum() == prepared.n_targets
    for objective in (one, other):
        objective.begin_step(1)
        objective.eval()(prepared)
        assert objective.codes.seen_counts.sum() == 0
        objective.train()(prepared)
        objective.after_update(2, start_parallel("cpu"))
    assert torch.equal(one.codes.sums, other.codes.sums)


def test_the_student_learns_nothing_from_masked_audio(monkeypatch):
    """The predictions have no gradient in the features of masked frames."""
    objective = build("dinosr", model=DEEP, student_layer="same").double().eval()
    prepared = objective.prepare(make_batch([16_000]))
    found = []

    def kept(features):
        found.append(torch.randn(*features.shape[:2], 16, dtype=torch.float64, requires_grad=True))
        return found[-1]

    monkeypatch.setattr(objective.encoder, "project", kept)
    output = objective.encode(prepared)
    objective.codes.logits(objective.student(output, prepared.masked)).square().sum().backward()
    assert found[0].grad[prepared.mask].abs().max() == 0
    assert found[0].grad[~prepared.mask].abs().sum(1).min() > 0


def test_it_sums_with_another_objective_and_exports_no_teacher():
    first, second = (KINDS[kind](mask=MASK) for kind in ("best_rq", "dinosr"))
    objective = build("sum", first=first, second=second).double()
    alone = build("dinosr").double()
    prepared = objective.prepare(make_batch([16_000]))
    objective.begin_step(0)
    loss = objective(prepared)
    assert objective.second.codes.seen_counts.sum() == prepared.n_targets
    before = objective.second.codes.sums.clone()
    objective.after_update(1, start_parallel("cpu"))
    assert not torch.equal(objective.second.codes.sums, before)
    assert loss.metrics.keys() >= {f"dinosr_{name}" for name in alone.chance}
    assert {name.removeprefix("second.") for name in objective.exported() if name.startswith("second.")} == set(
        alone.exported()
    )
    with pytest.raises(ConfigError, match=r"objective.second.student_layer changes what"):
        build("sum", first=first, second=replace(second, student_layer="same"))


def test_codebooks_and_heads_are_exported_and_the_teacher_is_not():
    objective = build("dinosr")
    assert {name.split(".")[0] for name in objective.exported()} == {"codes"}
    assert {"codes.sums", "codes.counts", "codes.heads.0.weight"} <= objective.exported().keys()
    assert any(name.startswith("teacher.") for name in objective.state_dict())  # of a checkpoint


def test_a_sound_objective_is_healthy():
    objective = build("dinosr", model=DEEP, entries=16).double()
    assert findings(objective, trained(objective)) <= {"not_learning"}


def teacher_never_moves(monkeypatch, objective):
    monkeypatch.setattr(objective.teacher, "follow", lambda student, decay, copied: None)


def entries_begin_far_from_the_targets(monkeypatch, objective):
    """The entry that is nearest to the origin gets all frames; no other one ever moves."""
    del monkeypatch
    objective.codes.sums.mul_(100)


def teacher_sees_one_frame(monkeypatch, objective):
    del monkeypatch
    with torch.no_grad():
        for block in objective.teacher.encoder.blocks:
            block.down.weight.zero_()


def stem_sees_one_frame(monkeypatch, objective):
    del monkeypatch
    objective.encoder.projection.weight.requires_grad_(requires_grad=False).zero_()


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (teacher_never_moves, {"frozen_teacher"}),
        (entries_begin_far_from_the_targets, {"code_collapse"}),
        (teacher_sees_one_frame, {"target_collapse", "code_collapse"}),
        (stem_sees_one_frame, {"stem_collapse", "target_collapse", "code_collapse"}),
    ],
)
def test_a_health_rule_names_what_is_broken(broken, finding, monkeypatch):
    objective = build("dinosr", model=DEEP, entries=16, ema_start=0.999, freeze_after=0).double()
    broken(monkeypatch, objective)
    assert findings(objective, trained(objective, steps=6)) - {"not_learning"} == finding


@pytest.mark.parametrize(
    "changes", [{"top_layers": 0}, {"entries": 1}, {"codebook_decay": 1.0}, {"codebook_deviation": 0.0}]
)
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match="objective"):
        build("dinosr", **changes)
