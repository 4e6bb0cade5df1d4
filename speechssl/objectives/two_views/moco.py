"""MoCo (He et al. 2020, arXiv 1911.05722): tell the key of the same item from a queue of earlier keys.

In: batches of waveforms. Out: InfoNCE (equation 1). The query q is the embedding of an item in one view. Its key k+ is
that of the other view by a momentum encoder, a moving average of encoder and head (equation 2) that has no gradient.
An item costs ``-log exp(q . k+ / t) / sum over k exp(q . k / t)``. k runs over k+, the K keys of the queue and, at the
level of frames, the keys of the other frames of the utterance. The head is that of MoCo v2 (arXiv 2003.04297).

Without keys of the own utterance nothing would tell its frames apart. SPIRAL (arXiv 2201.10207) takes these alone, and
also gives the momentum encoder no masks. After each update the keys of the whole step, in the order of its
micro-batches over all ranks, replace the oldest: the queue depends neither on ranks nor on accumulation. It begins with
random keys, and is in every checkpoint.
"""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.config.objectives import MocoConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.norm import frame_mask
from speechssl.models.teacher import Teacher, follow
from speechssl.objectives.base import Loss, Ranks
from speechssl.objectives.shared.distillation import FROZEN_TEACHER
from speechssl.objectives.shared.masked import empty_loss
from speechssl.objectives.two_views.views import TwoViews, ViewsPrepared, compared, summed

__all__ = ["Moco"]


class Moco(TwoViews):
    """The MoCo objective around an encoder.

    Raises
    ------
    ConfigError
        As `TwoViews`; or there is no queue, or no moving average.
    """

    title = "MoCo"
    together = False
    least = 1
    rules = (
        *TwoViews.rules,
        replace(
            FROZEN_TEACHER,
            message="{value:.0%} of the momentum encoder's weights have moved since the start: it does not follow. Set "
            "objective.momentum below 1",
        ),
    )
    queue: Tensor

    def __init__(self, encoder: SpeechEncoder, cfg: MocoConfig, *, seed: int) -> None:
        super().__init__(encoder, cfg, seed=seed)
        if cfg.queue < 1 or not 0 <= cfg.momentum <= 1:
            raise ConfigError(
                f"objective.queue = {cfg.queue}, objective.momentum = {cfg.momentum}: at least one key, and a decay "
                "between 0 and 1"
            )
        self.teacher = Teacher(encoder, without=("mask_embedding",))
        self.key_head = copy.deepcopy(self.head).requires_grad_(requires_grad=False)
        self.register_buffer("queue", functional.normalize(torch.randn(cfg.queue, cfg.final_dim), dim=1))
        self._keys: list[Tensor] = []
        """[N, E] keys of each micro-batch of this step."""

    def begin_step(self, step: int) -> bool:
        """Forget the keys of a step that gave no update."""
        self._keys.clear()
        return super().begin_step(step)

    def after_update(self, step: int, parallel: Ranks) -> None:
        """Move the momentum encoder (equation 2), and put the keys of the step into the queue."""
        del step
        self.teacher.follow(self.encoder, self.cfg.momentum)
        follow(self.key_head, self.head, self.cfg.momentum)
        keys = [rows for own in self._keys for rows in parallel.rows(own)]
        self.queue.copy_(torch.cat([self.queue, *keys])[-len(self.queue) :])
        self._keys.clear()

    def exported(self) -> dict[str, Tensor]:
        """Return both heads: a continued pretraining makes its momentum encoder from the encoder, and a new queue."""
        return {name: x for name, x in super().exported().items() if not name.startswith(("teacher.", "queue"))}

    @torch.no_grad()
    def keys(self, prepared: ViewsPrepared) -> Tensor:
        """Return the keys [G, W, E] of the other view."""
        return self.embed(prepared.other, self.teacher.encoder, self.key_head, None)

    def forward(self, prepared: ViewsPrepared) -> Loss:
        """Return InfoNCE (equation 1), summed over the items of the first view."""
        items, temperature = prepared.one.items, self.cfg.logit_temperature
        if prepared.n_targets == 0:
            if self.training:
                self._keys.append(self.queue[:0])
            return empty_loss(self.parameters())
        queries = self.embed(prepared.one, self.encoder, self.head, prepared.one.mask)
        keys = self.keys(prepared)
        if self.training:
            self._keys.append(items.gather(keys))
        with torch.autocast(queries.device.type, enabled=False):
            unused = ~frame_mask(items.counts, keys.shape[1])[:, None]
            own = items.gather((queries @ keys.mT).masked_fill(unused, -math.inf))
            embeddings = items.gather(queries)
            logits = torch.cat([own, embeddings @ self.queue.t()], dim=1) / temperature
            results = compared(logits, items.slots % keys.shape[1])
        loss = summed(results[0].sum(), embeddings, prepared, results)
        loss.metrics["teacher_moved"] = self.teacher.moved()
        return loss
