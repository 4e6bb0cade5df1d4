"""wav2vec 2.0 (Baevski et al. 2020): tell the true quantised latent of a masked frame from those of others.

In: batches of waveforms. Out: the contrastive loss (equation 3), the codebook diversity loss (equation 4) and the
feature penalty, as one sum over masked frames. Only masked frames reach the quantiser and the projections.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.config import Wav2Vec2Config
from speechssl.core.randomness import generator
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.kernels.dropout import dropout
from speechssl.models.kernels.linear import Linear
from speechssl.models.masking import sample_negatives
from speechssl.models.quantizer import GumbelQuantizer
from speechssl.objectives.base import Curve, Loss, Rule
from speechssl.objectives.published import WAV2VEC2
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import (
    ACCURACY,
    MASKED_SHARE,
    MaskedObjective,
    MaskedPrepared,
    MaskPreparer,
    cosine_rows,
    feature_penalty,
    penalty_weight,
)

__all__ = ["Contrast", "Wav2Vec2", "Wav2Vec2Prepared", "Wav2Vec2Preparer", "contrast"]


@dataclass(frozen=True)
class Wav2Vec2Prepared(MaskedPrepared):
    """Masks and negatives of one batch."""

    negatives: Tensor
    """[N, K] int32, for each masked frame K others of the same utterance, counted among its masked frames."""


@dataclass(frozen=True)
class Wav2Vec2Preparer(MaskPreparer[Wav2Vec2Prepared]):
    """Draws masks and negatives of a CPU batch, keyed by (seed, epoch, utterance id).

    A row of weight 0, and one with fewer than two masked frames (which has no distractor), gets no targets.
    """

    negatives: int
    """Distractors of each masked frame."""

    def predictable(self, batch: Batch, rows: list[int], mask: np.ndarray) -> np.ndarray:
        """Return the masked frames of rows with two or more of them."""
        del batch, rows
        return mask & (mask.sum(axis=1, keepdims=True) >= 2)

    def prepared(self, batch: Batch, rows: list[int], mask: np.ndarray) -> Wav2Vec2Prepared:
        """Return the batch with its masks and negatives."""
        mask = self.predictable(batch, rows, mask)
        negatives = [
            sample_negatives(count, self.negatives, generator("negatives", self.seed, batch.epoch, item))
            for item, count in zip(batch.ids, mask.sum(axis=1).tolist(), strict=True)
            if count
        ]
        drawn = np.concatenate(negatives) if negatives else np.zeros((0, self.negatives), dtype=np.int32)
        return Wav2Vec2Prepared.of(batch, rows, mask, negatives=torch.from_numpy(drawn))


@dataclass(frozen=True)
class Contrast:
    """Result of the contrastive comparison."""

    sum: Tensor
    """Scalar: sum of the cross-entropies of N masked frames."""
    correct: Tensor
    """Scalar: masked frames whose true latent is strictly more similar than every distractor that counts."""


def contrast(
    context: Tensor, targets: Tensor, *, codes: Tensor, negatives: Tensor, masked: FrameSelection, temperature: float
) -> Contrast:
    """Contrastive loss (wav2vec 2.0, equation 3) of all masked frames of a batch.

    One product for each utterance gives the similarity of every pair of its masked frames. A frame's loss is
    ``logsumexp(similarity + log(times drawn))`` minus the similarity to its own target, where "times drawn" counts how
    often each frame was drawn as a distractor: the same value as gathering K + 1 logits, without the gather.

    Parameters
    ----------
    context, targets
        [N, D] projected context vectors and projected quantised vectors of the masked frames.
    codes
        [N] one integer for each distinct code vector; a distractor with the code of the true latent does not count.
    negatives
        [N, K] distractors as positions among the masked frames of the same utterance.
    masked
        Where the N frames lie: which of them are of one utterance.
    temperature
        Cosines are divided by it.
    """
    rows, width = masked.rows, masked.width
    own, other = masked.spread(cosine_rows(context)), masked.spread(cosine_rows(targets))
    similarity = torch.bmm(own, other.transpose(1, 2)) / temperature
    with torch.no_grad():
        drawn = similarity.new_zeros(rows * width * width)
        pairs = (masked.slots[:, None] * width + negatives).flatten()
        drawn = drawn.scatter_add(0, pairs, torch.ones_like(pairs, dtype=drawn.dtype)).view(rows, width, width)
        code = masked.spread(codes)
        drawn = drawn.masked_fill(code[:, :, None] == code[:, None, :], 0.0)
        distractors = drawn > 0
        drawn.diagonal(dim1=1, dim2=2).fill_(1.0)  # the true latent; an unused place then has a loss of exactly 0
    positive = similarity.diagonal(dim1=1, dim2=2)
    losses = torch.logsumexp(similarity + drawn.log(), dim=2) - positive
    with torch.no_grad():
        rival = similarity.masked_fill(~distractors, -math.inf).amax(dim=2)
        # A frame without any distractor left (a collapsed codebook) is not a success.
        correct = (positive > rival) & distractors.any(dim=2)
    return Contrast(sum=losses.sum(), correct=correct.sum())


class Wav2Vec2(MaskedObjective[Wav2Vec2Prepared]):
    """The wav2vec 2.0 objective around an encoder; ``seed`` is the key of masks and negatives."""

    title = "wav2vec 2.0"
    published = WAV2VEC2
    curves = (
        Curve(
            "contrastive",
            "Contrastive loss (nats per masked frame)",
            "Contrastive loss; lower is better.",
            chance="loss",
            held_out=True,
        ),
        ACCURACY,
        Curve(
            "perplexity",
            "Codebook perplexity (entries)",
            "Perplexity of each codebook group: the number of entries in effective use{most}. A fall towards 1 is a "
            "collapse.",
            zero=True,
            groups=True,
            most="entries",
        ),
    )
    rules = (
        Rule(
            metric="perplexity",
            finding="codebook_collapse",
            message="{name} is {value:.2f}: practically one entry is used. Try a lower optim.lr, a larger diversity "
            "weight, or a slower decay of the Gumbel temperature; check that the audio is not silent",
            low=2.0,
        ),
        Rule(
            metric="perplexity",
            finding="codebook_shrinking",
            message="{name} fell from {peak:.0f} to {value:.1f}: entries are dying. If it goes on, go back to an "
            "earlier checkpoint with a lower optim.lr or a larger diversity weight",
            fell=0.05,
            severity="warning",
        ),
        Rule(
            metric="target_variance",  # 1 when the targets point everywhere, 0 when they are all the same
            finding="target_collapse",
            message="{name} is {value:.4f}: all targets are nearly the same vector, so there is nothing to predict. Go "
            "back to an earlier checkpoint with a lower optim.lr; check that the audio is not silent",
            low=0.01,
            after=0.0,
        ),
        MASKED_SHARE,
    )
    temperature: Tensor

    def __init__(self, encoder: SpeechEncoder, cfg: Wav2Vec2Config, *, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.cfg = cfg
        self.seed = seed
        self.penalty_weight = penalty_weight(encoder, cfg.penalty_weight)
        self.quantizer = GumbelQuantizer(encoder.frontend.dim, cfg.groups, cfg.entries, cfg.final_dim)
        self.project_targets = Linear(cfg.final_dim, cfg.final_dim)
        self.project_context = Linear(encoder.dim, cfg.final_dim)
        self.register_buffer("temperature", torch.tensor(float(cfg.gumbel_start)), persistent=False)
        self.chance = {"contrastive": math.log(1 + cfg.negatives), "accuracy": 1 / (1 + cfg.negatives)}

    @staticmethod
    def candidates(cfg: Wav2Vec2Config, iteration: int) -> int:
        """Return how many latents are compared: the true one and the distractors."""
        del iteration
        return 1 + cfg.negatives

    def begin_step(self, step: int) -> bool:
        """Set the Gumbel temperature: ``max(end, start * decay ** step)``."""
        cfg = self.cfg
        self.temperature.fill_(max(cfg.gumbel_end, cfg.gumbel_start * cfg.gumbel_decay**step))
        return False

    def preparer(self, seed: int | None = None) -> Wav2Vec2Preparer:
        """Return what draws masks and negatives."""
        grid, key = self.encoder.frontend.grid, self.seed if seed is None else seed
        return Wav2Vec2Preparer(grid, self.cfg.mask, key, self.cfg.negatives)

    def loss(self, output: EncoderOutput, prepared: Wav2Vec2Prepared) -> Loss:
        """Return contrastive + weighted diversity and penalty, summed over the masked frames (equation 2)."""
        cfg, n = self.cfg, prepared.n_targets
        masked, features = prepared.masked, output.features
        assert features is not None
        context = self.project_context(masked.gather(output.x))
        latents = self.encoder.normalise_features(masked.pick(features))
        latents = dropout(latents, cfg.feature_dropout, training=self.training)
        quantised = self.quantizer(latents, self.temperature)
        targets = self.project_targets(quantised.codes_vectors)
        codes = quantised.indices[:, 0]
        for group in range(1, cfg.groups):
            codes = codes * cfg.entries + quantised.indices[:, group]
        with torch.autocast(context.device.type, enabled=False):
            result = contrast(
                context,
                targets,
                codes=codes,
                negatives=prepared.negatives,
                masked=masked,
                temperature=cfg.logit_temperature,
            )
            size = cfg.groups * cfg.entries
            diversity = (size - quantised.perplexity.sum()) / size
            total = result.sum + cfg.diversity_weight * n * diversity
        metrics = {
            "contrastive": result.sum / n,
            "diversity": diversity,
            "accuracy": result.correct / n,
            "masked_fraction": prepared.masked_fraction(),
            "target_variance": cosine_rows(targets).var(dim=0, unbiased=False).sum(),
            "codes_used": self._codes_used(quantised.indices),
        }
        if self.penalty_weight > 0:
            penalty = feature_penalty(features, prepared)
            total = total + self.penalty_weight * penalty
            metrics["penalty"] = penalty / n
        metrics |= {f"perplexity_{group}": value for group, value in enumerate(quantised.perplexity.unbind())}
        return Loss(sum=total, n_targets=n, metrics={name: value.detach() for name, value in metrics.items()})

    def _codes_used(self, indices: Tensor) -> Tensor:
        """Return the share of codebook entries that [N, G] indices touch, over all groups."""
        used = torch.zeros(self.cfg.groups, self.cfg.entries, device=indices.device)
        return used.scatter_(1, indices.t(), 1.0).mean()
