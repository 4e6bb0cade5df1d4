"""The CTC model and its objective: against the scalar oracle, under padding, freezing and bad input."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.ctc import CtcModel, CtcObjective, CtcPrepared, load_recogniser
from speechssl.asr.ctc_loss import alignment_entropies, consistency
from speechssl.asr.decoding.decode import greedy
from speechssl.asr.engine.packed import PackedRecogniser, can_pack
from speechssl.asr.recognise import frame_log_probs, recognise
from speechssl.asr.tokens import Tokens
from speechssl.asr.transcription.longform import local_log_probs
from speechssl.config import CtcConfig, EncoderConfig, FrontendConfig, ModelConfig, TokensConfig
from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.ledger import Entry
from speechssl.data.batches.batch import Batch
from speechssl.interop.any_model import load_any_encoder
from speechssl.interop.model_folder import save_model
from speechssl.models.encoder import SpeechEncoder
from tests.oracles import ctc as oracle

TOKENS, _ = Tokens.build(["abcd"], TokensConfig())  # blank, |, a, b, c, d
GROUP = FrontendConfig(conv_layers=((16, 10, 5), (16, 8, 8), (16, 4, 4)), norm="group")
STEMS = {
    "group": GROUP,
    "layer": replace(GROUP, norm="layer"),
    "logmel": FrontendConfig(kind="logmel", n_mels=16, stack=1),
    "conv2d": FrontendConfig(kind="logmel", n_mels=16, stack=2, conv2d=4),
}
PLAIN = CtcConfig(freeze_steps=0, freeze_frontend=False, time_mask_prob=0, channel_mask_prob=0)
MASKED = replace(PLAIN, time_mask_prob=0.65, time_mask_length=4, channel_mask_prob=0.5, channel_mask_length=4)
TWO_VIEWS = replace(MASKED, time_mask_prob=0.2, cr_weight=0.3)
INNER = replace(
    TWO_VIEWS, intermediate_layers=(1, 2), intermediate_weight=0.4, self_conditioned=True, entropy_weight=0.1
)


def tiny(stem: str = "group", *, dropout: float = 0.0, normalize: bool = False) -> ModelConfig:
    encoder = EncoderConfig(
        dim=32, layers=2, heads=2, ffn_dim=64, pos_kernel=16, pos_groups=4, dropout=dropout,
        attention_dropout=dropout, input_dropout=dropout, layer_drop=0.0,
    )  # fmt: skip
    return ModelConfig(normalize=normalize, frontend=STEMS[stem], encoder=encoder)


def model(stem: str = "group", **options: bool | float) -> CtcModel:
    torch.manual_seed(0)
    made = CtcModel(SpeechEncoder(tiny(stem, **options)), TOKENS.size)  # type: ignore[arg-type]
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made


def deep(norm: Literal["pre", "post"] = "pre", block: Literal["transformer", "conformer"] = "transformer") -> CtcModel:
    """Return a self-conditioned recogniser of three blocks; the first two are intermediate layers."""
    torch.manual_seed(0)
    cfg = tiny("logmel")
    cfg = replace(cfg, encoder=replace(cfg.encoder, layers=3, norm=norm, block=block, conv_kernel=3))
    made = CtcModel(SpeechEncoder(cfg), TOKENS.size, intermediate=(1, 2), self_conditioned=True)
    assert made.conditioning is not None
    for value in (made.head.weight, *made.conditioning.projection.parameters()):
        torch.nn.init.normal_(value, std=0.5)
    return made


def batch(lengths: list[int], texts: list[str], *, weights: list[float] | None = None, names: str = "u") -> Batch:
    rng = np.random.default_rng(1)
    waves = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        waves[row, :length] = torch.from_numpy(rng.normal(size=length).astype(np.float32)) * 0.1
    labels = [TOKENS.encode(text) for text in texts]
    targets = torch.zeros(len(labels), max(1, *map(len, labels)), dtype=torch.int64)
    for row, ids in enumerate(labels):
        targets[row, : len(ids)] = torch.tensor(ids)
    return Batch(
        wave=waves,
        lengths=torch.tensor(lengths),
        starts=torch.zeros(len(lengths), dtype=torch.int64),
        weights=torch.tensor(weights or [1.0] * len(lengths)),
        ids=tuple(f"{names}{row}" for row in range(len(lengths))),
        epoch=0,
        texts=tuple(texts),
        targets=targets,
        target_lengths=torch.tensor([len(ids) for ids in labels]),
    )


def row_of(whole: Batch, row: int) -> Batch:
    length, labels = int(whole.lengths[row]), int(whole.target_lengths[row])  # type: ignore[index]
    return replace(
        whole, wave=whole.wave[row : row + 1, :length], lengths=whole.lengths[row : row + 1],
        starts=whole.starts[row : row + 1], weights=whole.weights[row : row + 1], ids=whole.ids[row : row + 1],
        texts=whole.texts[row : row + 1], targets=whole.targets[row : row + 1, :labels],  # type: ignore[index]
        target_lengths=whole.target_lengths[row : row + 1],  # type: ignore[index]
    )  # fmt: skip


def objective(recogniser: CtcModel, cfg: CtcConfig = PLAIN, seed: int = 1) -> CtcObjective:
    made = CtcObjective(recogniser, cfg, seed=seed)
    made.train()
    return made


@pytest.mark.parametrize("stem", STEMS)
def test_loss_is_the_sum_of_the_oracle_over_utterances(stem: str) -> None:
    recogniser = model(stem)
    data = batch([6000, 8000, 3300], ["ab a", "dacc", ""])
    loss = objective(recogniser)(objective(recogniser).prepare(data))
    expected = []
    for row in range(3):
        log_probs = frame_log_probs(recogniser, row_of(data, row).wave, row_of(data, row).lengths)[0].double()
        expected.append(oracle.loss(log_probs.tolist(), TOKENS.encode(data.texts[row])))
    assert loss.n_targets == 3
    assert loss.sum.item() == pytest.approx(math.fsum(expected), rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(700, 9000), min_size=2, max_size=4), st.sampled_from(sorted(STEMS)), st.booleans())
def test_padding_and_neighbours_change_neither_hypothesis_nor_log_probs(
    lengths: list[int], stem: str, normalize: bool
) -> None:
    recogniser = model(stem, normalize=normalize)
    data = batch(lengths, ["a"] * len(lengths))
    together = frame_log_probs(recogniser, data.wave, data.lengths)
    for row, log_probs in enumerate(together):
        single = row_of(data, row)
        (alone,) = frame_log_probs(recogniser, single.wave, single.lengths)
        assert log_probs.shape == alone.shape
        torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=1e-4)
        assert greedy(log_probs, TOKENS) == greedy(alone, TOKENS)


@pytest.mark.parametrize(("stem", "cfg"), [*((stem, PLAIN) for stem in STEMS), ("layer", TWO_VIEWS), ("deep", INNER)])
def test_gradient_does_not_depend_on_the_split_into_batches(stem: str, cfg: CtcConfig) -> None:
    data = batch([6000, 8000, 3300], ["ab a", "dacc", "d"])
    data = replace(data, wave=data.wave.double())
    whole, parts = (objective((deep() if stem == "deep" else model(stem)).double(), cfg) for _ in range(2))
    whole(whole.prepare(data)).sum.backward()
    for row in range(3):
        parts(parts.prepare(row_of(data, row))).sum.backward()
    compared = 0
    for (name, one), (_, other) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        error = float((one.grad - other.grad).abs().max())  # type: ignore[operator]
        assert error < 1e-9, f"{name}: {error}"
        compared += 1
    assert compared > 20


def test_loss_and_gradient_are_bitwise_repeatable_on_a_cpu() -> None:
    def once() -> list[torch.Tensor]:
        made = objective(model(), replace(PLAIN, time_mask_prob=0.5, channel_mask_prob=0.3, channel_mask_length=4))
        loss = made(made.prepare(batch([6000, 8000], ["ab a", "dacc"])))
        loss.sum.backward()
        return [loss.sum.detach(), *(p.grad for p in made.parameters() if p.grad is not None)]

    assert all(torch.equal(one, other) for one, other in zip(once(), once(), strict=True))


def test_float32_under_autocast() -> None:
    recogniser = model()
    data = batch([6000], ["ab"])
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = recogniser(data.wave)
        made = objective(recogniser)
        loss = made(made.prepare(data))
    assert log_probs.dtype == loss.sum.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))


def test_stand_ins_count_for_nothing() -> None:
    made = objective(model())
    full = batch([6000, 8000], ["ab", "cd"])
    silent = replace(full, weights=torch.tensor([1.0, 0.0]))
    loss = made(made.prepare(silent))
    alone = made(made.prepare(row_of(full, 0)))
    assert loss.n_targets == 1
    torch.testing.assert_close(loss.sum, alone.sum, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(loss.metrics["blank_fraction"], alone.metrics["blank_fraction"])
    nothing = made(made.prepare(replace(full, weights=torch.zeros(2))))
    assert nothing.n_targets == 0
    assert nothing.sum.item() == 0
    nothing.sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_labels_that_do_not_fit_are_counted_and_harmless() -> None:
    made = objective(model())
    frames = int(made.model.encoder.frames(1700))
    assert frames == 10
    data = batch([1700, 1700, 6000], ["abcdabcda", "aabbccdda", "ab"])  # 9 labels: 9 and 13 frames needed
    prepared = made.prepare(data)
    assert (prepared.n_targets, prepared.infeasible) == (2, 1)
    loss = made(prepared)
    loss.sum.backward()
    assert torch.isfinite(loss.sum)
    assert float(loss.metrics["infeasible"]) == pytest.approx(1 / 3)
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    one_less = made.prepare(batch([1700], ["abcdabcdabc"]))
    assert (one_less.n_targets, one_less.infeasible) == (0, 1)


@given(st.lists(st.sampled_from("abcd"), max_size=12).map("".join), st.integers(400, 3000))
def test_feasibility_is_that_of_the_oracle(text: str, samples: int) -> None:
    made = objective(SHARED)
    frames = int(SHARED.encoder.frames(samples))
    prepared = made.prepare(batch([samples], [text]))
    assert bool(prepared.infeasible) == (frames < max(1, oracle.frames_needed(TOKENS.encode(text))))


SHARED = model()


def test_bad_batches_are_refused() -> None:
    made = objective(SHARED)
    data = batch([6000, 6000], ["ab", "cd"])
    with pytest.raises(DataError, match="no targets"):
        made.prepare(replace(data, targets=None))
    assert data.targets is not None
    beyond = data.targets.clone()
    beyond[1, 0] = TOKENS.size
    with pytest.raises(DataError, match="u1: label 6 is beyond the vocabulary of 6"):
        made.prepare(replace(data, targets=beyond))


def test_encoder_is_frozen_at_first_and_the_stem_always() -> None:
    made = objective(model(), replace(PLAIN, freeze_steps=3, freeze_frontend=True))
    data = batch([6000, 5000], ["ab", "cd"])

    def moved(step: int) -> set[str]:
        made.zero_grad(set_to_none=True)
        made(made.prepare(data)).sum.backward()
        names = {name for name, p in made.named_parameters() if p.grad is not None}
        assert names == {name for name, p in made.named_parameters() if p.requires_grad}
        return names

    assert not made.begin_step(0)
    assert moved(0) == {"model.head.weight", "model.head.bias"}
    assert made.training
    assert made.model.encoder.training
    assert not made.begin_step(2)
    assert made.begin_step(3)
    assert not made.begin_step(4)
    late = moved(3)
    assert "model.encoder.mask_embedding" in late
    assert "model.encoder.projection.weight" in late
    assert not any("frontend" in name for name in late)
    assert made.begin_step(0)  # a resume may start anywhere
    assert moved(0) == {"model.head.weight", "model.head.bias"}


def test_from_random_weights_the_stem_learns() -> None:
    made = objective(model())
    assert all(p.requires_grad for p in made.parameters())


def test_head_may_have_its_own_rate() -> None:
    made = objective(model(), replace(PLAIN, head_lr_scale=10.0, freeze_steps=5))
    encoder, head = made.param_groups()
    assert (encoder["lr_scale"], head["lr_scale"]) == (1.0, 10.0)
    assert {id(p) for group in (encoder, head) for p in group["params"]} == {id(p) for p in made.parameters()}


def test_masks_are_keyed_by_seed_epoch_and_utterance() -> None:
    data = batch([8000, 6000], ["ab", "cd"])
    made = objective(SHARED, MASKED)
    first = made.prepare(data)
    assert first.mask is not None
    assert first.channel_mask is not None
    alone = made.prepare(row_of(data, 1))
    frames = int(SHARED.encoder.frames(6000))
    assert torch.equal(first.mask[1, :frames], alone.mask[0])  # type: ignore[index]
    assert torch.equal(first.channel_mask[1], alone.channel_mask[0])  # type: ignore[index]
    assert not first.mask[1, frames:].any()
    for other in (
        made.prepare(replace(data, epoch=1)),
        objective(SHARED, MASKED, seed=2).prepare(data),
        made.prepare(replace(data, ids=("x0", "x1"))),
    ):
        assert not torch.equal(first.mask, other.mask)  # type: ignore[arg-type]
        assert not torch.equal(first.channel_mask, other.channel_mask)  # type: ignore[arg-type]


def test_masks_hide_the_expected_share() -> None:
    made = objective(SHARED, MASKED)
    total = torch.stack([made.prepare(batch([32_000], ["a"], names=f"n{i}-")).mask.float().mean() for i in range(200)])  # type: ignore[union-attr]
    # Spans of 4 of 200 frames: 1 - (1 - .65 / 4)^4, a little less at the edges.
    assert float(total.mean()) == pytest.approx(1 - (1 - 0.65 / 4) ** 4, abs=0.02)


def test_masks_change_the_loss_only_in_training() -> None:
    data = batch([8000], ["ab"])
    made, plain = objective(SHARED, MASKED), objective(SHARED)
    assert made(made.prepare(data)).sum.item() != pytest.approx(plain(plain.prepare(data)).sum.item(), rel=1e-6)
    made.eval()
    assert made.prepare(data).mask is None
    assert made(made.prepare(data)).sum.item() == pytest.approx(plain(plain.prepare(data)).sum.item(), rel=1e-6)
    SHARED.train()


def test_two_views_have_the_loss_of_the_oracle_and_do_not_see_padding_or_neighbours() -> None:
    made = objective(model("layer"), TWO_VIEWS)
    # The third has too few frames for its labels, the fourth could not be read.
    data = batch([6000, 8000, 700, 5000], ["ab a", "dacc", "abcdabcd", "a"], weights=[1, 1, 1, 0])
    prepared = made.prepare(data)
    loss = made(prepared)
    ctc, cr = [], []
    for row in range(2):
        single, frames = row_of(data, row), prepared.frame_counts[row]
        views = []
        for view in (row, 4 + row):
            masks = {"mask": prepared.mask[view, None, :frames], "channel_mask": prepared.channel_mask[view, None]}  # type: ignore[index]
            views.append(made.model(single.wave, **masks)[0][0].detach().double().tolist())
        labels = TOKENS.encode(data.texts[row] or "")
        ctc += [oracle.loss(view, labels) / 2 for view in views]
        cr.append(oracle.consistency(*views))
    assert (prepared.views, loss.n_targets, prepared.infeasible) == (2, 2, 1)
    assert loss.sum.item() == pytest.approx(math.fsum(ctc) + 0.3 * math.fsum(cr), rel=1e-4)
    assert float(loss.metrics["loss_ctc"]) == pytest.approx(math.fsum(ctc) / 2, rel=1e-4)
    assert float(loss.metrics["loss_cr"]) == pytest.approx(math.fsum(cr) / 2, rel=1e-4)
    assert math.fsum(cr) > 0.1


def test_consistency_draws_each_view_to_the_other_alone() -> None:
    logits = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    valid = torch.arange(5) < torch.tensor([5, 3, 5, 3])[:, None]
    consistency(logits.log_softmax(-1), valid).backward()
    # The gradient of KL(q || softmax(z)) for z is softmax(z) - q; nothing flows through the target q.
    p = logits.detach().softmax(-1)
    expected = 0.5 * (p - torch.cat([p[2:], p[:2]])) * valid[..., None]
    torch.testing.assert_close(logits.grad, expected)


def test_views_have_masks_of_their_own() -> None:
    data = batch([32_000, 24_000], ["ab", "cd"])
    first = objective(SHARED, replace(TWO_VIEWS, cr_weight=0, time_mask_prob=0.5)).prepare(data)
    both, alone = objective(SHARED, TWO_VIEWS).prepare(data), objective(SHARED, TWO_VIEWS).prepare(row_of(data, 1))
    frames = int(SHARED.encoder.frames(24_000))
    for wide, one, single, length in (
        (both.mask, first.mask, alone.mask, frames), (both.channel_mask, first.channel_mask, alone.channel_mask, 32),
    ):  # fmt: skip
        assert torch.equal(wide[:2], one)  # type: ignore[index, arg-type]
        assert torch.equal(wide[1::2, :length], single)  # type: ignore[index, arg-type]
        assert not torch.equal(wide[2:], one)  # type: ignore[index, arg-type]
    made = objective(SHARED, TWO_VIEWS).eval()
    assert (made.prepare(data).views, set(made(made.prepare(data)).metrics)) == (1, {"blank_fraction", "infeasible"})
    SHARED.train()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cr_weight": -0.1}, "ctc.cr_weight = -0.1"),
        ({"cr_weight": 0.2, "time_mask_prob": 0.0}, "masks"),
        ({"cr_weight": 0.2, "time_mask_prob": 0.5}, r"0.5 x 2.5 must be above 0 and at most 1"),
        ({"intermediate_weight": 1.0}, "ctc.intermediate_weight = 1"),
        ({"entropy_weight": -1.0}, "ctc.entropy_weight = -1"),
        ({"self_conditioned": True}, "set ctc.intermediate_layers"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CtcConfig(**changes)  # type: ignore[arg-type]


def by_hand(made: CtcModel, wave: torch.Tensor) -> list[torch.Tensor]:
    """Return the log-probabilities [F, V] of both intermediate layers and of the last one, block by block."""
    encoder = made.encoder
    assert made.conditioning is not None
    weight, bias = (value.tolist() for value in made.conditioning.projection.parameters())
    x = encoder.context(encoder.project(encoder.features(wave)), stop_at=0).x
    found = []
    for block in encoder.blocks:
        x = block(x, None)
        shown = encoder.norm(x) if encoder.cfg.encoder.norm == "pre" else x
        found.append(made.head(shown)[0].log_softmax(-1))
        if len(found) < len(encoder.blocks):
            pairs = zip(x[0].tolist(), found[-1].tolist(), strict=True)
            x = torch.tensor([[oracle.conditioned(frame, scores, weight, bias) for frame, scores in pairs]])
    return found


@pytest.mark.parametrize(("norm", "block"), [("pre", "transformer"), ("post", "transformer"), ("pre", "conformer")])
@torch.no_grad()
def test_self_conditioning_is_that_of_the_oracle_wherever_it_runs(
    tmp_path, norm: Literal["pre", "post"], block: Literal["transformer", "conformer"]
) -> None:
    made = deep(norm, block)
    data = batch([8000, 6000], ["ab", "cd"])
    expected = [by_hand(made, row_of(data, row).wave)[-1] for row in range(2)]
    save_model(tmp_path / "model", encoder=made.encoder, extra=made.heads(), tokens=TOKENS)
    loaded, _ = load_recogniser(tmp_path / "model")
    for recogniser in (made, loaded):
        found = [frame_log_probs(recogniser, data.wave, data.lengths)]
        waves = [row_of(data, row).wave[0] for row in range(2)]
        found.append([torch.cat(list(local_log_probs(recogniser, [wave.numpy()], 30))) for wave in waves])
        if block == "transformer" and can_pack(recogniser):
            found.append(PackedRecogniser(recogniser)(waves))
        for rows in found:
            for one, other in zip(rows, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    projection = made.conditioning.projection  # type: ignore[union-attr]
    torch.nn.init.zeros_(projection.weight)
    torch.nn.init.zeros_(projection.bias)
    assert not torch.allclose(frame_log_probs(made, data.wave, data.lengths)[0], expected[0], atol=0.01)


def test_intermediate_losses_are_those_of_the_oracle() -> None:
    made = objective(deep(), replace(INNER, cr_weight=0, time_mask_prob=0, channel_mask_prob=0, entropy_weight=0))
    data = batch([8000, 6000], ["ab", "cd"])
    loss = made(made.prepare(data))
    first, second, last = zip(*(by_hand(made.model, row_of(data, row).wave) for row in range(2)), strict=True)

    def ctc(rows: tuple[torch.Tensor, ...]) -> float:
        pairs = zip(rows, ("ab", "cd"), strict=True)
        return math.fsum(oracle.loss(row.double().tolist(), TOKENS.encode(text)) for row, text in pairs)

    inner = (ctc(first) + ctc(second)) / 2
    assert loss.sum.item() == pytest.approx(0.6 * ctc(last) + 0.4 * inner, rel=1e-4)
    assert float(loss.metrics["loss_ctc"]) == pytest.approx(ctc(last) / 2, rel=1e-4)
    assert float(loss.metrics["loss_intermediate"]) == pytest.approx(inner / 2, rel=1e-4)


def test_what_is_conditioned_is_trained_and_saved_with_the_head(tmp_path) -> None:
    made = objective(deep(), replace(INNER, freeze_steps=1))
    made(made.prepare(batch([8000, 6000], ["ab", "cd"]))).sum.backward()
    learnt = {name for name, value in made.model.named_parameters() if value.grad is not None}
    assert learnt == {
        "head.weight", "head.bias", "conditioning.projection.weight", "conditioning.projection.bias"
    }  # fmt: skip
    assert {id(value) for value in made.param_groups()[1]["params"]} == {
        id(value) for name, value in made.model.named_parameters() if name in learnt
    }
    save_model(tmp_path / "model", encoder=made.model.encoder, extra=made.model.heads(), tokens=TOKENS)
    with pytest.raises(CheckpointError, match=r"model: a self-conditioned recogniser"):
        load_any_encoder(tmp_path / "model")


@pytest.mark.parametrize("layers", [(0,), (2,), (1, 1)])
def test_only_blocks_before_the_last_can_be_intermediate(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="before the last of the 2, in order: 1 to 1"):
        CtcModel(SpeechEncoder(tiny()), TOKENS.size, intermediate=layers)


ENTROPIES = [((1, 2), 6), ((1, 1), 5), ((), 4), ((2,), 1), ((3, 1, 3), 3), ((1,), 5)]
"""Labels, and frames of a row."""


def rows_of_entropies() -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...], tuple[int, ...]]:
    torch.manual_seed(3)
    log_probs = torch.randn(len(ENTROPIES), 6, 4, dtype=torch.float64).mul(2).log_softmax(-1)
    targets = torch.tensor([[*labels, 0, 0, 0][:3] for labels, _ in ENTROPIES])
    return log_probs, targets, tuple(n for _, n in ENTROPIES), tuple(len(labels) for labels, _ in ENTROPIES)


def test_entropy_of_alignments_is_that_of_all_paths() -> None:
    log_probs, targets, frames, labels = rows_of_entropies()
    found = alignment_entropies(log_probs, targets, frames, labels).tolist()
    for row, (ids, count) in enumerate(ENTROPIES):
        assert found[row] == pytest.approx(oracle.alignment_entropy(log_probs[row, :count].tolist(), ids), abs=1e-9)
    assert found[0] > 0.5
    assert found[2] == found[3] == found[4] == pytest.approx(0, abs=1e-12)  # a single path


def test_entropy_of_alignments_has_the_right_gradient_and_none_on_padding() -> None:
    log_probs, targets, frames, labels = rows_of_entropies()
    log_probs.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: alignment_entropies(x.log_softmax(-1), targets, frames, labels), log_probs
    )
    (gradient,) = torch.autograd.grad(alignment_entropies(log_probs, targets, frames, labels).sum(), log_probs)
    padding = torch.arange(6) >= torch.tensor(frames)[:, None]
    assert not gradient[padding].any()
    assert gradient[~padding].any()


def test_entropy_is_subtracted_and_leaves_out_what_does_not_count() -> None:
    recogniser = model("layer")
    # The second has too few frames for its labels, the third could not be read.
    data = batch([900, 700, 900], ["a", "abcdabcd", "b"], weights=[1, 1, 0])
    made, plain = objective(recogniser, replace(PLAIN, entropy_weight=0.5)), objective(recogniser)
    loss = made(made.prepare(data))
    log_probs = frame_log_probs(recogniser, row_of(data, 0).wave, row_of(data, 0).lengths)[0]
    entropy = oracle.alignment_entropy(log_probs.tolist(), TOKENS.encode("a"))
    assert loss.sum.item() == pytest.approx(plain(plain.prepare(data)).sum.item() - 0.5 * entropy, rel=1e-4)
    assert float(loss.metrics["alignment_entropy"]) == pytest.approx(entropy, rel=1e-4)
    loss.sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_prepared_travels_between_devices() -> None:
    prepared = objective(SHARED, MASKED).prepare(batch([8000, 6000], ["ab", "cd"]))
    moved = prepared.to("meta")
    assert isinstance(moved, CtcPrepared)
    assert {moved.valid.device.type, moved.weights.device.type, moved.batch.wave.device.type} == {"meta"}
    assert moved.frame_counts == prepared.frame_counts


def test_recognise_reports_what_it_could_not_hear() -> None:
    entry = Entry("evaluate", "u1", "corrupt")
    data = replace(batch([6000, 5000], ["ab", "cd"], weights=[1.0, 0.0]), rejected=(entry,))
    reported: list[Entry] = []
    found = list(recognise(SHARED, [data], rejected=reported.extend))
    assert [(item.id, item.text, item.samples) for item in found] == [("u0", "ab", 6000)]
    assert reported == [entry]
    assert SHARED.training  # left as it was found


@pytest.mark.parametrize("stem", STEMS)
def test_audio_shorter_than_a_frame_is_heard_as_nothing(stem: str) -> None:
    recogniser = model(stem)
    (empty,) = frame_log_probs(recogniser, torch.zeros(1, 30), torch.tensor([30]))
    assert empty.shape == (0, TOKENS.size)
    wave = torch.randn(2, 6000)
    short, long = frame_log_probs(recogniser, wave * torch.tensor([[0.0], [1.0]]), torch.tensor([30, 6000]))
    assert len(short) == 0
    assert torch.isfinite(long).all()


def test_recogniser_folder_round_trip(tmp_path) -> None:
    made = model()
    head = {f"head.{name}": value for name, value in made.head.state_dict().items()}
    save_model(tmp_path / "model", encoder=made.encoder, extra=head, tokens=TOKENS)
    loaded, tokens = load_recogniser(tmp_path / "model")
    assert tokens == TOKENS
    assert not loaded.training
    wave = torch.randn(1, 6000)
    assert torch.equal(loaded(wave)[0], made.eval()(wave)[0])


def test_model_without_a_head_says_what_to_do(tmp_path) -> None:
    made = model()
    save_model(tmp_path / "plain", encoder=made.encoder)
    with pytest.raises(DataError, match=r"without a CTC head.*speechssl finetune"):
        load_recogniser(tmp_path / "plain")
    head = {"head.weight": torch.zeros(3, 32), "head.bias": torch.zeros(3)}
    save_model(tmp_path / "other", encoder=made.encoder, extra=head, tokens=TOKENS)
    with pytest.raises(DataError, match="3 tokens, the vocabulary has 6"):
        load_recogniser(tmp_path / "other")


@pytest.mark.parametrize("stem", sorted(STEMS))
def test_recognition_in_bfloat16_is_near_float32(stem: str) -> None:
    recogniser = model(stem)
    data = batch([9000, 5000], ["a", "a"])
    exact = frame_log_probs(recogniser, data.wave, data.lengths)
    rough = frame_log_probs(recogniser, data.wave, data.lengths, bf16=True)
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, b, atol=0.1, rtol=0.05)
        torch.testing.assert_close(a.exp().sum(1), torch.ones(len(a)), atol=1e-4, rtol=0)
