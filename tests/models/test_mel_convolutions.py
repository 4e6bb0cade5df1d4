"""Convolutions over log-mel and SpecAugment in the log-mel stem, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechssl.config import EncoderConfig, FrontendConfig, ModelConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.frame_counts import mel_frames
from speechssl.models.frontend import build_frontend
from speechssl.models.logmel import MelAugmentation

MEL = FrontendConfig(kind="logmel", n_mels=11, stack=1)
STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2)}


def loops(x: list, weight: list, bias: list, stride: tuple[int, int]) -> list:
    """Return the ReLU of a convolution without padding, by its definition: x is [channel][frame][mel]."""
    taps = [(i, j) for i in range(3) for j in range(3)]
    frames, mels = (range(0, size - 2, step) for size, step in zip((len(x[0]), len(x[0][0])), stride, strict=True))
    return [
        [
            [max(0.0, b + sum(w[c][i][j] * x[c][f + i][m + j] for c in range(len(x)) for i, j in taps)) for m in mels]
            for f in frames
        ]
        for w, b in zip(weight, bias, strict=True)
    ]


@pytest.mark.parametrize("stack", STRIDES)
def test_convolutions_against_plain_loops(stack):
    torch.manual_seed(stack)
    stem = build_frontend(replace(MEL, stack=stack, conv2d=2)).double()
    torch.nn.init.normal_(stem.convolutions.first.bias)
    torch.nn.init.normal_(stem.convolutions.second.bias)
    wave = torch.randn(1, 400 + 160 * 16, dtype=torch.float64)
    expected = [build_frontend(MEL).double()(wave)[0].tolist()]
    layers = (stem.convolutions.first, stem.convolutions.second)
    for layer, stride in zip(layers, STRIDES[stack], strict=True):
        expected = loops(expected, layer.weight.tolist(), layer.bias.tolist(), (stride, 2))
    found = stem(wave)[0]
    assert found.shape == (stem.frames(wave.shape[1]), stem.dim)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64).transpose(0, 1).flatten(1))


@pytest.mark.parametrize(("stack", "rate"), [(2, 50), (4, 25)])
def test_frame_rates_and_what_a_frame_sees(stack, rate):
    stem = build_frontend(FrontendConfig(kind="logmel", stack=stack, conv2d=8))
    assert 16_000 / stem.hop == rate
    assert stem.receptive == 400 + 6 * 160  # seven frames of 10 ms: three, two frames apart, of three
    assert stem.dim == 8 * 19  # 80 mel channels become 39, and these 19


def augmentation(frames: int, mels: int, hidden=(), channels=(), source=None) -> MelAugmentation:
    over = torch.zeros(1, frames, dtype=torch.bool)
    over[0, list(hidden)] = True
    across = torch.zeros(1, mels, dtype=torch.bool)
    across[0, list(channels)] = True
    return MelAugmentation(over, across, source)


def test_masked_frames_and_channels_become_the_mean_and_the_rest_stays():
    stem = build_frontend(MEL)
    wave = torch.randn(1, 400 + 160 * 19)
    plain, found = stem(wave)[0], stem(wave, None, augmentation(20, 11, [3, 4], [7]))[0]
    for frame in range(20):
        for mel in range(11):
            assert found[frame, mel] == (0 if frame in (3, 4) or mel == 7 else plain[frame, mel])
    torch.testing.assert_close(plain.mean(0), torch.zeros(11), atol=1e-5, rtol=0)


def test_a_time_warp_is_linear_interpolation():
    stem = build_frontend(MEL)
    wave = torch.randn(1, 400 + 160 * 19)
    places = np.interp(np.arange(20), [0, 12, 19], [0, 8, 19])
    source = torch.tensor(places, dtype=torch.float32)[None]
    plain, found = stem(wave)[0], stem(wave, None, augmentation(20, 11, source=source))[0]
    for mel in range(11):
        expected = np.interp(places, np.arange(20), plain[:, mel].numpy())
        np.testing.assert_allclose(found[:, mel].numpy(), expected, atol=1e-5)
    still = torch.arange(20, dtype=torch.float32)[None]
    assert torch.equal(stem(wave, None, augmentation(20, 11, source=still))[0], plain)


@pytest.mark.parametrize("stack", [2, 4])
def test_an_augmented_utterance_is_the_same_alone_and_in_a_batch(stack):
    torch.manual_seed(0)
    stem = build_frontend(replace(MEL, stack=stack, conv2d=3))
    lengths = [400 + 160 * 30, 400 + 160 * 21]
    wave = torch.zeros(2, lengths[0])
    for row, length in enumerate(lengths):
        wave[row, :length] = torch.randn(length)
    frames = mel_frames(lengths[0])
    hidden, channels = torch.rand(2, frames) < 0.2, torch.rand(2, 11) < 0.2
    source = torch.arange(frames, dtype=torch.float32).repeat(2, 1)
    source[1, :22] = torch.from_numpy(np.interp(np.arange(22), [0, 9, 21], [0, 12, 21])).float()
    together = stem(wave, torch.tensor(lengths), MelAugmentation(hidden, channels, source))
    for row, length in enumerate(lengths):
        own = mel_frames(length)
        mine = MelAugmentation(hidden[row : row + 1, :own], channels[row : row + 1], source[row : row + 1, :own])
        alone = stem(wave[row : row + 1, :length], None, mine)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert not together[row, len(alone) :].any()


def test_a_conformer_over_the_convolutions_does_not_depend_on_padding_or_neighbours():
    torch.manual_seed(0)
    cfg = EncoderConfig(
        block="conformer", dim=16, layers=2, heads=2, ffn_dim=32, norm="pre", conv_kernel=5, pos_depth=0,
        relative_position="rotary",
    )  # fmt: skip
    encoder = SpeechEncoder(ModelConfig(frontend=replace(MEL, stack=4, conv2d=3), encoder=cfg)).eval()
    wave = torch.zeros(2, 12_000)
    wave[0], wave[1, :7_000] = torch.randn(12_000), torch.randn(7_000)
    together = encoder(wave, torch.tensor([12_000, 7_000]))
    alone = encoder(wave[1:, :7_000])
    assert together.frame_lengths.tolist() == [encoder.frames(12_000), encoder.frames(7_000)]
    torch.testing.assert_close(together.x[1, : alone.x.shape[1]], alone.x[0], atol=1e-4, rtol=1e-4)
