"""The teacher: it follows by its decay, has no gradients and no dropout, and its state is whole."""

import math
from dataclasses import replace

import pytest
import torch

from speechssl.models.encoder import SpeechEncoder
from speechssl.models.teacher import INPUT_PARTS, Teacher, annealed
from tests.support.objectives import MODEL

DROPPING = replace(MODEL, encoder=replace(MODEL.encoder, dropout=0.5, layers=2))


def pair(**options):
    torch.manual_seed(0)
    student = SpeechEncoder(DROPPING)
    return student, Teacher(student, **options)


def test_weights_are_the_moving_average():
    student, teacher = pair()
    expected = {name: value.detach().clone() for name, value in student.named_parameters()}
    for decay in (0.9, 0.5, 1.0, 0.0):
        with torch.no_grad():
            for value in student.parameters():
                value.normal_()
        teacher.follow(student, decay)
        for name, value in teacher.encoder.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * student.get_parameter(name).detach()
            torch.testing.assert_close(value, expected[name])
            assert value.dtype == torch.float32
    assert student.mask_embedding is not teacher.encoder.mask_embedding


def test_a_teacher_without_input_reads_the_features_of_the_student():
    student, teacher = pair(without=INPUT_PARTS)
    names = {name.split(".")[0] for name in teacher.encoder.state_dict()}
    assert names == {"position", "norm", "blocks"}
    assert hasattr(student, "frontend")  # which keeps all of its parts
    wave = torch.randn(1, 8_000)
    x = student.eval().project(student.features(wave))
    output = teacher.context(x, None, layers=True, branches=True)
    assert not output.x.requires_grad
    assert torch.equal(output.x, student(wave).x)
    assert (len(output.layers), len(output.branches)) == (3, 2)
    teacher.follow(student, 0.5)
    teacher.load_state_dict(teacher.state_dict())


def test_parts_can_be_copied_while_the_others_are_averaged():
    student, teacher = pair()
    with torch.no_grad():
        for value in student.parameters():
            value.normal_()
    before = teacher.encoder.norm.weight.clone()
    teacher.follow(student, 0.75, copied=("position",))
    torch.testing.assert_close(teacher.encoder.norm.weight, 0.75 * before + 0.25 * student.norm.weight)
    assert torch.equal(teacher.encoder.position.direction, student.position.direction)


def test_it_has_neither_gradients_nor_dropout():
    _, teacher = pair()
    assert not any(value.requires_grad for value in teacher.parameters())
    x = torch.randn(1, 20, teacher.encoder.dim)
    assert torch.equal(teacher.train().context(x, None).x, teacher.context(x, None).x)
    assert not any(module.training for module in teacher.modules())


def test_a_teacher_that_never_moved_is_told():
    student, teacher = pair()
    assert teacher.moved().item() == 0
    with torch.no_grad():
        for value in student.parameters():
            value.add_(1e-3)
    teacher.follow(student, 1.0)
    assert teacher.moved().item() == 0
    teacher.follow(student, 0.9)
    assert teacher.moved().item() == 1
    assert "began" in teacher.state_dict()  # a resumed run compares with the same


def test_the_decay_is_annealed_in_a_straight_line():
    assert [annealed(0.9, 0.99, step, 10) for step in (0, 5, 10, 99)] == pytest.approx([0.9, 0.945, 0.99, 0.99])
    assert annealed(0.9, 0.99, 0, 0) == 0.99


def test_or_by_an_exponential():
    """SpidR: 1 - (1 - 0.999) exp(-step / 20,000)."""
    decays = [annealed(0.999, 1.0, step, 20_000, exponential=True) for step in (0, 20_000, 40_000)]
    assert [1 - decay for decay in decays] == pytest.approx([1e-3, 1e-3 / math.e, 1e-3 / math.e**2], rel=1e-9)
