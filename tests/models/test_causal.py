"""The causal encoder: no frame changes with what follows it, in a batch or alone, on the fast and the plain paths."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.kernels.choice import plain_paths

SMALL = ((8, 10, 5), (12, 3, 2), (12, 2, 2))
STEMS = {
    "layer": FrontendConfig(conv_layers=SMALL, norm="layer", bias=True),
    "logmel": FrontendConfig(kind="logmel", n_mels=10, stack=2, statistics="past"),
}
CAUSAL = EncoderConfig(dim=16, layers=3, heads=2, ffn_dim=32, pos_kernel=8, pos_groups=2, causal=True)
SAMPLES = 8_000
PATHS = pytest.mark.parametrize("paths", [nullcontext, plain_paths])


def build(stem: str, **changes: object) -> SpeechEncoder:
    """Return an encoder whose frames depend strongly on one another, so that a leak shows."""
    torch.manual_seed(0)
    cfg = ModelConfig(frontend=replace(STEMS[stem], grad_scale=1.0), encoder=replace(CAUSAL, **changes))  # type: ignore[arg-type]
    encoder = SpeechEncoder(cfg)
    for name, parameter in encoder.named_parameters():
        if "qkv" in name or "out" in name or "magnitude" in name or name.endswith("bias"):
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()


def noise(rows: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(rows, SAMPLES, generator=torch.Generator().manual_seed(3))


@PATHS
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("padded", [False, True])
def test_frames_before_a_change_do_not_change(stem, norm, paths, padded):
    encoder, wave = build(stem, norm=norm), noise()
    lengths = torch.tensor([SAMPLES, 5_000]) if padded else None
    if padded:
        wave[1, 5_000:] = 0.0
    frames = encoder.frames(5_000)
    for frame in (1, 7, frames - 1):
        changed = wave.clone()
        changed[:, (frame - 1) * encoder.hop + encoder.frontend.receptive :] *= -3  # all that the frame before ends at
        with paths(), torch.no_grad():
            before, after = (encoder(given, lengths, layers=True) for given in (wave, changed))
        for a, b in zip((*before.layers, before.x), (*after.layers, after.x), strict=True):
            torch.testing.assert_close(a[:, :frame], b[:, :frame], atol=2e-5, rtol=0)
            assert (a[:, frame] - b[:, frame]).abs().amax() > 1e-3


@pytest.mark.parametrize("stem", STEMS)
def test_on_the_plain_paths_no_gradient_at_all_reaches_what_follows(stem):
    encoder, wave = build(stem), noise(1).requires_grad_()
    frame = 9
    with plain_paths():
        encoder(wave).x[0, : frame + 1].square().sum().backward()
    end = frame * encoder.hop + encoder.frontend.receptive
    assert not wave.grad[0, end:].any()
    assert wave.grad[0, end - encoder.hop : end].any()


@pytest.mark.parametrize("stem", STEMS)
def test_fast_paths_give_what_the_plain_ones_give(stem):
    encoder, wave, towards = build(stem), noise(), torch.randn(2, 400, 16)
    found = []
    for paths in (nullcontext, plain_paths):
        encoder.zero_grad()
        with paths():
            x = encoder(wave, torch.tensor([SAMPLES, 5_000])).x
        (x * towards[:, : x.shape[1]])[:, : encoder.frames(5_000)].sum().backward()
        found.append((x.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}))
    (fast, gradients), (plain, expected) = found
    torch.testing.assert_close(fast[0], plain[0], atol=2e-5, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3, msg=name)


@PATHS
@pytest.mark.parametrize("stem", STEMS)
def test_an_utterance_is_the_same_alone_padded_and_cut_short(stem, paths):
    encoder, wave = build(stem), noise()
    lengths = torch.tensor([SAMPLES, 3_000])
    wave[1, 3_000:] = 0.0
    with paths(), torch.no_grad():
        together = encoder(wave, lengths).x
        alone, cut = encoder(wave[1:, :3_000]).x, encoder(wave[:1, :3_000]).x
    count = encoder.frames(3_000)
    torch.testing.assert_close(together[1, :count], alone[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(together[0, :count], cut[0], atol=2e-5, rtol=0)  # what followed was never needed


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_frames_asked_for_alone_are_those_of_the_whole(recompute, padded):
    encoder = build("layer", dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0).train()
    encoder.recompute = recompute
    x, positions = torch.randn(3, 20, 16), torch.tensor([[0, 5, 19], [3, 11, 0], [6, 0, 0]])
    lengths = torch.tensor([20, 12, 7]) if padded else None
    some, every = encoder.context(x, lengths, positions=positions).x, encoder.context(x, lengths).x
    torch.testing.assert_close(some, every.gather(1, positions[..., None].expand(-1, -1, 16)), atol=1e-6, rtol=1e-5)


def test_bfloat16_leaks_no_more_than_float32():
    encoder, wave = build("layer"), noise(1)
    changed = wave.clone()
    changed[:, 4_000:] *= -3
    before = (4_000 - encoder.frontend.receptive) // encoder.hop + 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = encoder(wave).x, encoder(changed).x
    assert (a[:, :before] - b[:, :before]).abs().mean() < 1e-4 < 0.005 < (a[:, before:] - b[:, before:]).abs().mean()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(encoder=CAUSAL), 'norm = "group" takes them over all frames; set it to "layer"'),
        (ModelConfig(frontend=FrontendConfig(kind="logmel"), encoder=CAUSAL), 'set it to "past"'),
        (ModelConfig(normalize=True, frontend=STEMS["layer"], encoder=CAUSAL), "normalize = true takes them over the"),
    ],
)
def test_statistics_of_what_follows_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        SpeechEncoder(model)
