"""Stems: exact frame counts, padding invariance, known values, silence."""

import math

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError
from speechssl.models import waveform
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.frontend import build_frontend, mel_filterbank
from speechssl.models.logmel import FrameLogMel
from tests.oracles.groupnorm import conv_groupnorm

BASE = FrontendConfig()
SMALL = ((8, 10, 5), (12, 3, 2), (12, 2, 2))
STEMS = {
    "group": FrontendConfig(conv_layers=SMALL, norm="group"),
    "layer": FrontendConfig(conv_layers=SMALL, norm="layer", bias=True),
    "logmel": FrontendConfig(kind="logmel", n_mels=20, stack=3),
    "logmel-1": FrontendConfig(kind="logmel", n_mels=16, stack=1),
    "conv2d": FrontendConfig(kind="logmel", n_mels=20, stack=4, conv2d=6),
}


def stem(name: str):
    torch.manual_seed(0)
    module = build_frontend(STEMS[name])
    for parameter_name, parameter in module.named_parameters():
        if "norm" in parameter_name:  # norms that scale and shift, so that leaving one out shows
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


def test_base_stem_is_the_published_one():
    module = build_frontend(BASE)
    assert (module.hop, module.receptive, module.dim) == (320, 400, 512)
    # The published frame counts: 1 s gives 49 frames, 15 s give 749, 400 samples give 1.
    assert [module.frames(n) for n in (16_000, 240_000, 400, 399, 0)] == [49, 749, 1, 0, 0]
    std = module.layers[3].conv.weight.std().item()
    assert std == pytest.approx((2 / (512 * 3)) ** 0.5, rel=0.02)  # He: fan-in of the kernel


@pytest.mark.parametrize("name", STEMS)
@given(samples=st.integers(0, 5000))
@settings(max_examples=15, deadline=None)
def test_frames_are_exact(name, samples):
    module = stem(name)
    count = module.frames(samples)
    assert torch.equal(module.frames(torch.tensor([samples])), torch.tensor([count]))
    if samples < module.receptive:
        assert count == 0
        with pytest.raises(ValueError, match="shorter than one frame"):
            module(torch.zeros(1, samples))
    else:
        assert count == (samples - module.receptive) // module.hop + 1
        assert module(torch.randn(1, samples)).shape == (1, count, module.dim)


def test_a_frame_sees_its_receptive_field_and_nothing_else():
    module = stem("layer").double()
    wave = torch.randn(1, 3000, dtype=torch.float64, requires_grad=True)
    frame = 2
    module(wave)[0, frame].sum().backward()
    touched = wave.grad[0].nonzero().flatten()
    assert touched.min() == frame * module.hop
    assert touched.max() == frame * module.hop + module.receptive - 1


@pytest.mark.parametrize("name", STEMS)
@given(lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_padding_and_neighbours_change_nothing(name, lengths, seed):
    module = stem(name)
    generator = torch.Generator().manual_seed(seed)
    longest = 4000
    wave = torch.zeros(len(lengths), longest)
    for row, length in enumerate(lengths):
        wave[row, :length] = 0.1 * torch.randn(length, generator=generator)
    together = module(wave, torch.tensor(lengths))
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        count = module.frames(length)
        if count:
            alone = module(wave[row : row + 1, :length])
            torch.testing.assert_close(together[row, :count], alone[0], atol=1e-4, rtol=0)
        assert not together[row, count:].any()


def reference_layer(layer, wave):
    """Return what every other implementation computes: convolution, group norm over all frames, GELU."""
    return nn.functional.gelu(layer.norm(layer.conv(wave[:, None])))


@pytest.mark.parametrize("bias", [False, True])
def test_first_layer_is_the_reference_unless_padded(bias):
    torch.manual_seed(0)
    layer = build_frontend(FrontendConfig(conv_layers=((16, 10, 5),), bias=bias)).layers[0]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    wave = 0.3 + torch.randn(2, 1000)
    torch.testing.assert_close(layer(wave[:, None], None), reference_layer(layer, wave), atol=1e-5, rtol=1e-5)
    # The reference's numbers change with the padding: were they equal, the invariance tests would prove nothing.
    padded = torch.cat([wave, torch.zeros(2, 1000)], 1)
    frames = layer.frames(1000)
    assert (reference_layer(layer, padded)[..., :frames] - reference_layer(layer, wave)).abs().max() > 0.1
    ours = layer(padded[:, None], torch.tensor([frames, frames]))
    torch.testing.assert_close(ours[..., :frames], reference_layer(layer, wave), atol=1e-5, rtol=1e-5)


def test_gradients_of_the_first_layer_are_the_references():
    torch.manual_seed(0)
    layer = build_frontend(FrontendConfig(conv_layers=((6, 10, 5),), bias=True)).double().layers[0]
    wave = torch.randn(2, 300, dtype=torch.float64)
    weight = torch.randn(2, 6, layer.frames(300), dtype=torch.float64)
    grads = []
    for forward in (lambda x: layer(x[:, None], None), lambda x: reference_layer(layer, x)):
        x = wave.clone().requires_grad_()
        (forward(x) * weight).sum().backward()
        grads.append([x.grad, *(p.grad.clone() for p in layer.parameters())])
        layer.zero_grad()
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-10, rtol=1e-7)


