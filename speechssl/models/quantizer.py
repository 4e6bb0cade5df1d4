"""Gumbel product quantiser of wav2vec 2.0: features in, code vectors and codebook statistics out.

In: [N, C] features of the frames to quantise (only masked frames need it). Out: QuantizerOutput. Everything runs in
float32, under autocast too: a softmax over hundreds of bfloat16 logits cannot distinguish similar codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.core.errors import ConfigError
from speechssl.models.norm import at_least_float32

__all__ = ["GumbelQuantizer", "QuantizerOutput"]


@dataclass(frozen=True)
class QuantizerOutput:
    """Quantised frames and how the codebooks were used."""

    codes_vectors: Tensor
    """[N, D] the chosen entries of all groups, joined."""
    indices: Tensor
    """[N, G] int64: the entry chosen in each group."""
    probs_mean: Tensor
    """[G, V] softmax probabilities (no noise, temperature 1) averaged over the N frames; differentiable, for the
    diversity loss."""
    perplexity: Tensor
    """[G] exp(entropy(probs_mean)), between 1 and V; differentiable."""
    code_perplexity: Tensor
    """[G] the same for the share of frames that chose each entry; detached."""


def _perplexity(probs: Tensor) -> Tensor:
    """Return exp of the entropy of [G, V] distributions (0 log 0 = 0, with a finite gradient there)."""
    return (-probs * probs.clamp(min=torch.finfo(probs.dtype).tiny).log()).sum(-1).exp()


class GumbelQuantizer(nn.Module):
    """Product quantisation with straight-through Gumbel softmax (wav2vec 2.0, section 2, equation 1).

    Parameters
    ----------
    dim_in
        Channels C of the features.
    groups
        Codebooks G.
    entries
        Entries V of each codebook.
    dim_out
        Size D of a quantised vector; each group gives D / G of it.

    Raises
    ------
    ConfigError
        ``dim_out`` is not a multiple of ``groups``, or a size is not positive.
    """

    def __init__(self, dim_in: int, groups: int, entries: int, dim_out: int) -> None:
        super().__init__()
        if groups < 1 or entries < 1 or dim_out < 1 or dim_out % groups:
            raise ConfigError(
                f"quantiser: {dim_out} dimensions cannot be split into {groups} groups of {entries} entries; "
                "make objective.final_dim a multiple of objective.groups"
            )
        self.groups = groups
        self.entries = entries
        self.weight_proj = nn.Linear(dim_in, groups * entries)
        nn.init.normal_(self.weight_proj.weight, std=1.0)
        nn.init.zeros_(self.weight_proj.bias)
        self.codebooks = nn.Parameter(torch.empty(groups, entries, dim_out // groups).uniform_())

    def forward(self, x: Tensor, temperature: float | Tensor = 1.0, *, noise: Tensor | None = None) -> QuantizerOutput:
        """Quantise frames.

        In training the entry is drawn: argmax of (logits + noise) / temperature, with the gradient of the softmax of
        the same (straight-through). In evaluation it is the argmax of the logits.

        Parameters
        ----------
        x
            [N, C] features; N may be 0.
        temperature
            Softmax temperature of the gradient path; training only.
        noise
            [N, G, V] Gumbel noise instead of a fresh draw; training only.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = self.weight_proj(at_least_float32(x)).view(-1, self.groups, self.entries)
            probs = logits.softmax(-1)
            if self.training:
                if noise is None:
                    noise = -torch.empty_like(logits).exponential_().log()
                soft = ((logits + noise) / temperature).softmax(-1)
                indices = soft.argmax(-1)
                chosen = nn.functional.one_hot(indices, self.entries).to(soft.dtype)
                # The forward value is exactly one-hot: soft - soft.detach() is exactly zero.
                weights = chosen + (soft - soft.detach())
                vectors = torch.einsum("ngv,gvd->ngd", weights, self.codebooks)
            else:
                indices = logits.argmax(-1)
                chosen = nn.functional.one_hot(indices, self.entries).to(logits.dtype)
                vectors = self.codebooks[torch.arange(self.groups, device=x.device), indices]
            frames = max(x.shape[0], 1)
            probs_mean = probs.sum(0) / frames
            usage = chosen.sum(0) / frames
            return QuantizerOutput(
                codes_vectors=vectors.flatten(1),
                indices=indices,
                probs_mean=probs_mean,
                perplexity=_perplexity(probs_mean),
                code_perplexity=_perplexity(usage.detach()),
            )
