"""The sum against its scalar oracle; what the parts share and keep; which parts are refused; a broken part is named."""

import math
from dataclasses import replace

import pytest
import torch

from speechssl.config import HubertConfig, MaskConfig, PretrainConfig, Wav2Vec2Config
from speechssl.config.load import load_config, to_toml
from speechssl.config.objectives import (
    ApcConfig,
    BestRqConfig,
    DenoiseConfig,
    DinoSrConfig,
    MaskedReconstructionConfig,
    SumConfig,
    offline_targets,
)
from speechssl.core.errors import ConfigError
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.build import build_objective, objective_class
from speechssl.reports.run.objective import Trained
from speechssl.training.initialisation import take_heads
from speechssl.training.parallel import start_parallel
from tests.oracles import best_rq, reconstruction
from tests.oracles import sum as oracle
from tests.support.logmel import expected_speech
from tests.support.objectives import MASK, MODEL, N_UNITS, findings, make_batch, table

LENGTHS = [16_000, 9_000]
WAV2VEC2 = Wav2Vec2Config(mask=MASK, negatives=9, entries=12, final_dim=16)
HUBERT = HubertConfig(mask=MASK, final_dim=16)
BEST_RQ = BestRqConfig(mask=MASK, entries=13, code_dim=4, n_mels=20)
MELS = MaskedReconstructionConfig(mask=MASK, n_mels=20)


def combined(first, second, weights=(1.0, 1.0), units=None):
    torch.manual_seed(0)
    return build_objective(SumConfig(weights=weights, first=first, second=second), SpeechEncoder(MODEL), units, 3)


def alone(part, units=None):
    """Return a part of a sum as an objective of its own, with the same weights."""
    torch.manual_seed(5)
    objective = build_objective(part.cfg, SpeechEncoder(MODEL), units, 3)
    objective.load_state_dict(part.state_dict(), strict=False)
    objective.encoder.load_state_dict(part.encoder.state_dict())
    return objective


def test_loss_equals_the_scalar_oracle():
    objective = combined(MELS, BEST_RQ, weights=(0.5, 2.0)).double().eval()
    prepared = objective.prepare(make_batch(LENGTHS))
    mask, quantiser = prepared.first.mask, objective.second.quantiser
    with torch.no_grad():
        loss = objective(prepared)
        output = objective.encoder(prepared.batch.wave, prepared.first.lengths, mask=mask).x
        predicted, logits = objective.first.head(output), quantiser.predict(output)
    values, entropies = [], []
    for row, length in enumerate(LENGTHS):
        speech = expected_speech(objective.encoder, prepared.batch.wave[row, :length].numpy(), 20)
        for frame, x in enumerate(speech):
            if mask[row, frame]:
                whole = [[1] * len(x)]
                values.append([reconstruction.l1([predicted[row, frame].tolist()], [x], whole)[0] / len(x)])
                code = best_rq.quantise(x, quantiser.projection[0].tolist(), quantiser.codebooks[0].tolist())
                entropies.append([best_rq.cross_entropy([logits[row, frame].tolist()], [code])[0]])
    assert len(values) == loss.n_targets > 30
    assert loss.sum.item() / loss.n_targets == pytest.approx(oracle.weighted((0.5, 2.0), (values, entropies)), rel=1e-6)


def test_the_oracle_by_hand():
    assert oracle.mean_over_frames([[1.0, 3.0], [4.0, 4.0]]) == 3.0
    assert oracle.weighted((0.5, 2.0), ([[1.0, 3.0], [4.0, 4.0]], [[10.0], [0.0]])) == 0.5 * 3 + 2 * 5


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("pair", [(WAV2VEC2, BEST_RQ), (HUBERT, MELS), (MELS, WAV2VEC2)], ids=lambda p: p[0].kind)
def test_with_weight_0_of_one_part_the_other_s_numbers_are_exactly_its_own(pair, keep):
    units = table() if HUBERT in pair else None
    weights = (1.0, 0.0) if keep == 0 else (0.0, 1.0)
    both = combined(*pair, weights=weights, units=units).double().eval()
    part = (both.first, both.second)[keep]
    own = alone(part, units).double().eval()
    losses, found = [], []
    for objective in (both, own):
        loss = objective(objective.prepare(make_batch(LENGTHS)))
        (loss.sum / loss.n_targets).backward()
        losses.append(loss)
        found.append({name: value.grad for name, value in objective.named_parameters() if value.requires_grad})
    scale = losses[1].n_targets / losses[0].n_targets  # values of each frame
    exact = {"rtol": 0, "atol": 0} if scale == 1 else {"rtol": 1e-12, "atol": 1e-18}
    torch.testing.assert_close(losses[0].sum * scale, losses[1].sum, **exact)
    kind = pair[keep].kind
    assert {f"{kind}_{name}": value.item() for name, value in losses[1].metrics.items()}.items() <= {
        name: value.item() for name, value in losses[0].metrics.items()
    }.items()
    place = ("first.", "second.")[keep]
    for name, value in found[1].items():
        there = found[0][name if name.startswith("encoder.") else place + name]
        torch.testing.assert_close(there, value, **exact)


