"""The convolutional decoder against loops over frames, groups and taps."""

import pytest
import torch

from speechssl.core.errors import ConfigError
from speechssl.models.decoder import ConvolutionalDecoder


def slow(decoder, frames, groups):
    """Decode one utterance [T][D] without padding."""
    for layer in decoder.layers:
        width, taps = layer.out_channels, layer.kernel_size[0]
        inner, outer = layer.in_channels // groups, width // groups
        decoded = []
        for t in range(len(frames)):
            y = layer.bias.clone()
            for channel in range(width):
                begin = channel // outer * inner
                for tap in range(taps):
                    if 0 <= t + tap - taps // 2 < len(frames):
                        seen = frames[t + tap - taps // 2][begin : begin + inner]
                        y[channel] += layer.weight[channel, :, tap] @ seen
            y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
            y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
            decoded.append(y + frames[t] if len(frames[t]) == width else y)
        frames = decoded
    return torch.stack(frames)


@pytest.mark.parametrize(("width", "kernel"), [(4, 3), (8, 7), (4, 2)])
def test_it_is_the_slow_decoder_padded_and_alone(width, kernel):
    torch.manual_seed(0)
    decoder = ConvolutionalDecoder(8, width, layers=3, kernel=kernel, groups=2).double()
    x, lengths = torch.randn(2, 9, 8, dtype=torch.float64), [9, 5]
    with torch.no_grad():
        padded = decoder(x, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            expected = slow(decoder, list(x[row, :length]), 2)
            torch.testing.assert_close(padded[row, :length], expected)
            torch.testing.assert_close(decoder(x[row : row + 1, :length], None)[0], expected)
    assert decoder.predict(padded[0]).shape == (9, 8)


@pytest.mark.parametrize("changes", [{"width": 5}, {"groups": 3}, {"kernel": 0}, {"layers": 0}])
def test_sizes_that_do_not_fit(changes):
    sizes = {"width": 4, "layers": 1, "kernel": 3, "groups": 2} | changes
    with pytest.raises(ConfigError, match="decoder_groups"):
        ConvolutionalDecoder(8, sizes.pop("width"), **sizes)
