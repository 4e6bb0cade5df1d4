"""WavLM: what is mixed, against its scalar oracle; whose units are the targets; broken versions that are named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import PretrainConfig
from speechssl.config.load import load_config
from speechssl.core.errors import ConfigError
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.build import build_objective
from speechssl.targets.table import UnitTable
from tests.oracles import hubert
from tests.oracles import wavlm as oracle
from tests.support.objectives import N_UNITS, build, findings, make_batch, table

LENGTHS = [16_000, 12_345, 9_000]


def arguments(mixture):
    return {"start": mixture.start, "begin": mixture.begin, "length": len(mixture.signal)}


def test_the_mixed_batch_and_its_loss_equal_the_scalar_oracles():
    objective = build("wavlm", mix_prob=0.9, noise_share=0.3, penalty_weight=0.0).double().eval()
    kinds = set()
    for epoch in range(4):
        batch = make_batch(LENGTHS, epoch=epoch)
        clean = [row[:length].tolist() for row, length in zip(batch.wave, LENGTHS, strict=True)]
        expected = list(clean)
        for mixture in objective.preparer().mixtures(batch):
            kinds.add(mixture.other)
            other = mixture.signal.tolist() if mixture.other is None else clean[mixture.other]
            expected[mixture.row] = oracle.mixed(
                clean[mixture.row], other, **arguments(mixture), ratio_db=mixture.ratio_db
            )
        prepared = objective.prepare(batch)
        assert torch.equal(prepared.batch.wave, batch.wave)
        for row, wave in zip(prepared.mixed, expected, strict=True):
            assert row[: len(wave)].tolist() == pytest.approx(wave, rel=1e-5, abs=1e-5)  # mixed in float32
            assert not row[len(wave) :].any()
        with torch.no_grad():
            loss = objective(prepared)
            projected = objective.projection(objective.encoder(prepared.mixed, prepared.lengths, mask=prepared.mask).x)
        units = [objective.units.get(f"u{row}")[frame] for row, frame in prepared.mask.nonzero().tolist()]
        total, _ = hubert.cross_entropy(projected[prepared.mask].tolist(), objective.embeddings.tolist(), units, 0.1)
        assert loss.n_targets == len(units) > 50
        assert loss.sum.item() == pytest.approx(total, rel=1e-9)
    assert kinds == {None, 0, 1, 2}


def test_what_is_logged_of_a_mixed_batch():
    objective = build("wavlm", mix_prob=0.7, noise_share=0.0).double()
    grid = objective.encoder.frontend.grid
    batch = make_batch([*LENGTHS, 16_000], ids=("u0", "u1", "u2", "u0"), weights=[1.0, 1.0, 1.0, 0.0])
    same = found = 0
    for epoch in range(6):
        batch = replace(batch, epoch=epoch)
        prepared = objective.prepare(batch)
        mixtures = list(objective.preparer().mixtures(batch))
        heard = np.full(tuple(prepared.mask.shape), -1)
        for mixture in mixtures:
            units = objective.units.get(f"u{mixture.other}").tolist()
            count = grid.frames(LENGTHS[mixture.row])
            heard[mixture.row, :count] = oracle.units_heard(
                count, grid.hop, grid.receptive, units, **arguments(mixture)
            )
        heard = heard[prepared.mask.numpy()]
        assert prepared.other_speech.tolist() == heard.tolist()
        metrics = {name: value.item() for name, value in prepared.metrics().items()}
        added = (prepared.mixed - batch.wave).numpy()
        assert metrics["mixed_fraction"] == pytest.approx(len(mixtures) / 3)
        assert metrics["added_energy"] == pytest.approx((added**2).sum() / (batch.wave.numpy() ** 2).sum())
        equal, count = int((heard == prepared.units.numpy()).sum()), int((heard >= 0).sum())
        assert ("other_speech_targets" in metrics) == (count > 0)
        assert metrics.get("other_speech_targets", 0) * count == pytest.approx(equal)
        same, found = same + equal, found + count
    assert 0 < same < found


def test_shares_ratios_and_stretches_are_those_asked_for():
    preparer = build("wavlm", mix_prob=0.2, noise_share=0.25).preparer()
    batch = make_batch([2_000] * 8)
    drawn = [mixture for epoch in range(500) for mixture in preparer.mixtures(replace(batch, epoch=epoch))]
    speech = [mixture for mixture in drawn if mixture.other is not None]
    assert len(drawn) / 4000 == pytest.approx(0.2, abs=0.03)
    assert len(speech) / len(drawn) == pytest.approx(0.75, abs=0.06)
    for some, low, high in (
        (speech, -5, 5),
        ([mixture for mixture in drawn if mixture.other is None], -5, 20),
    ):
        ratios = [mixture.ratio_db for mixture in some]
        assert low <= min(ratios) < low + 1 and high - 1 < max(ratios) <= high
        assert np.mean(ratios) == pytest.approx((low + high) / 2, abs=1.5)
    lengths = [len(mixture.signal) for mixture in drawn]
    assert min(lengths) < 50 and 950 < max(lengths) <= 1_000
    assert np.mean(lengths) == pytest.approx(500, abs=40)
    ends = [mixture.start + len(mixture.signal) for mixture in drawn]
    assert min(mixture.start for mixture in drawn) < 30 and 1_970 < max(ends) <= 2_000
    assert {mixture.other for mixture in speech} == set(range(8))
    assert all(mixture.other != mixture.row for mixture in drawn)


def test_only_whose_speech_is_heard_depends_on_the_neighbours():
    preparer = build("wavlm", mix_prob=1.0, noise_share=0.0).preparer()
    batches = (make_batch([9_000] * 3, ids=("u0", *others)) for others in (("u1", "u2"), ("u5", "u6")))
    one, two = (next(preparer.mixtures(batch)) for batch in batches)
    assert not np.array_equal(one.signal, two.signal)
    assert (one.start, len(one.signal), one.ratio_db) == (two.start, len(two.signal), two.ratio_db)


def test_absent_and_silent_rows_are_not_mixed_in_and_one_alone_hears_noise():
    preparer = build("wavlm", mix_prob=1.0, noise_share=0.0).preparer()
    batch = make_batch([9_000, 9_000, 300], weights=[1.0, 0.0, 1.0])
    assert [(mixture.row, mixture.other) for mixture in preparer.mixtures(batch)] == [(0, None)]
    batch = make_batch([9_000, 9_000])
    batch.wave[1] = 0
    prepared = preparer(batch)
    assert torch.equal(prepared.mixed, batch.wave)
    assert prepared.metrics()["added_energy"] < 1e-9
    alone = preparer(replace(batch, weights=torch.tensor([0.0, 1.0])))
    assert not alone.mixed[1].any()  # noise of no energy
    assert torch.isfinite(torch.stack(list(alone.metrics().values()))).all()


def test_int16_batches_are_mixed_as_floats_and_stay_as_they_are():
    batch = make_batch(LENGTHS)
    samples = (batch.wave * 3000).clamp(-32768, 32767).to(torch.int16)
    preparer = build("wavlm", mix_prob=1.0).preparer()
    prepared = preparer(replace(batch, wave=samples))
    assert prepared.batch.wave is samples
    assert torch.equal(prepared.mixed, preparer(replace(batch, wave=samples.float() / 32768)).mixed)
    metrics = prepared.to("cpu").metrics()
    assert metrics["mixed_fraction"] == 1
    unmixed = build("wavlm", mix_prob=0.0).preparer()(replace(batch, wave=samples)).to("cpu")
    assert unmixed.metrics() == {"mixed_fraction": 0, "added_energy": 0}


def test_noise_is_that_of_the_run():
    class Hum:
        def noise(self, samples, slope, random):
            return np.full(samples, 0.5, dtype=np.float32)

    objective = build("wavlm", mix_prob=1.0, noise_share=1.0)
    objective.sounds = Hum()
    (mixture,) = objective.preparer().mixtures(make_batch([9_000]))
    assert set(mixture.signal) == {0.5}


def test_a_sum_is_told_that_mixed_speech_is_another_input():
    assert build("wavlm").refused_in_sum == "mix_prob"
    assert build("wavlm", mix_prob=0.0).refused_in_sum == ""
    assert build("wavlm", mix_prob=0.0, unmasked_weight=1.0).refused_in_sum == "unmasked_weight"


@pytest.mark.parametrize("changes", [{"mix_prob": 1.5}, {"noise_share": -0.1}, {"noise_db": (20.0, -5.0)}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError, match="lower bound first"):
        build("wavlm", **changes)


# ----------------------------------------------------------------------------------------- broken versions

TONES = 400.0 * (1 + np.arange(N_UNITS))
"""Hz; each is a unit."""


def spoken(count=24, tones=20):
    """Return a batch of utterances, each of tones of 0.1 s one after another."""
    played = TONES[np.random.default_rng(2).integers(0, N_UNITS, (count, tones))].repeat(1_600, axis=1)
    wave = np.sin(2 * np.pi * played * np.arange(played.shape[1]) / 16_000)
    return Batch(
        wave=torch.from_numpy(wave).float(),
        lengths=torch.full((count,), wave.shape[1]),
        starts=torch.zeros(count, dtype=torch.int64),
        weights=torch.ones(count),
        ids=tuple(map(str, range(count))),
        epoch=0,
    )


def quantised(wave):
    """Return the unit of each 320 samples [B, T // 320]: its strongest tone."""
    frames = wave.numpy()[:, : wave.shape[1] // 320 * 320].reshape(len(wave), -1, 320)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(320), TONES) / 16_000)
    return np.abs(frames @ waves).argmax(axis=2)


def judged(broken=None, **changes):
    """Return what the health rules find in a batch of tones, whose units are made from clean audio."""
    objective, batch = build("wavlm", **{"noise_share": 0.0} | changes), spoken()
    objective.units = UnitTable(dict(zip(batch.ids, quantised(batch.wave), strict=True)), n_units=N_UNITS, hop=320)
    prepared = objective.prepare(batch)
    return findings(objective, objective(broken(prepared) if broken else prepared)) - {"not_learning"}


def units_of_the_mixture(prepared):
    units = torch.from_numpy(quantised(prepared.mixed))[:, : prepared.mask.shape[1]]
    return replace(prepared, units=prepared.masked.pick(units))


def never_mixed(prepared):
    return replace(prepared, mixed=prepared.batch.wave)


@pytest.mark.parametrize(
    ("broken", "changes", "found"),
    [
        (None, {}, set()),
        (units_of_the_mixture, {}, {"targets_of_the_mixture"}),
        (never_mixed, {}, {"nothing_mixed"}),
        (None, {"mix_prob": 0.0}, {"nothing_mixed"}),
        (None, {"mix_prob": 1.0}, {"everything_mixed"}),
        (None, {"speech_db": (-30.0, -20.0)}, {"mixed_too_loud"}),
    ],
    ids=["sound", "units of the mixture", "never mixed", "no probability", "all", "loud"],
)
def test_a_health_rule_names_what_is_broken(broken, changes, found):
    assert judged(broken, **changes) == found


def test_units_are_needed_on_the_encoders_grid():
    objective = build("wavlm")
    with pytest.raises(ValueError, match="160 samples apart"):
        type(objective)(objective.encoder, objective.cfg, table(hop=160), seed=1)


def test_base_has_the_published_size():
    cfg = load_config(PretrainConfig, "wavlm-base")
    with torch.device("meta"):
        objective = build_objective(cfg.objective, SpeechEncoder(cfg.model), UnitTable({}, n_units=504, hop=320), 1)
    assert sum(parameter.numel() for parameter in objective.parameters()) == pytest.approx(94.70e6, abs=5e3)
