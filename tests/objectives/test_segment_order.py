"""Order prediction against its scalar oracle; permutations; cuts; what must not betray the order; broken versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.objectives.classification.segment_order import SegmentOrderPreparer, distant_permutations
from tests.oracles import classes as oracle
from tests.support.objectives import MODEL, STEMS, build, findings, fit, make_batch


@pytest.mark.parametrize("stem", STEMS)
def test_loss_equals_the_scalar_oracle(stem):
    objective = build("segment_order", model=replace(MODEL, frontend=STEMS[stem]), segments=3, permutations=5)
    objective = objective.double().eval()
    prepared = objective.prepare(make_batch([16_000, 9_000, 12_000, 9_000], weights=[1.0, 1.0, 1.0, 0.0]))
    with torch.no_grad():
        loss = objective(prepared)
        x = objective.encoder(prepared.audio, prepared.lengths).x
    layers = [objective.head.hidden[0], objective.head.predict]
    (hidden, hidden_bias), (weight, bias) = ((layer.weight.tolist(), layer.bias.tolist()) for layer in layers)
    expected, right = 0.0, 0
    for row, length in enumerate([16_000, 9_000, 12_000]):
        samples = math.floor(0.9 * (length // 3) / 320) * 320
        seen = [
            frame for frame in range(samples // 320) if frame * 320 + objective.encoder.frontend.receptive <= samples
        ]
        first = [place * samples // 320 for place in range(3)]
        means = [oracle.mean_frame([x[row, begin + frame].tolist() for frame in seen]) for begin in first]
        logits = oracle.scores(
            weight, bias, oracle.gelu(oracle.scores(hidden, hidden_bias, [value for mean in means for value in mean]))
        )
        drawn = prepared.classes[row].item()
        expected += oracle.nats(logits, drawn)
        right += logits.index(max(logits)) == drawn
    assert loss.n_targets == 3
    assert loss.sum.item() == pytest.approx(expected, rel=1e-6)  # weights of means are kept in float32
    assert loss.metrics["class_loss"].item() == pytest.approx(expected / 3, rel=1e-6)
    assert loss.metrics["accuracy"].item() == pytest.approx(right / 3)


@pytest.mark.parametrize(("segments", "count"), [(2, 2), (3, 6), (4, 12), (5, 20)])
def test_permutations_are_as_far_apart_as_a_plain_search_finds(segments, count):
    assert list(distant_permutations(segments, count)) == oracle.distant_permutations(segments, count)


def test_permutations_are_different_and_begin_with_the_unshuffled_order():
    for segments, count, least in [(3, 3, 3), (4, 4, 4), (4, 12, 3), (4, 24, 2), (7, 100, 4)]:
        found = distant_permutations(segments, count)
        assert found[0] == tuple(range(segments))
        assert {tuple(sorted(each)) for each in found} == {found[0]}
        apart = [sum(x != y for x, y in zip(a, b, strict=True)) for a in found for b in found if a is not b]
        assert min(apart) >= least


def shuffled(epochs=40, **changes):
    """Yield the class and the segments of an utterance over some epochs, with samples that tell their places."""
    preparer = build("segment_order", **changes).preparer()
    for epoch in range(epochs):
        wave = torch.arange(16_000, dtype=torch.float32)[None]
        prepared = preparer(replace(make_batch([16_000], epoch=epoch), wave=wave))
        yield prepared.classes.item(), prepared.audio[0].view(preparer.cfg.segments, -1).numpy()


def test_segments_stand_in_the_order_of_their_class():
    seen = set()
    for drawn, segments in shuffled():
        order = distant_permutations(4, 12)[drawn]
        assert (segments[:, 0] // 4_000).tolist() == list(order)
        assert (segments[:, -1] // 4_000).tolist() == list(order)  # each within its cell
        assert all(np.array_equal(np.diff(each), np.ones(len(each) - 1)) for each in segments)
        assert segments.shape[1] == 3_520  # 0.9 of a second's quarter, in whole hops of 20 ms
        seen.add(drawn)
    assert len(seen) == 12


def test_ends_that_fit_together_lie_apart_by_a_gap_that_varies():
    gaps = []
    for _, segments in shuffled(share=0.8):
        ordered = segments[np.argsort(segments[:, 0])]
        gaps.extend(ordered[1:, 0] - ordered[:-1, -1] - 1)
    assert min(gaps) >= 0 and np.mean(gaps) == pytest.approx(800, rel=0.1)
    assert np.std(gaps) > 200


def test_frames_that_see_two_segments_are_in_no_mean():
    """The mean of a segment does not change with what its neighbours hold, but for what blocks carry over."""
    objective = build("segment_order").double().eval()
    prepared = objective.prepare(make_batch([16_000]))
    grid = objective.encoder.frontend.grid
    for place, weights in enumerate(prepared.segments[0]):
        frames = torch.nonzero(weights).flatten().tolist()
        assert weights.sum().item() == pytest.approx(1)
        assert frames[0] * grid.hop == place * 3_520
        assert (
            frames[-1] * grid.hop + grid.receptive <= (place + 1) * 3_520 < (frames[-1] + 1) * grid.hop + grid.receptive
        )


def test_an_utterance_that_is_too_short_has_no_target():
    prepare = build("segment_order").prepare
    least = 2 * 320 * 4 * 10 // 9 + 8  # two hops in each of four segments
    assert prepare(make_batch([least, 16_000])).n_targets == 2
    assert prepare(make_batch([1_000, 16_000])).n_targets == 1


def test_every_order_is_drawn_about_equally():
    counts = np.bincount([drawn for drawn, _ in shuffled(epochs=400, permutations=4)])
    assert counts.min() > 75


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": 1}, "give 2 to 8"),
        ({"segments": 9}, "give 2 to 8"),
        ({"permutations": 1}, "give 2 to 24"),
        ({"permutations": 25}, "give 2 to 24"),
        ({"share": 0.0}, "above 0"),
        ({"share": 1.1}, "at most 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build("segment_order", **changes)


# ----------------------------------------------------------------------------------------- broken versions


def trained():
    """Train on sixteen tones in noise that all rise; return what the health checks find."""
    objective = build("segment_order", model=replace(MODEL, frontend=STEMS["logmel"]), segments=3, permutations=3)
    time = np.arange(16_000) / 16_000
    noise = np.random.default_rng(0).normal(size=(16, 16_000))
    tones = torch.from_numpy(np.sin(2 * np.pi * (300 + 500 * time) * time) + 10 * noise).float()
    batch = replace(make_batch([16_000] * 16, ids=("u0",) * 16), wave=tones, ids=tuple("abcdefghijklmnop"))
    return findings(objective, fit(objective, (replace(batch, epoch=epoch) for epoch in range(20)), 3e-3))


def test_a_sound_version_learns_and_is_not_named():
    assert trained() == set()


def test_what_is_not_shuffled_cannot_be_learnt(monkeypatch):
    """All orders are the same, and only the class differs."""
    monkeypatch.setattr(
        "speechssl.objectives.classification.segment_order.distant_permutations",
        lambda segments, count: (tuple(range(segments)),) * count,
    )
    assert trained() == {"not_learning"}


def test_one_class_for_all_utterances_is_named(monkeypatch):
    one = lambda *parts: np.random.default_rng(0)  # noqa: E731
    monkeypatch.setattr("speechssl.objectives.classification.segment_order.generator", one)
    assert "class_not_drawn" in trained()


def test_places_that_are_betrayed_are_named(monkeypatch):
    """The segments of an utterance differ in loudness, as if each had been cut from another recording."""
    sound = SegmentOrderPreparer.cut

    def betrayed(self, wave, random):
        return [segment * 4.0**place for place, segment in enumerate(sound(self, wave, random))]

    monkeypatch.setattr(SegmentOrderPreparer, "cut", betrayed)
    assert trained() == {"class_betrayed"}