def test_first_layer_with_hum_a_thousand_times_louder_than_speech():
    """The statistics of a kernel that cancels the hum must not drown in its rounding errors."""
    torch.manual_seed(0)
    layer = build_frontend(FrontendConfig(conv_layers=((4, 10, 5),))).layers[0]
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    wave = 1.0 + torch.sin(2 * torch.pi * 50 * time) + 1e-3 * torch.randn(16_000, dtype=torch.float64)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.tensor([1.0, -4, 6, -4, 1, 0, 0, 0, 0, 0]))  # fourth difference: no hum is left
    exact = reference_layer(layer.double(), wave[None])
    torch.testing.assert_close(layer.float()(wave.float()[None, None], None).double(), exact, atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["group", "layer"])
@pytest.mark.parametrize("lengths", [None, [700, 450]])
def test_columns_that_align_the_first_product_change_nothing(name, lengths, monkeypatch):
    module = stem(name).double()
    wave = torch.randn(2, 700, dtype=torch.float64)
    lengths = None if lengths is None else torch.tensor(lengths)
    found, widths, product = [], [], waveform.matmul
    monkeypatch.setattr(waveform, "matmul", lambda a, b: widths.append(a.shape[-1]) or product(a, b))
    for spare in (waveform._spare_columns(11, torch.device(device)) for device in ("cpu", "cuda")):
        with monkeypatch.context() as patch:
            patch.setattr(waveform, "_spare_columns", lambda inputs, device, spare=spare: spare)
            output = module(wave, lengths)
        found.append([output, *torch.autograd.grad(output.square().sum(), list(module.parameters()))])
    assert widths == [11, 16]
    for aligned, plain in zip(*found, strict=True):
        torch.testing.assert_close(aligned, plain, atol=1e-12, rtol=1e-12)


