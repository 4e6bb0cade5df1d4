"""A decoder of convolutions over frames: it predicts masked frames from what an encoder has made of the others.

In: frames [R, F, D], with anything but speech in place of masked ones, and the valid frames of each row. Out: frames of
the decoder's width, and predictions of those that are asked for (data2vec 2.0, section 3).
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from speechssl.core.errors import ConfigError
from speechssl.models.kernels.linear import Linear
from speechssl.models.norm import at_least_float32, frame_mask

__all__ = ["ConvolutionalDecoder"]


class ConvolutionalDecoder(nn.Module):
    """Grouped convolutions, and a projection back to the width of the encoder.

    Each layer is ``x <- x + GELU(layer norm(convolution(x)))``, without weights in the norm. The first changes the
    width and has no residual, unless both widths are equal.

    Raises
    ------
    ConfigError
        A width is no multiple of ``groups``, or a size is not positive.
    """

    def __init__(self, dim: int, width: int, *, layers: int, kernel: int, groups: int) -> None:
        super().__init__()
        if min(width, layers, kernel, groups) < 1 or dim % groups or width % groups:
            raise ConfigError(
                f"model.encoder.dim = {dim} and objective.decoder_dim = {width} must be multiples of decoder_groups = "
                f"{groups}; decoder_layers = {layers} and decoder_kernel = {kernel} positive"
            )
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding=kernel // 2, groups=groups)
            for before, after in pairwise([dim] + [width] * layers)
        )
        self.project = Linear(width, dim)

    def forward(self, x: Tensor, frame_lengths: Tensor | None) -> Tensor:
        """Map [R, F, D] to [R, F, width]. Padding is zero before each layer, as is what lies beyond the batch."""
        padding = None if frame_lengths is None else ~frame_mask(frame_lengths, x.shape[1])[..., None]
        for layer in self.layers:
            x = x if padding is None else x.masked_fill(padding, 0.0)
            y = at_least_float32(layer(x.transpose(1, 2))).transpose(1, 2)[:, : x.shape[1]]
            y = functional.gelu(functional.layer_norm(y, y.shape[-1:]))
            x = x + y if x.shape[-1] == y.shape[-1] else y
        return x

    def predict(self, x: Tensor) -> Tensor:
        """Map frames [N, width] to predictions [N, D], in at least float32."""
        return at_least_float32(self.project(x))
