"""Our models in the forms that benchmarks of speech representations ask for. None of their packages is imported.

In: a model that ``interop`` reads. Out: an encoder of X-ARES, an upstream of s3prl (SUPERB).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.core.errors import ConfigError
from speechssl.data.audio.decode import SAMPLE_RATE
from speechssl.interop.any_model import load_any_encoder
from speechssl.models.kernels.choice import exact_float32

__all__ = ["UpstreamExpert", "XaresEncoder"]


class XaresEncoder(nn.Module):
    """Frames of one layer, as X-ARES 0.1.3 (arXiv 2505.16369) asks of an encoder. X-ARES tells encoders apart by class.

    Parameters
    ----------
    model
        A model folder or file that ``interop`` reads.
    layer
        0: the input of the first block; i: the output of block i; -1: the last one.

    Raises
    ------
    CheckpointError, ConfigError
        The model cannot be read, or has no such layer.
    """

    def __init__(self, model: str, layer: int = -1) -> None:
        super().__init__()
        self.encoder = load_any_encoder(Path(model)).eval()
        last = len(self.encoder.blocks)
        if not -1 <= layer <= last:
            raise ConfigError(f"{model} has the layers 0 to {last}, not {layer}")
        self.layer = last if layer < 0 else layer
        self.sampling_rate = SAMPLE_RATE
        self.output_dim = int(self.encoder.dim)
        self.hop_size_in_ms = 1000 * int(self.encoder.hop) / SAMPLE_RATE

    @torch.inference_mode()
    def forward(self, audio: Tensor) -> Tensor:
        """Return [B, frames, dim] of audio [B, T] or [T] at 16 kHz."""
        with exact_float32():
            return self.encoder(audio.reshape(-1, audio.shape[-1]), layers=True, stop_at=self.layer).layers[self.layer]


class UpstreamExpert(nn.Module):
    """All layers, as s3prl asks of an upstream.

    Put two lines in ``s3prl/upstream/speechssl/hubconf.py``: import this class as ``_Expert``, and
    ``def speechssl(ckpt, **kwargs): return _Expert(ckpt)``. Then ``run_downstream.py -u speechssl -k MODEL`` finds it.
    """

    def __init__(self, ckpt: str, model_config: str | None = None, **kwargs: Any) -> None:
        super().__init__()
        del model_config, kwargs  # of other upstreams
        self.encoder = load_any_encoder(Path(ckpt)).eval()

    def get_downsample_rates(self, key: str) -> int:
        """Return the samples from one frame to the next."""
        del key
        return int(self.encoder.hop)

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Return ``hidden_states``: [B, frames, dim] of the input of the first block and of the output of each block.

        ``wavs`` are [T] at 16 kHz. The last frame of an utterance is repeated, as s3prl does it: it rounds lengths up.
        """
        batch = nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in wavs], device=batch.device)
        with exact_float32():
            output = self.encoder(batch, lengths, layers=True)
        steps = torch.arange(output.x.shape[1], device=batch.device)
        places = torch.minimum(steps, self.encoder.frames(lengths)[:, None] - 1)[..., None].expand_as(output.x)
        hidden = [layer.gather(1, places) for layer in output.layers]
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}
