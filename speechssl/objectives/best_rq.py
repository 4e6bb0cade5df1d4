"""BEST-RQ (Chiu et al. 2022): predict what a frozen random quantiser makes of masked speech.

In: batches of waveforms. Out: the cross-entropy of the codes of the masked frames, summed. The code of an encoder frame
is that of the log-mel frames of 10 ms that begin within it, stacked, each channel with zero mean and unit variance over
the utterance. Masked frames become the encoder's mask embedding, where the paper fills its input with noise.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config.masked_objectives import BestRqConfig
from speechssl.core.randomness import key
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.frame_counts import FrameGrid
from speechssl.models.kernels.linear import Linear
from speechssl.models.logmel import FrameLogMel
from speechssl.models.norm import at_least_float32
from speechssl.objectives.base import Curve, Loss, Rule
from speechssl.objectives.shared.masked import (
    ACCURACY,
    MASKED_LOSS,
    MASKED_SHARE,
    MaskedObjective,
    MaskedPrepared,
    MaskPreparer,
)

__all__ = ["BestRq", "RandomQuantiser"]


class RandomQuantiser(nn.Module):
    """Frozen random projections and codebooks (section 3.1), and the softmax layer that predicts their codes.

    One module, so that continued pretraining takes all of it or nothing: a code means something to its codebook alone.
    ``seed`` is the key of the random numbers.
    """

    projection: Tensor
    codebooks: Tensor

    def __init__(self, cfg: BestRqConfig, grid: FrameGrid, dim: int, *, seed: int) -> None:
        super().__init__()
        self.shape = (cfg.codebooks, cfg.entries)
        self.mel = FrameLogMel(cfg.n_mels, grid)
        drawn = torch.Generator().manual_seed(key("random-quantiser", seed))
        projection = torch.empty(cfg.codebooks, self.mel.dim, cfg.code_dim)
        for matrix in projection:
            nn.init.xavier_uniform_(matrix, generator=drawn)
        codebooks = torch.randn(cfg.codebooks, cfg.entries, cfg.code_dim, generator=drawn)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", functional.normalize(codebooks, dim=-1))
        self.predict = Linear(dim, cfg.codebooks * cfg.entries)

    def mel_frames(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """Return what is quantised, [B, F, I]: stacked, standardised log-mel of every encoder frame of [B, T]."""
        speech: Tensor = self.mel(wave, lengths)
        return speech

    @torch.no_grad()
    def codes(self, speech: Tensor) -> Tensor:
        """Return the codes [N, G] of frames [N, I]: the nearest entry of unit vectors (equation 1)."""
        vectors = functional.normalize(torch.einsum("ni,gid->gnd", speech, self.projection), dim=-1)
        return (vectors @ self.codebooks.transpose(1, 2)).argmax(dim=-1).t()  # unit length: nearest is most similar

    def shares(self, codes: Tensor) -> Tensor:
        """Return [G, V] float32: how often each entry is among codes [N, G], as shares of N."""
        counts = torch.zeros(self.shape, device=codes.device)
        return counts.scatter_add_(1, codes.t(), torch.ones_like(codes.t(), dtype=counts.dtype)) / len(codes)

    def logits(self, context: Tensor) -> Tensor:
        """Return [N, G, V] scores of the codes of context vectors [N, D], in at least float32."""
        return at_least_float32(self.predict(context)).view(-1, *self.shape)


class BestRq(MaskedObjective[MaskedPrepared]):
    """The BEST-RQ objective around an encoder; ``seed`` is the key of quantiser and masks.

    Raises
    ------
    ConfigError
        The encoder's frames do not lie a multiple of 10 ms apart.
    """

    title = "BEST-RQ"
    curves = (
        MASKED_LOSS,
        ACCURACY,
        Curve(
            "code_entropy",
            "Entropy of the codes (nats)",
            "Entropy of the codes that are to be predicted, at most the logarithm of the masked frames of a "
            "micro-batch. Near 0 practically one code is left.",
            zero=True,
        ),
        Curve("unique_codes", "Codes in use", "Different codes among the masked frames of a micro-batch.", zero=True),
    )
    rules = (
        Rule(
            metric="code_entropy",
            finding="code_collapse",
            message="{name} is {value:.2f}: practically one code is to be predicted. Check that the audio is not "
            "silent; use more objective.codebooks, or another seed",
            low=math.log(2),
            after=0.0,
        ),
        MASKED_SHARE,
    )

    def __init__(self, encoder: SpeechEncoder, cfg: BestRqConfig, *, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.quantiser = RandomQuantiser(cfg, encoder.frontend.grid, encoder.dim, seed=seed)
        self.chance = {"masked_loss": math.log(cfg.entries), "accuracy": 1 / cfg.entries}

    @staticmethod
    def candidates(cfg: BestRqConfig, iteration: int) -> int:
        """Return the number of codes."""
        del iteration
        return cfg.entries

    def preparer(self, seed: int | None = None) -> MaskPreparer[MaskedPrepared]:
        """Return what draws masks."""
        return MaskPreparer(self.encoder.frontend.grid, self.cfg.mask, self.seed if seed is None else seed)

    def loss(self, output: EncoderOutput, prepared: MaskedPrepared) -> Loss:
        """Return the cross-entropy of the codes of the masked frames (section 3), a mean over codebooks."""
        wave, masked, n = prepared.batch.wave, prepared.masked, prepared.n_targets
        logits = self.quantiser.logits(masked.gather(output.x))
        with torch.autocast(wave.device.type, enabled=False):
            codes = self.quantiser.codes(masked.pick(self.quantiser.mel_frames(wave, prepared.lengths)))
            losses = functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum")
        total = losses / self.cfg.codebooks
        shares = self.quantiser.shares(codes)
        metrics = {
            "masked_loss": total.detach() / n,
            "accuracy": (logits.argmax(dim=2) == codes).float().mean(),
            "masked_fraction": prepared.masked_fraction(),
            "code_entropy": torch.special.entr(shares).sum(dim=1).mean(),
            "unique_codes": (shares > 0).sum(dim=1).float().mean(),
        }
        return Loss(sum=total, n_targets=n, metrics=metrics)
