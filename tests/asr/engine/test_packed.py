"""Packed recognition against the padded batch, and against each utterance alone on the plain paths."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.ctc import CtcModel
from speechssl.asr.engine import packed as packing
from speechssl.asr.engine.packed import PackedRecogniser, can_pack
from speechssl.asr.recognise import frame_log_probs, recognise
from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.ledger import Entry
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths

pytestmark = pytest.mark.skipif(not packing.available(), reason="this PyTorch has no oneDNN")

LAYERS = ((24, 10, 5), (24, 3, 2), (16, 3, 2), (16, 2, 2))
STEMS = {
    "group": FrontendConfig(conv_layers=LAYERS),
    "group, bias": FrontendConfig(conv_layers=LAYERS, bias=True),
    "layer": FrontendConfig(conv_layers=LAYERS, norm="layer"),
    "layer, bias": FrontendConfig(conv_layers=LAYERS, norm="layer", bias=True),
    "one layer": FrontendConfig(conv_layers=((24, 10, 5),)),
    "wide stride": FrontendConfig(conv_layers=((24, 10, 5), (24, 4, 8))),
    "log-mel": FrontendConfig(kind="logmel", n_mels=16, stack=2),
    "conv2d": FrontendConfig(kind="logmel", n_mels=16, stack=2, conv2d=4),
}
TOKENS = 7


def model(
    stem: str = "group", *, norm: str = "post", normalize: bool = False, kernel: int = 16, causal: bool = False
) -> CtcModel:
    """Return a small recogniser whose biases and norms are not what they are initialised with."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        dim=36, layers=2, heads=3, ffn_dim=72, norm=norm, pos_kernel=kernel, pos_groups=4, dropout=0.3, causal=causal
    )  # type: ignore[arg-type]
    frontend = replace(STEMS[stem], statistics="past" if causal else "utterance")
    made = CtcModel(SpeechEncoder(ModelConfig(normalize=normalize, frontend=frontend, encoder=encoder)), TOKENS)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1 and not name.endswith("mask_embedding"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made.eval()


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(length, generator=generator) + 0.02 for length in lengths]


def batch(parts: list[torch.Tensor], weights: list[float] | None = None, rejected: tuple[Entry, ...] = ()) -> Batch:
    wave = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    lengths = torch.tensor([len(part) for part in parts])
    return Batch(
        wave, lengths, torch.zeros_like(lengths), torch.tensor(weights or [1.0] * len(parts)),
        tuple(f"u{i}" for i in range(len(parts))), 0, rejected=rejected,
    )  # fmt: skip


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], atol: float = 2e-5) -> None:
    assert [row.shape for row in found] == [row.shape for row in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("stem", STEMS)
def test_the_same_as_the_padded_batch_and_as_each_alone_the_plain_way(stem: str, norm: str) -> None:
    recogniser = model(stem, norm=norm, normalize=stem == "layer")
    parts = waves(9000, 4000, 6001, 12_345)
    found = PackedRecogniser(recogniser)(parts)
    data = batch(parts)
    assert_same(found, frame_log_probs(recogniser, data.wave, data.lengths))
    with plain_paths():
        alone = [frame_log_probs(recogniser, part[None], torch.tensor([len(part)]))[0] for part in parts]
    assert_same(found, alone)


CAUSAL = ("layer", "layer, bias", "log-mel")
"""Stems whose features do not depend on what follows, the last with the statistics of the past."""


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("stem", CAUSAL)
def test_a_causal_model_is_the_same_too_and_sees_nothing_that_follows(stem: str, norm: str) -> None:
    recogniser = model(stem, norm=norm, causal=True)
    parts = waves(9000, 4000, 6001, 12_345)
    found = PackedRecogniser(recogniser)(parts)
    data = batch(parts)
    assert_same(found, frame_log_probs(recogniser, data.wave, data.lengths))
    with plain_paths():
        alone = [frame_log_probs(recogniser, part[None], torch.tensor([len(part)]))[0] for part in parts]
    assert_same(found, alone)
    kept = (3000 - recogniser.encoder.frontend.receptive) // recogniser.encoder.hop + 1
    changed = PackedRecogniser(recogniser)([torch.cat([part[:3000], 1 - part[3000:]]) for part in parts])
    assert_same([row[:kept] for row in changed], [row[:kept] for row in found])
    assert all((a[kept:] - b[kept:]).abs().max() > 0.01 for a, b in zip(changed, found, strict=True))
    rough = PackedRecogniser(recogniser, bf16=True)(parts)
    assert max((a - b).abs().mean() for a, b in zip(rough, found, strict=True)) < 0.05


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9000), min_size=1, max_size=6), st.integers(1, 200), st.sampled_from([15, 16]))
def test_neither_neighbours_nor_the_size_of_packs_change_anything(lengths: list[int], size: int, kernel: int) -> None:
    recogniser = model(kernel=kernel)
    before = packing.PACK_FRAMES
    packing.PACK_FRAMES = size
    try:
        found = PackedRecogniser(recogniser)(waves(*lengths))
    finally:
        packing.PACK_FRAMES = before
    alone = [frame_log_probs(recogniser, part[None], torch.tensor([len(part)]))[0] for part in waves(*lengths)]
    assert_same(found, alone)