def test_in_training_a_first_part_draws_the_noise_that_it_draws_alone():
    both = combined(WAV2VEC2, BEST_RQ, weights=(1.0, 0.0)).train()
    own = alone(both.first).train()
    batch = make_batch(LENGTHS)
    batch = replace(batch, wave=batch.wave.float())
    values = []
    for objective in (both, own):
        torch.manual_seed(4)
        values.append(objective(objective.prepare(batch)).sum.item())
    assert values[0] == values[1]


def test_parts_with_other_numbers_of_values_weigh_the_same_over_micro_batches():
    objective = combined(MELS, BEST_RQ, weights=(1.0, 1.0)).double().eval()
    batches = [make_batch([16_000]), make_batch([9_000], ids=("u1",))]
    losses = [objective(objective.prepare(batch)) for batch in batches]
    counts = [loss.n_targets for loss in losses]
    assert counts[0] != counts[1]
    means = {name: [loss.metrics[name].item() for loss in losses] for name in losses[0].metrics}
    expected = sum(
        sum(value * n for value, n in zip(means[name], counts, strict=True)) / sum(counts)
        for name in ("masked_reconstruction_l1", "best_rq_masked_loss")
    )
    assert sum(loss.sum.item() for loss in losses) / sum(counts) == pytest.approx(expected, rel=1e-12)


def test_a_frame_without_a_target_in_one_part_is_not_masked():
    short = table(ids=("u0", "u1"), frames=45)
    both = combined(WAV2VEC2, HUBERT, units=short)
    prepared = both.prepare(make_batch([16_000] * 3))
    first, second = prepared.first, prepared.second
    drawn = both.first.preparer()(make_batch([16_000] * 3)).mask
    assert torch.equal(first.mask[:2, :45], drawn[:2, :45])
    assert drawn[:2, 45:].any() and not first.mask[:, 45:].any() and not first.mask[2].any()
    assert first.mask is second.mask and first.batch.wave is second.batch.wave
    assert prepared.n_targets == first.n_targets == second.n_targets == int(first.mask.sum())
    whole = replace(prepared.batch, wave=prepared.batch.wave.to(torch.int16))
    moved = replace(prepared, first=replace(first, batch=whole)).to("cpu")
    assert moved.batch.wave.dtype == torch.float32
    assert moved.batch.wave is moved.first.batch.wave is moved.second.batch.wave


def test_the_encoder_is_there_once():
    both = combined(WAV2VEC2, HUBERT, units=table())
    assert both.encoder is both.first.encoder is both.second.encoder
    names = both.state_dict().keys()
    assert not [name for name in names if ".encoder." in name]
    assert {name.split(".")[1] for name in both.exported()} == {
        "quantizer", "project_targets", "project_context", "projection", "embeddings",
    }  # fmt: skip


def test_the_embeddings_of_other_units_are_not_taken_back(tmp_path):
    both, other = (combined(WAV2VEC2, HUBERT, units=table()) for _ in range(2))
    with torch.no_grad():
        both.second.embeddings.add_(1)
        both.second.projection.bias.add_(1)
    save_model(tmp_path / "model", encoder=both.encoder, extra=both.exported(), info={"objective": "sum"})
    cfg = PretrainConfig(init=str(tmp_path / "model"), objective=both.cfg)
    assert take_heads(other, cfg, {"embeddings": "other units"}).endswith("new: second.embeddings (other units)")
    assert torch.equal(other.second.projection.bias, both.second.projection.bias)
    assert not torch.equal(other.second.embeddings, both.second.embeddings)


def test_a_part_with_a_teacher_moves_it_and_leaves_it_out_of_what_is_exported():
    both = combined(BEST_RQ, DinoSrConfig(mask=MASK, entries=8)).train()
    assert not [name for name in both.exported() if "teacher" in name]
    batch = make_batch(LENGTHS)
    both(both.prepare(replace(batch, wave=batch.wave.float()))).sum.backward()
    with torch.no_grad():
        both.encoder.blocks[0].attention.out.bias.add_(1.0)
    before = [value.clone() for value in both.second.teacher.state_dict().values()]
    both.after_update(1, start_parallel("cpu"))
    assert any(not torch.equal(a, b) for a, b in zip(before, both.second.teacher.state_dict().values(), strict=True))


