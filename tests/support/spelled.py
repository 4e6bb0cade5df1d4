"""Log-probabilities made by hand: what a recogniser would say of a text, with noise."""

import torch

from speechssl.asr.tokens import Tokens
from speechssl.config import TokensConfig

__all__ = ["peaky", "random_log_probs", "tokens_of"]


def tokens_of(*texts, **settings):
    return Tokens.build(texts, TokensConfig(**settings))[0]


def peaky(tokens, text, *, noise=0.0, seed=0):
    """Log-probabilities that spell a text, a blank after each label."""
    ids = [index for label in tokens.encode(text) for index in (label, 0)]
    logits = torch.full((len(ids), tokens.size), 0.0)
    logits[torch.arange(len(ids)), torch.tensor(ids)] = 8.0
    generator = torch.Generator().manual_seed(seed)
    return (logits + noise * torch.randn(logits.shape, generator=generator)).log_softmax(-1)


def random_log_probs(frames, tokens, seed, *, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, tokens.size, generator=generator).mul(scale).log_softmax(-1)
