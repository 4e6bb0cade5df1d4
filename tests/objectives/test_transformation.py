"""Transformation prediction against its scalar oracle; what is applied; what must not betray it; broken versions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.core.randomness import generator
from speechssl.data.batches.augment import band_limited
from speechssl.objectives.classification.transformation import TransformationPreparer
from tests.oracles import classes as oracle
from tests.support.chirps import chirp
from tests.support.objectives import MODEL, STEMS, build, findings, fit, make_batch

EVERY = ("none", "fast", "slow", "higher", "lower", "reversed", "band_limited", "polarity")


@pytest.mark.parametrize("stem", STEMS)
def test_loss_equals_the_scalar_oracle(stem):
    objective = build("transformation", model=replace(MODEL, frontend=STEMS[stem])).double().eval()
    prepared = objective.prepare(make_batch([16_000, 9_000, 12_000, 9_000], weights=[1.0, 1.0, 1.0, 0.0]))
    with torch.no_grad():
        loss = objective(prepared)
        x = objective.encoder(prepared.audio, prepared.lengths).x
    weight, bias = (value.tolist() for value in (objective.head.predict.weight, objective.head.predict.bias))
    expected, right = 0.0, 0
    for row, length in enumerate([16_000, 9_000, 12_000]):
        frames = objective.encoder.frames(int(length / 1.25) - 801)
        assert prepared.lengths[row] == int(length / 1.25) - 801
        logits = oracle.scores(weight, bias, oracle.mean_frame(x[row, :frames].tolist()))
        drawn = int(generator("transformation", 3, 0, f"u{row}").integers(5))
        expected += oracle.nats(logits, drawn)
        right += logits.index(max(logits)) == drawn
    assert loss.n_targets == 3
    assert loss.sum.item() == pytest.approx(expected, rel=1e-9)
    assert loss.metrics["class_loss"].item() == pytest.approx(expected / 3, rel=1e-9)
    assert loss.metrics["accuracy"].item() == pytest.approx(right / 3)


def views(length=16_000, epochs=60, **changes):
    """Return the views of an utterance that get each class over some epochs, by its name."""
    preparer = build("transformation", classes=EVERY, **changes).preparer()
    time = np.arange(length) / 16_000
    sweep = np.sin(2 * np.pi * (400 + 400 * time) * time).astype(np.float32)
    found = {name: [] for name in EVERY}
    for epoch in range(epochs):
        batch = make_batch([length], epoch=epoch)
        wave = torch.from_numpy(sweep)[None]
        prepared = preparer(replace(batch, wave=wave))
        found[EVERY[prepared.classes.item()]].append(prepared.audio[0].numpy())
    return found


def frequencies(view):
    """Return the frequency of the strongest tone in the first and in the last eighth of a view, in hertz."""
    part = len(view) // 8
    window = np.hanning(part)
    return [np.abs(np.fft.rfft(x * window, 16_000)).argmax() for x in (view[:part], view[-part:])]


def test_each_class_is_what_its_name_says():
    """The tone rises by 800 Hz a second from 400 Hz on, and a view of 0.75 s begins within 0.25 s of either end."""
    factors = {"fast": 1.25**2, "slow": 1.25**-2, "higher": 1.25, "lower": 0.8, "reversed": -1}
    for name, found in views().items():
        assert found, name
        for view in found:
            first, last = frequencies(view)
            assert last - first == pytest.approx(700 * factors.get(name, 1) * len(view) / 16_000, abs=25), name


def test_polarity_and_reversal_are_exact():
    preparer = build("transformation", classes=("polarity", "reversed")).preparer()
    wave = chirp(1, 0.5)
    np.testing.assert_array_equal(preparer.transformed(wave, "polarity", None), -wave)
    np.testing.assert_array_equal(preparer.transformed(wave, "reversed", None), wave[::-1])


def test_no_length_and_no_empty_band_betrays_the_class():
    """White noise has energy everywhere: after the transformation all views end at the same frequency."""
    preparer = build("transformation", classes=EVERY).preparer()
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    for name in EVERY:
        view = preparer.transformed(noise, name, np.random.default_rng(1))
        assert len(view) - 800 >= preparer.samples(16_000)
        power = np.abs(np.fft.rfft(view)) ** 2
        hertz = np.arange(len(power)) * 16_000 / len(view)
        assert power[hertz > 5765].max() < 1e-9 * power.max()
        if name == "band_limited":
            assert 990 < hertz[power > 1e-6 * power.max()].max() < 4010
        else:
            assert power[(hertz > 5200) & (hertz < 5700)].mean() > 0.2 * power[hertz < 5000].mean()
    lengths = {len(view) for found in views().values() for view in found}
    assert lengths == {int(16_000 / 1.25) - 801}


def test_nothing_is_filtered_or_shortened_without_need():
    preparer = build("transformation", classes=("none", "reversed")).preparer()
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    np.testing.assert_array_equal(preparer.transformed(noise, "none", None), noise)
    assert preparer.samples(16_000) == 16_000 - 801


def test_every_class_is_drawn_about_equally_and_crops_lie_anywhere():
    preparer = build("transformation", classes=("none", "polarity", "reversed")).preparer()
    ramp = (torch.arange(2_000, dtype=torch.float32) / 32_768)[None]
    drawn, starts = [], set()
    for epoch in range(300):
        prepared = preparer(replace(make_batch([2_000], epoch=epoch), wave=ramp))
        drawn.append(prepared.classes.item())
        starts.add(round(prepared.audio[0, 0].abs().item() * 32_768))
    assert np.bincount(drawn).min() > 75
    assert starts <= {400, 401, 1598, 1599}  # 25 ms are left out at either end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("none",)}, "two or more"),
        ({"classes": ("none", "fast", "none")}, "each once"),
        ({"factor": 1.0}, "above 1"),
        ({"factor": 3.0}, "at most 2"),
        ({"band_hz": (4000.0, 1000.0)}, "lower bound first"),
        ({"band_hz": (1000.0, 6000.0)}, "all views end at 5760 Hz"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build("transformation", **changes)


# ----------------------------------------------------------------------------------------- broken versions


def trained():
    """Train on sixteen rising tones, of which some are reversed; return what the health checks find."""
    objective = build("transformation", model=replace(MODEL, frontend=STEMS["logmel"]), classes=("none", "reversed"))
    tones = torch.from_numpy(np.stack([chirp(number, 1.0) for number in range(0, 160, 10)]))
    batch = replace(make_batch([16_000] * 16, ids=("u0",) * 16), wave=tones, ids=tuple("abcdefghijklmnop"))
    return findings(objective, fit(objective, (replace(batch, epoch=epoch) for epoch in range(20)), 3e-3))


def test_a_sound_version_learns_and_is_not_named():
    assert trained() == set()


def test_what_is_never_applied_cannot_be_learnt(monkeypatch):
    monkeypatch.setattr(TransformationPreparer, "transformed", lambda self, wave, name, random: wave)
    assert trained() == {"not_learning"}


def test_one_class_for_all_utterances_is_named(monkeypatch):
    one = lambda *parts: np.random.default_rng(0)  # noqa: E731
    monkeypatch.setattr("speechssl.objectives.classification.transformation.generator", one)
    assert "class_not_drawn" in trained()


def test_a_class_that_is_betrayed_is_named(monkeypatch):
    """As a resampler would, that leaves the upper half of the spectrum empty."""
    sound = TransformationPreparer.transformed

    def betrayed(self, wave, name, random):
        view = sound(self, wave, name, random)
        return band_limited(view, 1000) if name == "reversed" else view

    monkeypatch.setattr(TransformationPreparer, "transformed", betrayed)
    assert trained() == {"class_betrayed"}
