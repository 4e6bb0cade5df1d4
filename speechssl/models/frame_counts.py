"""Counts of samples and frames: an int for one utterance, a tensor for a batch.

In: the configuration of a stem. Out: where its frames lie, without the stem: a pure function that other processes can
be sent.
"""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from speechssl.config import FrontendConfig
from speechssl.core.errors import ConfigError

__all__ = [
    "CONV2D_KERNEL",
    "CONV2D_STRIDES",
    "MEL_STRIDE",
    "MEL_WINDOW",
    "FrameGrid",
    "Samples",
    "check_wave",
    "frame_grid",
    "mel_frames",
    "window_count",
]

Samples = TypeVar("Samples", int, Tensor)

MEL_WINDOW = 400
"""Samples of one log-mel frame: 25 ms."""
MEL_STRIDE = 160
"""Samples between log-mel frames: 10 ms."""
CONV2D_KERNEL = 3
CONV2D_STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2)}
"""Strides in time of the two convolutions over log-mel, by the 10 ms frames from one encoder frame to the next."""


@dataclass(frozen=True)
class FrameGrid:
    """Where the frames of a stem lie: frame f sees the samples from ``f * hop`` to ``f * hop + receptive``."""

    layers: tuple[tuple[int, int], ...]
    """(kernel, stride) of each layer, none of which pads."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        hop = 1
        for _, stride in self.layers:
            hop *= stride
        return hop

    @property
    def receptive(self) -> int:
        """Samples that one frame sees."""
        seen, hop = 1, 1
        for kernel, stride in self.layers:
            seen += (kernel - 1) * hop
            hop *= stride
        return seen

    def frames(self, samples: Samples) -> Samples:
        """Return the number of frames of ``samples`` samples (0 when there are fewer than ``receptive``)."""
        for kernel, stride in self.layers:
            samples = window_count(samples, kernel, stride)
        return samples


def frame_grid(cfg: FrontendConfig) -> FrameGrid:
    """Return the frame grid of a stem.

    Raises
    ------
    ConfigError
        A size is not positive.
    """
    if cfg.kind == "logmel":
        if cfg.stack < 1:
            raise ConfigError(f"model.frontend.stack = {cfg.stack}: join at least 1 frame")
        if not cfg.conv2d:
            return FrameGrid(((MEL_WINDOW, MEL_STRIDE), (cfg.stack, cfg.stack)))
        if cfg.conv2d < 0:
            raise ConfigError(f"model.frontend.conv2d = {cfg.conv2d}: give a number of channels, or 0 for none")
        if cfg.stack not in CONV2D_STRIDES:
            raise ConfigError(
                f"model.frontend.stack = {cfg.stack}: the two convolutions of model.frontend.conv2d have strides "
                f"whose product is one of {', '.join(map(str, CONV2D_STRIDES))}"
            )
        return FrameGrid(((MEL_WINDOW, MEL_STRIDE), *((CONV2D_KERNEL, stride) for stride in CONV2D_STRIDES[cfg.stack])))
    if cfg.conv2d:
        raise ConfigError(
            f"model.frontend.conv2d = {cfg.conv2d} convolves log-mel: write 0, or model.frontend.kind = 'logmel'"
        )
    if not cfg.conv_layers or min(min(layer) for layer in cfg.conv_layers) < 1:
        raise ConfigError(
            f"model.frontend.conv_layers needs (channels, kernel, stride) of 1 or more: {cfg.conv_layers}"
        )
    return FrameGrid(tuple((kernel, stride) for _, kernel, stride in cfg.conv_layers))


def window_count(samples: Samples, kernel: int, stride: int) -> Samples:
    """Return how many windows of ``kernel`` samples, ``stride`` apart, lie wholly within ``samples`` samples."""
    count = (samples - kernel) // stride + 1
    return count.clamp(min=0) if isinstance(count, Tensor) else max(0, count)


def mel_frames(samples: Samples) -> Samples:
    """Return how many log-mel frames of 10 ms ``samples`` samples have."""
    return window_count(samples, MEL_WINDOW, MEL_STRIDE)


def check_wave(wave: Tensor, receptive: int) -> None:
    """Raise ValueError unless ``wave`` is [B, T] with at least ``receptive`` samples."""
    if wave.ndim != 2:
        raise ValueError(f"expected a wave of shape [batch, samples], got {list(wave.shape)}")
    if wave.shape[1] < receptive:
        raise ValueError(
            f"a batch of {wave.shape[1]} samples is shorter than one frame ({receptive} samples); "
            "leave out shorter utterances (data.min_seconds)"
        )
