"""Blocks and positions other than those of wav2vec 2.0, in every way that the encoder runs its blocks."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.huggingface import encoder_to_huggingface
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths

FRONTEND = FrontendConfig(conv_layers=((8, 10, 5), (12, 3, 2)), norm="layer")
TINY = EncoderConfig(
    dim=16, layers=3, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2,
    dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
)  # fmt: skip
OPTIONS = pytest.mark.parametrize(
    "changes",
    [
        {"relative_position": "gated"},
        {"relative_position": "alibi"},
        {"relative_position": "rotary"},
        {"relative_position": "rotary_input"},
        {"relative_position": "sinusoid"},
        {"pos_depth": 3, "pos_kernel": 3},
        {"block": "conformer", "conv_kernel": 5},
        {"block": "conformer", "conv_kernel": 5, "pos_depth": 0, "relative_position": "rotary"},
        {"block": "conformer", "conv_kernel": 1, "pos_depth": 2, "relative_position": "gated"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
PATHS = pytest.mark.parametrize("paths", [nullcontext, plain_paths])


def build(**changes: object) -> SpeechEncoder:
    """Return an encoder in float64 none of whose weights is trivial."""
    torch.manual_seed(0)
    cfg = replace(TINY, **changes)  # type: ignore[arg-type]
    encoder = SpeechEncoder(ModelConfig(frontend=FRONTEND, encoder=cfg)).double()
    for name, parameter in encoder.named_parameters():
        parameter.data.add_((2.0 if "relative" in name or "gate." in name else 0.2) * torch.randn_like(parameter))
    return encoder


@OPTIONS
@PATHS
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("causal", [False, True])
def test_an_utterance_is_the_same_alone_and_padded(changes, norm, causal, paths):
    encoder = build(**changes, norm=norm, causal=causal)
    x = torch.randn(3, 21, 16, dtype=torch.float64)
    lengths = [21, 9, 0]
    with paths(), torch.no_grad():
        together = encoder.context(x, torch.tensor(lengths), layers=True, branches=True)
        assert all(layer.isfinite().all() for layer in together.layers)
        for row, length in enumerate(lengths[:2]):
            alone = encoder.context(x[row : row + 1, :length], layers=True, branches=True)
            assert len(alone.branches) == 3
            for a, b in zip((*together.layers, *together.branches), (*alone.layers, *alone.branches), strict=True):
                torch.testing.assert_close(a[row, :length], b[0], atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(encoder.context(x[row : row + 1, :length], stop_at=2).x, alone.layers[2])


@OPTIONS
@PATHS
def test_a_causal_encoder_sees_nothing_that_follows(changes, paths):
    encoder = build(**changes, causal=True)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, 11:] *= -3
    with paths(), torch.no_grad():
        a, b = encoder.context(x).x, encoder.context(changed).x
    torch.testing.assert_close(a[:, :11], b[:, :11], atol=1e-9, rtol=0)
    assert (a[:, 11] - b[:, 11]).abs().max() > 1e-3


@OPTIONS
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lengths", [None, [20, 12, 7]])
@pytest.mark.parametrize("causal", [False, True])
def test_frames_asked_for_alone_are_those_of_the_whole(changes, recompute, lengths, causal):
    encoder = build(**changes, causal=causal).train()
    encoder.recompute = recompute
    x, positions = torch.randn(3, 20, 16, dtype=torch.float64), torch.tensor([[0, 5, 19], [3, 11, 0], [6, 0, 0]])
    counts = None if lengths is None else torch.tensor(lengths)
    some, every = encoder.context(x, counts, positions=positions).x, encoder.context(x, counts).x
    torch.testing.assert_close(some, every.gather(1, positions[..., None].expand(-1, -1, 16)))
    some.square().sum().backward()
    unused = {"mask_embedding", "feature_norm", "projection", "frontend"}
    without = {name.partition(".")[0] for name, p in encoder.named_parameters() if p.grad is None}
    assert without == unused


@OPTIONS
@PATHS
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_bfloat16_stays_close(changes, paths, dropout):
    encoder = build(**changes, attention_dropout=dropout).float().train()
    wave, lengths = 0.1 * torch.randn(2, 900), torch.tensor([900, 500])
    exact = encoder(wave, lengths).x
    with paths(), torch.autocast("cpu", torch.bfloat16):
        out = encoder(wave, lengths).x
    out[:, : encoder.frames(500)].square().sum().backward()
    assert out.dtype == torch.float32
    count = encoder.frames(500)
    assert (out[1, :count] - exact[1, :count]).abs().mean() < 0.05
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@OPTIONS
def test_dropped_blocks_leave_a_gradient_of_zero(changes):
    encoder = build(**changes, layer_drop=1.0).train()
    encoder.context(torch.randn(1, 9, 16, dtype=torch.float64)).x.sum().backward()
    for name, parameter in encoder.named_parameters():
        if name.startswith(("blocks", "relative_position")):
            assert parameter.grad is not None and not parameter.grad.any(), name


@pytest.mark.parametrize("causal", [False, True])
def test_a_convolution_takes_visible_frames_as_they_follow_one_another(causal):
    encoder = build(block="conformer", conv_kernel=5, pos_depth=0, causal=causal).eval()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    places = torch.tensor([[0, 2, 7, 11], [3, 4, 0, 0]])
    seen = encoder.context(x, torch.tensor([12, 9]), visible=(places, torch.tensor([4, 2]))).x
    for row, chosen in enumerate(([0, 2, 7, 11], [3, 4])):
        torch.testing.assert_close(seen[row, : len(chosen)], encoder.context(x[row : row + 1, chosen]).x[0])


@OPTIONS
def test_the_export_names_the_settings(changes):
    if changes in ({"relative_position": "gated"}, {"pos_depth": 3, "pos_kernel": 3}):
        pytest.skip("a WavLM or data2vec-audio: tests/interop/export/test_huggingface.py")
    message = "block = .*, pos_depth = .*, relative_position = .* cannot be exported"
    with pytest.raises(ConfigError, match=message):
        encoder_to_huggingface(build(**changes))
