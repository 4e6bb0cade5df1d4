"""Normalisations: statistics over valid samples and frames only, in float32, whatever the input."""

import pytest
import torch
from torch import nn

from speechssl.models.norm import LayerNorm, at_least_float32, frame_mask, normalise_waveform, standardise


def test_normalised_waveforms():
    wave = torch.zeros(4, 1000)
    wave[0] = 3 + 0.2 * torch.randn(1000)
    wave[1, :400] = -1 + 5 * torch.randn(400)
    wave[2] = 0.7  # a constant: silence with an offset
    lengths = torch.tensor([1000, 400, 1000, 0])
    out = normalise_waveform(wave, lengths)
    assert out.isfinite().all()
    for row, length in ((0, 1000), (1, 400)):
        assert float(out[row, :length].mean()) == pytest.approx(0, abs=1e-5)
        assert float(out[row, :length].std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert not out[1, 400:].any()
    assert out[2].abs().max() < 1e-2
    assert not out[3].any()
    torch.testing.assert_close(normalise_waveform(wave[:1], None), out[:1])
    torch.testing.assert_close(normalise_waveform(wave[1:2, :400], None)[0], out[1, :400])
    assert not normalise_waveform(torch.zeros(1, 500), None).any()


def test_channels_are_standardised_over_the_frames_of_each_row():
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(3, 9, 4)
    x[1, 5:] = float("nan")  # padding is undefined
    out = standardise(x, torch.tensor([9, 5, 0]))
    for row, length in ((0, 9), (1, 5)):
        expected = nn.functional.instance_norm(x[row : row + 1, :length].mT).mT[0]
        torch.testing.assert_close(out[row, :length], expected)
        torch.testing.assert_close(standardise(x[row : row + 1, :length], None)[0], expected)


def test_a_channel_that_does_not_change_becomes_zero_whatever_its_value():
    x = torch.full((2, 700, 3), -18.420681)  # the logarithm of the floor, in digital silence
    assert not standardise(x, None).any()
    assert not standardise(x, torch.tensor([700, 333])).any()


def test_layer_norm_computes_in_float32_and_keeps_the_dtype():
    torch.manual_seed(0)
    ours, reference = LayerNorm(16), nn.LayerNorm(16)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    reference.load_state_dict(ours.state_dict())
    x = 100 + torch.randn(5, 16)  # a large mean: bfloat16 statistics would be useless
    assert torch.equal(ours(x), reference(x))
    half = x.bfloat16()
    assert ours(half).dtype == torch.bfloat16
    assert torch.equal(ours(half), reference(half.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), reference(x))


def test_frame_mask_and_precision():
    assert frame_mask(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False, False, False]]
    for dtype, expected in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == expected