MASKS = {"mask": MaskConfig(prob=0.3)}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (WAV2VEC2, replace(BEST_RQ, **MASKS), r"objective.first.mask and objective.second.mask must say the same"),
        (WAV2VEC2, WAV2VEC2, 'are both "wav2vec2"'),
        (WAV2VEC2, ApcConfig(), r'second.kind = "apc": .* one pass .* APC needs a causal encoder'),
        (DenoiseConfig(), BEST_RQ, r'first.kind = "denoise": .* Denoising autoencoder encodes another input'),
        (BEST_RQ, DinoSrConfig(mask=MASK, student_layer="same"), r"objective.second.student_layer changes what"),
        (replace(HUBERT, unmasked_weight=0.1), BEST_RQ, r"objective.first.unmasked_weight changes what"),
        (BEST_RQ, replace(MELS, channels=3), r"a waveform stem has not"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(first, second, message):
    with pytest.raises(ConfigError, match=message):
        combined(first, second, units=table())


def test_hidden_channels_and_negative_weights_are_refused():
    logmel = replace(MODEL, frontend=replace(MODEL.frontend, kind="logmel", n_mels=20, stack=2))
    with pytest.raises(ConfigError, match=r"second.channels changes what"):
        build_objective(SumConfig(first=BEST_RQ, second=replace(MELS, channels=3)), SpeechEncoder(logmel), None, 3)
    with pytest.raises(ConfigError, match=r"objective.weights = \[1.0, -1.0\]: use 0 or more"):
        combined(WAV2VEC2, BEST_RQ, weights=(1.0, -1.0))


def test_parts_are_chosen_and_set_on_the_command_line():
    words = ["--objective.kind", "sum", "--objective.second.kind", "hubert", "--objective.second.targets.clusters", "9"]
    cfg = load_config(PretrainConfig, None, [*words, "--objective.weights", "1", "0.25"])
    targets = replace(HubertConfig().targets, clusters=(9,))
    assert cfg.objective == SumConfig(weights=(1.0, 0.25), second=HubertConfig(targets=targets))
    assert offline_targets(cfg.objective).clusters == (9,)
    assert offline_targets(SumConfig()) is None
    assert "[objective.second.targets.teacher]" in to_toml(cfg)


def test_curves_and_rules_are_those_of_the_parts_under_their_names():
    declared = objective_class(SumConfig(first=WAV2VEC2, second=BEST_RQ))
    assert declared.title == "wav2vec 2.0 + BEST-RQ"
    curves = {curve.metric: curve for curve in declared.curves}
    assert len(curves) == len(declared.curves)
    assert curves["wav2vec2_contrastive"].level == pytest.approx(math.log(10))
    assert curves["best_rq_masked_loss"].level == pytest.approx(math.log(13))
    assert curves["best_rq_accuracy"].level == pytest.approx(100 / 13)
    assert ", of 12" in curves["wav2vec2_perplexity"].caption
    assert any("objective.second.codebooks" in rule.message for rule in declared.rules)
    units = Trained.by({"objective": {"kind": "sum", "first": {"kind": "hubert"}, "second": {"kind": "best_rq"}}})
    assert (units.candidates(0), units.candidates(1)) == (100, 500)
    assert {curve.metric for curve in units.curves if curve.level is None and curve.chance} == {
        "hubert_masked_loss", "hubert_accuracy",
    }  # fmt: skip


def test_chance_of_units_is_that_of_their_table():
    both = combined(HUBERT, BEST_RQ, units=table())
    assert both.chance["hubert_masked_loss"] == pytest.approx(table().entropy())
    assert both.first.embeddings.shape[0] == N_UNITS


def test_a_health_rule_names_the_collapsed_codebook_of_a_part():
    both = combined(BEST_RQ, WAV2VEC2).train()
    batch = make_batch(LENGTHS)
    prepared = both.prepare(replace(batch, wave=batch.wave.float()))
    assert findings(both, both(prepared)) - {"not_learning"} == set()
    with torch.no_grad():
        both.second.quantizer.weight_proj.bias.zero_()[::12] = 1e4  # always the first entry
    assert "codebook_collapse" in findings(both, both(prepared))