def test_first_layer_against_plain_loops():
    layer = stem("group").double().layers[0]
    wave = torch.randn(2, 500, dtype=torch.float64)
    wave[1, 300:] = 0
    with torch.no_grad():
        got = layer(wave[:, None], layer.frames(torch.tensor([500, 300])))
    arguments = (10, 5, layer.conv.weight[:, 0].tolist(), layer.norm.weight.tolist(), layer.norm.bias.tolist())
    for row, length in enumerate((500, 300)):
        expected = torch.tensor(conv_groupnorm(wave[row, :length].tolist(), *arguments), dtype=torch.float64)
        expected = nn.functional.gelu(expected)
        torch.testing.assert_close(got[row, :, : expected.shape[1]], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", STEMS)
def test_silence_constants_and_spikes_stay_finite(name):
    module = stem(name)
    wave = torch.zeros(4, 2000)
    wave[1] = 0.5
    wave[2, 1000] = 1.0
    wave[3] = 1e-6 * torch.randn(2000)
    wave.requires_grad_()
    out = module(wave)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_mel_filterbank_is_torchaudios():
    expected = torchaudio.functional.melscale_fbanks(257, 20.0, 8000.0, 80, 16_000, norm=None, mel_scale="htk")
    torch.testing.assert_close(mel_filterbank(80), expected, atol=2e-4, rtol=0)  # torchaudio computes in float32


@pytest.mark.parametrize("n_mels", [23, 80])
def test_mel_filterbank_is_its_formula_term_by_term(n_mels):
    top = 2595 * math.log10(1 + 8000 / 700)
    bottom = 2595 * math.log10(1 + 20 / 700)
    edges = [700 * (10 ** ((bottom + (top - bottom) * k / (n_mels + 1)) / 2595) - 1) for k in range(n_mels + 2)]
    triangles = [edges[k : k + 3] for k in range(n_mels)]
    expected = [
        [max(0.0, min((f - low) / (mid - low), (high - f) / (high - mid))) for low, mid, high in triangles]
        for f in (31.25 * k for k in range(257))
    ]
    torch.testing.assert_close(mel_filterbank(n_mels), torch.tensor(expected), atol=1e-7, rtol=1e-6)


def test_mel_filters_are_those_of_librosa_to_the_last_bit():
    from librosa.filters import mel

    for n_mels in (1, 2, 13, 20, 23, 40, 41, 64, 79, 80):
        theirs = mel(sr=16_000, n_fft=512, n_mels=n_mels, fmin=20.0, htk=True, norm=None, dtype=np.float64)
        assert torch.equal(mel_filterbank(n_mels), torch.from_numpy(theirs.T.astype(np.float32))), n_mels


GOLDEN = [
    [1.3481562, -1.1294166, -0.82413435, -0.009499128, -0.98706722],
    [0.72411776, -0.6236096, -0.14878666, 0.0012816284, -0.86213404],
    [-0.25305718, 0.089849234, 0.67774767, -0.012363945, 1.3354197],
    [-0.58027881, 1.6131029, -0.12325297, -0.00098006881, 1.1710263],
]
"""Every 7th frame and 17th filter of the test below, as the first version computed them."""


def test_log_mel_keeps_the_values_that_trained_models_know():
    time = torch.arange(4000) / 16_000
    wave = 0.1 * torch.sin(2 * torch.pi * (300 + 500 * time) * time) + 0.01 * torch.sin(2 * torch.pi * 3000 * time)
    features = build_frontend(FrontendConfig(kind="logmel", stack=1))(wave[None])[0]
    assert features.shape == (23, 80)
    torch.testing.assert_close(features[::7, ::17], torch.tensor(GOLDEN), rtol=1e-5, atol=2e-5)  # FFTs differ


def test_log_mel_of_a_tone():
    """A tone's energy is in the filter around its frequency; the stack joins neighbours in time order."""
    module = build_frontend(FrontendConfig(kind="logmel", n_mels=40, stack=1))
    seconds = torch.arange(16_000) / 16_000
    # 1 kHz for half a second, then 3 kHz: normalised channels are high where their tone plays.
    wave = torch.where(
        seconds < 0.5, torch.sin(2 * torch.pi * 1000 * seconds), torch.sin(2 * torch.pi * 3000 * seconds)
    )
    out = module(wave[None])[0]
    low, high = (int(mel_filterbank(40)[round(hertz / 31.25)].argmax()) for hertz in (1000, 3000))
    assert (out[:45, low] > 0.8).all()
    assert (out[55:, low] < -0.8).all()
    assert (out[:45, high] < -0.8).all()
    assert (out[55:, high] > 0.8).all()
    joined = build_frontend(FrontendConfig(kind="logmel", n_mels=40, stack=4))(wave[None])[0]
    assert torch.equal(joined, out[: len(joined) * 4].reshape(len(joined), 160))


def test_log_mel_channels_are_standardised_and_loudness_does_not_matter():
    module = build_frontend(FrontendConfig(kind="logmel", stack=1))
    wave = 0.1 * torch.randn(2, 16_000)
    out = module(wave)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 80), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(2, 80), atol=1e-3, rtol=0)
    torch.testing.assert_close(module(4 * wave), out, atol=1e-3, rtol=0)