def test_pieces_of_the_stem_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    (wave,) = waves(40_000)
    for stem in ("group", "layer"):
        recogniser = model(stem)
        whole = frame_log_probs(recogniser, wave[None], torch.tensor([len(wave)]))
        for rows in (1, 8, 100, 1_000_000):
            monkeypatch.setattr("speechssl.asr.engine.packed_stem._ROWS", rows)
            assert_same(PackedRecogniser(recogniser)([wave]), whole)


@pytest.mark.parametrize("stem", STEMS)
def test_bfloat16_is_near_float32_and_as_near_as_autocast(stem: str) -> None:
    recogniser = model(stem)
    parts = waves(9000, 5000)
    data = batch(parts)
    exact = torch.cat(frame_log_probs(recogniser, data.wave, data.lengths))
    autocast = torch.cat(frame_log_probs(recogniser, data.wave, data.lengths, bf16=True))
    found = torch.cat(PackedRecogniser(recogniser, bf16=True)(parts))
    assert not torch.equal(found, exact)
    assert (found - exact).abs().mean() < 1.5 * (autocast - exact).abs().mean()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scores", [1, 40, 700, 5000, 1 << 30])
@pytest.mark.parametrize("causal", [False, True])
def test_tiles_of_attention_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, scores: int, causal: bool) -> None:
    q, k, v = torch.randn(3, 29, 3, 8).bfloat16().transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), scale=1.0, is_causal=causal
    )
    monkeypatch.setattr(packing, "SCORES", scores)
    found = packing._tiled_attention(q, k, v, causal=causal)
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.02)


def test_projections_are_copies_and_dropout_never_happens() -> None:
    recogniser = model().train()
    packed = PackedRecogniser(recogniser)
    first = packed(waves(5000))
    with torch.no_grad():
        for parameter in recogniser.encoder.blocks.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        recogniser.head.weight.zero_()
        recogniser.encoder.position.direction.normal_()
    assert_same(packed(waves(5000)), first, atol=0)
    assert recogniser.training


def test_recognise_packs_what_was_heard_and_gives_the_padded_result(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = model()
    entry = Entry("evaluate", "u1", "corrupt")
    data = batch(waves(9000, 400, 6000, 30), [1.0, 0.0, 1.0, 1.0], (entry,))
    reported: list[Entry] = []
    found = list(recognise(recogniser, [data], rejected=reported.extend))
    assert [item.id for item in found] == ["u0", "u2", "u3"]
    assert [item.samples for item in found] == [9000, 6000, 30]
    assert reported == [entry]
    monkeypatch.setattr("speechssl.asr.recognise.can_pack", lambda _: False)
    padded = list(recognise(recogniser, [data], rejected=reported.extend))
    assert [item.id for item in padded] == ["u0", "u2", "u3"]
    assert_same([item.log_probs for item in found], [item.log_probs for item in padded])
    assert found[2].log_probs.shape == (0, TOKENS)


def test_samples_of_sixteen_bits_are_heard_as_floats() -> None:
    recogniser = model()
    whole = (torch.stack(waves(9000)) * 32768).round().to(torch.int16)
    data = batch([whole[0]])
    (found,) = recognise(recogniser, [data], rejected=print)
    assert_same([found.log_probs], frame_log_probs(recogniser, whole.float() / 32768, data.lengths))


def test_what_cannot_be_packed() -> None:
    assert can_pack(model())
    assert not can_pack(model().double())
    assert not can_pack(model().to("meta"))
    cfg = model().encoder.cfg
    for changes in ({"relative_position": "alibi"}, {"pos_depth": 2}, {"block": "conformer"}):
        other = replace(cfg, encoder=replace(cfg.encoder, **changes))
        assert not can_pack(CtcModel(SpeechEncoder(other), TOKENS))
    with plain_paths():
        assert not can_pack(model())
