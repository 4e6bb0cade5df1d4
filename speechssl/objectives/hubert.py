"""HuBERT (Hsu et al. 2021): predict the k-means unit of masked frames.

In: batches of waveforms and a table of units for every utterance. Out: the cross-entropy of cosine logits (equation 3
of section 3.2) summed over masked frames, and the feature penalty. One matrix product gives the logits of all frames.

With ``unmasked_weight`` the other frames have targets too: their weighted cross-entropy joins the sum, and they join
``n_targets``, which divides it. fairseq's ``hubert_criterion`` does the same (``pred_nomask_weight``, ``sample_size``).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config.masked_objectives import MaskedUnitsConfig
from speechssl.data.batches.batch import Batch
from speechssl.models.encoder import EncoderOutput, SpeechEncoder
from speechssl.models.kernels.linear import Linear
from speechssl.objectives.base import Curve, Loss, OfflineTargets, Rule
from speechssl.objectives.shared.frames import FrameSelection
from speechssl.objectives.shared.masked import (
    ACCURACY,
    MASKED_LOSS,
    MASKED_SHARE,
    MaskedObjective,
    MaskedPrepared,
    MaskPreparer,
    cosine_rows,
    feature_penalty,
    penalty_weight,
)

__all__ = ["Hubert", "HubertPrepared", "HubertPreparer"]


@dataclass(frozen=True)
class HubertPrepared(MaskedPrepared):
    """Masks and units of one batch."""

    units: Tensor
    """[N] int64, units of the masked frames."""
    others: FrameSelection
    """M frames that are not masked; none unless ``unmasked_weight`` is set. ``n_targets`` is N + M."""
    other_units: Tensor
    """[M] int64, their units."""


@dataclass(frozen=True)
class HubertPreparer(MaskPreparer[HubertPrepared]):
    """Draws the masks of a CPU batch, keyed by (seed, epoch, utterance id), and looks its units up.

    A crop starts on the frame grid (data/batches/plan.py aligns it), so its units are a slice of the utterance's. A row
    of weight 0, and one without units, gets no targets.
    """

    units: OfflineTargets
    everywhere: bool
    """Frames that are not masked are targets, too."""

    def predictable(self, batch: Batch, rows: list[int], mask: np.ndarray) -> np.ndarray:
        """Return the masked frames that have a unit."""
        return mask & (self._labels(batch, rows, mask.shape[1]) >= 0)

    def prepared(self, batch: Batch, rows: list[int], mask: np.ndarray) -> HubertPrepared:
        """Return the batch with its masks and units; ValueError for a crop that starts between two frames."""
        labels = self._labels(batch, rows, mask.shape[1])
        known = (labels >= 0) & (batch.weights.numpy() > 0)[:, None]
        mask = mask & known.any(axis=1, keepdims=True)
        masked = mask & known
        others = ~mask & known if self.everywhere else np.zeros_like(known)
        return HubertPrepared.of(
            batch,
            rows,
            mask,
            masked,
            n_targets=int(masked.sum()) + int(others.sum()),
            units=torch.from_numpy(labels[masked]),
            others=FrameSelection.of(others),
            other_units=torch.from_numpy(labels[others]),
        )

    def _labels(self, batch: Batch, rows: list[int], width: int) -> np.ndarray:
        """Return [B, width] int64 units, -1 where a frame has none."""
        labels = np.full((len(rows), width), -1, dtype=np.int64)
        hop = self.grid.hop
        for row, (item, start, frames) in enumerate(zip(batch.ids, batch.starts.tolist(), rows, strict=True)):
            if start % hop:
                raise ValueError(f"{item}: the crop starts at sample {start}, not a multiple of {hop}")
            found = self.units.get(item, start // hop, frames)
            if found is not None:
                labels[row, : len(found)] = found
        return labels


class Hubert(MaskedObjective[HubertPrepared]):
    """The HuBERT objective around an encoder.

    Parameters
    ----------
    encoder
        Stem and context network.
    cfg
        Projection, masks, temperature and weights.
    units
        Units of whole utterances on the encoder's frame grid. An utterance that is not in it gets no targets.
    seed
        Key of the masks.

    Raises
    ------
    ValueError
        When the table was made for another frame grid.
    """

    title = "HuBERT"
    curves: ClassVar[tuple[Curve, ...]] = (
        MASKED_LOSS,
        ACCURACY,
        Curve(
            "prediction_perplexity",
            "Prediction perplexity (units)",
            "Number of units in effective use among the predictions. A fall towards 1 is a collapse.",
            zero=True,
        ),
    )
    # Random weights predict all units alike and learning makes the perplexity fall, so only its end is watched.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            metric="prediction_perplexity",
            finding="prediction_collapse",
            message="{name} is {value:.2f}: the same unit is predicted for practically every frame. Try a lower "
            "optim.lr or a longer warmup; look at units/units.json: if one unit has nearly all frames, use more audio "
            "for the k-means (objective.targets.kmeans_hours) or another layer, and check that the audio is not silent",
            low=2.0,
        ),
        MASKED_SHARE,
    )

    def __init__(self, encoder: SpeechEncoder, cfg: MaskedUnitsConfig, units: OfflineTargets, *, seed: int) -> None:
        super().__init__()
        if units.hop != encoder.hop:
            raise ValueError(f"the units lie {units.hop} samples apart, the encoder's frames {encoder.hop}")
        self.encoder = encoder
        self.cfg = cfg
        self.units = units
        self.seed = seed
        self.refused_in_sum = "unmasked_weight" if cfg.unmasked_weight > 0 else ""
        self.penalty_weight = penalty_weight(encoder, cfg.penalty_weight)
        self.projection = Linear(encoder.dim, cfg.final_dim)
        self.embeddings = nn.Parameter(torch.empty(units.n_units, cfg.final_dim).uniform_())
        # Predicting how often each unit occurs is the best that a model which ignores its input can do.
        self.chance = {"masked_loss": units.entropy(), "accuracy": units.largest_share()}

    @staticmethod
    def candidates(cfg: MaskedUnitsConfig, iteration: int) -> int | None:
        """Return the number of units of an iteration."""
        return dict(enumerate(cfg.targets.clusters)).get(iteration)

    def preparer(self, seed: int | None = None) -> HubertPreparer:
        """Return what draws masks and looks units up."""
        grid, key = self.encoder.frontend.grid, self.seed if seed is None else seed
        return HubertPreparer(grid, self.cfg.mask, key, self.units, everywhere=self.cfg.unmasked_weight > 0)

    def logits(self, context: Tensor) -> Tensor:
        """Return [N, units] cosine logits of [N, D] context vectors, in at least float32."""
        projected = self.projection(context)
        with torch.autocast(context.device.type, enabled=False):
            return cosine_rows(projected) @ cosine_rows(self.embeddings).t() / self.cfg.logit_temperature

    def encode(self, prepared: HubertPrepared, **changes: Any) -> EncoderOutput:
        """Return the encoder's output at the masked frames, or with ``unmasked_weight`` at all."""
        everywhere = self.cfg.unmasked_weight > 0
        return super().encode(prepared, **({"positions": None} if everywhere else {}), **changes)

    def loss(self, output: EncoderOutput, prepared: HubertPrepared) -> Loss:
        """Return cross-entropy over masked frames (and, weighted, the others) plus the weighted feature penalty."""
        masked_frames, others = prepared.masked, prepared.others
        n = max(1, len(prepared.units))  # masked frames, which the metrics are means over
        everywhere = self.cfg.unmasked_weight > 0
        logits = self.logits(masked_frames.pick(output.x) if everywhere else masked_frames.gather(output.x))
        masked = total = functional.cross_entropy(logits, prepared.units, reduction="sum")
        metrics = {
            "masked_loss": masked / n,
            "accuracy": (logits.argmax(dim=1) == prepared.units).sum() / n,
            "masked_fraction": prepared.masked_fraction(),
            "prediction_perplexity": _perplexity(logits.detach()),
        }
        if self.penalty_weight > 0:
            assert output.features is not None
            penalty = feature_penalty(output.features, prepared, counts=masked_frames.counts + others.counts)
            total = total + self.penalty_weight * penalty
            metrics["penalty"] = penalty / prepared.n_targets
        if everywhere:
            unmasked = functional.cross_entropy(
                self.logits(others.pick(output.x)), prepared.other_units, reduction="sum"
            )
            total = total + self.cfg.unmasked_weight * unmasked
            metrics["unmasked_loss"] = unmasked / max(1, len(prepared.other_units))
        return Loss(
            sum=total,
            n_targets=prepared.n_targets,
            metrics={name: value.detach() for name, value in metrics.items()},
            metrics_weight=len(prepared.units),
        )


def _perplexity(logits: Tensor) -> Tensor:
    """Return exp(entropy) of the mean prediction over frames: how many units the model makes use of."""
    mean = logits.softmax(dim=1).sum(dim=0) / max(1, len(logits))
    return torch.special.entr(mean).sum().exp()