def test_log_mel_standardised_by_the_frames_so_far():
    """Against plain loops; in an utterance that grows louder, and in silence."""
    past = build_frontend(FrontendConfig(kind="logmel", n_mels=20, stack=1, statistics="past"))
    whole = build_frontend(FrontendConfig(kind="logmel", n_mels=20, stack=1))
    wave = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.001, 0.3, 16_000)
    found = past(wave)[0]
    for f in range(0, len(found), 7):
        heard = whole(wave[:, : f * 160 + 400])[0]  # the same frames, standardised over themselves alone
        torch.testing.assert_close(found[f], heard[-1], atol=2e-4, rtol=1e-4)
    assert not found[0].any()
    assert not past(torch.zeros(1, 4_000)).any()
    hour = torch.randn(1, 160, generator=torch.Generator().manual_seed(2)).repeat(1, 10_000)  # always the same frame
    assert float(past(hour).abs().max()) < 0.1
    padded = past(torch.nn.functional.pad(wave, (0, 3_000)), torch.tensor([16_000]))[0]
    assert torch.equal(padded[: len(found)], found) and not padded[len(found) :].any()


def test_log_mel_stays_in_float32_under_autocast():
    module = stem("logmel")
    wave = 0.1 * torch.randn(1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(wave), module(wave.clone()))
        out = module(wave)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, module(wave))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (FrontendConfig(conv_layers=()), "conv_layers"),
        (FrontendConfig(conv_layers=((512, 0, 2),)), "conv_layers"),
        (FrontendConfig(kind="logmel", stack=0), "stack = 0"),
        (FrontendConfig(kind="logmel", n_mels=200), "n_mels = 200"),
        (FrontendConfig(kind="logmel", n_mels=0), "n_mels = 0"),
        (FrontendConfig(kind="logmel", conv2d=8, stack=5), "stack = 5"),
        (FrontendConfig(kind="logmel", conv2d=8, n_mels=6), "n_mels = 6"),
        (FrontendConfig(kind="logmel", conv2d=-1), "conv2d = -1"),
        (FrontendConfig(kind="waveform", conv2d=8), "conv2d = 8 convolves log-mel"),
    ],
)
def test_configurations_that_cannot_work(cfg, message):
    with pytest.raises(ConfigError, match=message):
        build_frontend(cfg)


@pytest.mark.parametrize("name", ["group", "logmel"])
def test_wrong_shapes(name):
    with pytest.raises(ValueError, match=r"shape \[batch, samples\]"):
        stem(name)(torch.zeros(1, 1, 4000))


WAVEFORM = FrameGrid(((10, 5), (8, 4), (4, 4), (4, 4)))
"""Frames of 345 samples every 320: two mel windows begin in each, and the second ends 215 samples after it."""


def test_log_mel_of_a_waveform_stem_s_frames_are_the_windows_that_begin_in_them():
    targets, alone = FrameLogMel(20, WAVEFORM), build_frontend(FrontendConfig(kind="logmel", n_mels=20, stack=2))
    wave = torch.randn(2, 15_800)
    frames = WAVEFORM.frames(15_800)
    silence = torch.zeros(2, frames * 320 + 240 - 15_800)
    found = targets(wave)
    assert found.shape == (2, frames, 40)
    torch.testing.assert_close(found, alone(torch.cat([wave, silence], dim=1)))
    short = wave.clone()
    short[1, 9_000:] = 0
    padded = targets(short, torch.tensor([15_800, 9_000]))
    count = WAVEFORM.frames(9_000)
    torch.testing.assert_close(padded[1:, :count], targets(short[1:, :9_000]))
    assert not padded[1, count:].any()


def test_log_mel_of_a_log_mel_stem_s_frames_is_that_stem():
    stem = build_frontend(FrontendConfig(kind="logmel", n_mels=20, stack=3))
    wave = torch.randn(2, 10_000)
    torch.testing.assert_close(
        FrameLogMel(20, stem.grid)(wave), stem(wave[:, : 400 + 160 * (3 * stem.frames(10_000) - 1)])
    )


def test_log_mel_targets_need_frames_that_lie_a_multiple_of_10_ms_apart():
    with pytest.raises(ConfigError, match="multiple of 160 samples apart, not 80"):
        FrameLogMel(20, FrameGrid(((10, 5), (8, 4), (4, 4))))
