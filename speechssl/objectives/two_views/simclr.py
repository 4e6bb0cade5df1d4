"""SimCLR (Chen et al. 2020, arXiv 2002.05709): tell the other view of an item from all other items in both views.

In: batches of waveforms. Out: NT-Xent (equation 1). z and z' [N, E] are the embeddings of N items in two views, by the
encoder and a projection head. With ``sim`` the cosine and t the temperature, an item costs
``-log exp(sim(z[i], z'[i]) / t) / (sum over j exp(sim(z[i], z'[j]) / t) + sum over j != i exp(sim(z[i], z[j]) / t))``,
and as much again with z and z' exchanged; the loss is half of the two.

Items are the frames of an utterance that both views hold, or, at the level of utterances, the utterances of a
micro-batch: their mean over frames, as COLA (Saeed et al. 2021, arXiv 2010.10915) compares crops of one recording.

Which utterances are told apart is a matter of the micro-batch, as CPC's negatives across utterances are: its size
matters, accumulation and the number of ranks do not. With ``gather`` they are those of all ranks' micro-batches at the
same place of the step: two ranks with halves of a micro-batch compute what one rank computes with the whole.
"""

import math

import torch
from torch import Tensor

from speechssl.config.objectives import SimClrConfig
from speechssl.core.errors import ConfigError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.norm import frame_mask
from speechssl.objectives.base import Loss
from speechssl.objectives.shared.masked import empty_loss
from speechssl.objectives.two_views.views import TwoViews, ViewsPrepared, compared, summed

__all__ = ["SimClr", "nt_xent_logits"]


def nt_xent_logits(one: Tensor, other: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return the logits [G, W, 2 W] of the items of one view: the other view's items, then its own.

    Parameters
    ----------
    one, other
        [G, W, E] embeddings of G groups.
    counts
        [G] items of each group; an item itself and unused places are no candidates.
    """
    width = one.shape[1]
    unused = ~frame_mask(counts, width)[:, None]
    itself = torch.eye(width, dtype=torch.bool, device=one.device)
    theirs = (one @ other.mT).masked_fill(unused, -math.inf)
    own = (one @ one.mT).masked_fill(unused | itself, -math.inf)
    return torch.cat([theirs, own], dim=2) / temperature


class SimClr(TwoViews):
    """The SimCLR objective around an encoder.

    Raises
    ------
    ConfigError
        As `TwoViews`; or frames would be gathered, which are told from those of their own utterance.
    """

    title = "SimCLR"
    together = True
    least = 2

    def __init__(self, encoder: SpeechEncoder, cfg: SimClrConfig, *, seed: int) -> None:
        super().__init__(encoder, cfg, seed=seed)
        if cfg.gather and cfg.level == "frame":
            raise ConfigError('objective.gather is for utterances: set objective.level = "utterance" with it')

    def forward(self, prepared: ViewsPrepared) -> Loss:
        """Return NT-Xent (equation 1), a sum over pairs of the mean of both directions."""
        cfg, n, items = self.cfg, prepared.n_targets, prepared.one.items
        gather = self.ranks if cfg.gather and self.training else None
        if n == 0:
            if gather is not None:
                gather.rows(self.head.out.weight.new_zeros(0, 2, cfg.final_dim))  # the other ranks wait for it
            return empty_loss(self.parameters())
        views = [self.embed(view, self.encoder, self.head, view.mask) for view in (prepared.one, prepared.other)]
        embeddings = torch.cat([items.gather(view) for view in views])
        counts, slots, first = items.counts, items.slots, 0
        if gather is not None:
            pairs = torch.stack([view[0] for view in views], dim=1)  # [N, 2, E]
            ranks = gather.rows(pairs)
            first = sum(len(rows) for rows in ranks[: gather.rank])
            ranks[gather.rank] = pairs  # with its gradient
            pairs = torch.cat(ranks)
            views = [pairs[None, :, view] for view in range(2)]
            slots = torch.arange(len(pairs), device=pairs.device)
            counts = slots.new_full((1,), len(pairs))
        with torch.autocast(embeddings.device.type, enabled=False):
            both = [nt_xent_logits(a, b, counts, cfg.logit_temperature) for a, b in (views, views[::-1])]
            logits = torch.stack([each.flatten(0, 1).index_select(0, slots) for each in both])  # [2, N, 2 W]
            positive = (slots % views[0].shape[1]).expand(2, -1)
            results = compared(logits.flatten(0, 1), positive.flatten())
        everything = results[0].sum() / 2
        losses, right, chance = (each.view(2, -1)[:, first : first + n] for each in results)
        # An embedding counts in the losses of all ranks, and only its own rank has its gradient.
        total = everything + (losses.sum() / 2 - everything).detach()
        return summed(total, embeddings, prepared, (losses, right, chance))
