"""The encoder over a recording of any length, block by block; each block sees its two neighbours.

In: samples of one recording in blocks of equal length (the last may be shorter). Out: encoder frames, block by block, a
few blocks later. Memory does not grow, and only the stem is computed more than once. Three operations depend on other
frames: the statistics of normalisation, the positional convolution, and the attention of each layer. Each of them sees
the block itself, the one before and the one after. So there are no seams, context adds up over layers, and a layer sees
no more than in training. A recording of one or two blocks has the same frames as in one ordinary pass. A causal
encoder sees the block itself and the one before.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.models.conformer import ConformerBlock
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.transformer import Block, not_after

__all__ = ["encode_locally", "least_block", "neighbours"]

T = TypeVar("T")
Heads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What attention is added to and its input, [1, F, D], and its queries, keys and values [1, H, F, D / H]."""
Layer = Block | ConformerBlock


def neighbours(items: Iterable[T]) -> Iterator[tuple[T | None, T, T | None]]:
    """Yield each item with the one before and the one after it; None at the ends."""
    before: T | None = None
    current: T | None = None
    for item in items:
        if current is not None:
            yield before, current, item
        before, current = current, item
    if current is not None:
        yield before, current, None


def least_block(encoder: SpeechEncoder) -> int:
    """Return how many frames a block must have: as many as a frame sees in the stem or in one convolution."""
    convolutions = [block.convolution for block in encoder.blocks if isinstance(block, ConformerBlock)]
    reaches = [each.reach for each in (encoder.position, *convolutions) if each is not None]
    return max(-(-encoder.frontend.receptive // encoder.hop), *(max(reach) for reach in reaches), 0)


def encode_locally(encoder: SpeechEncoder, waves: Iterable[Tensor], block: int) -> Iterator[Tensor]:
    """Yield the last layer's frames [F, D] of one recording, float32, ``block`` frames at a time.

    Parameters
    ----------
    encoder
        In evaluation mode; the result lags ``layers + 2`` blocks behind ``waves``, with Conformer blocks
        ``2 * layers + 2``.
    waves
        [block * hop] samples each, on the encoder's device; the last one may be shorter.
    block
        Frames; at least `least_block`, so that one neighbour is enough.

    Raises
    ------
    ValueError
        The block is shorter than that, or one of ``waves`` has another size.
    """
    least = least_block(encoder)
    if block < least:
        raise ValueError(f"a block of {block} frames is too short for this model: it needs {least}")
    frames = _positioned(encoder, _features(encoder, waves, block))
    for number, layer in enumerate(encoder.blocks, 1):
        frames = _attended(encoder, cast(Layer, layer), frames)
        if isinstance(layer, ConformerBlock):
            frames = _convolved(layer, frames)
        frames = _closed(cast(Layer, layer), frames)
        if encoder.after_block is not None:
            frames = map(partial(encoder.after_block, number), frames)
    for x in frames:
        yield (encoder.norm(x) if encoder.cfg.encoder.norm == "pre" else x)[0]


def _features(encoder: SpeechEncoder, waves: Iterable[Tensor], block: int) -> Iterator[Tensor]:
    """Yield projected features [1, F, D] of each block, normalised over the samples of three."""
    overhang = encoder.frontend.receptive - encoder.hop  # samples of the next block that the last frames see
    for before, wave, after in neighbours(waves):
        if len(wave) > block * encoder.hop or (after is not None and len(wave) < block * encoder.hop):
            raise ValueError(f"expected blocks of {block * encoder.hop} samples, got {len(wave)}")
        start = 0 if before is None else block
        end = start + min(block, int(encoder.frames(len(wave) + (0 if after is None else min(overhang, len(after))))))
        if end <= start:
            return  # the end of the recording is shorter than one frame
        around = torch.cat([part for part in (before, wave, after) if part is not None])
        yield encoder.project(encoder.features(around[None])[:, start:end])


def _positioned(encoder: SpeechEncoder, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the input of the first layer: features and their positional embedding."""
    position = encoder.position
    for before, current, after in neighbours(blocks):
        x = current
        if position is not None:
            around, first = _around(before, current, after, position.reach)
            x = x + position(around)[:, first : first + x.shape[1]]
        yield x if encoder.cfg.encoder.norm == "pre" else encoder.norm(x)


def _attended(encoder: SpeechEncoder, layer: Layer, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the sum with a layer's attention: each block's queries over the keys of three."""
    for before, current, after in neighbours(_heads(encoder, layer, blocks)):
        x, inner, q, _, _ = current
        causal = layer.attention.causal
        views = [view for view in (before, current, None if causal else after) if view is not None]
        keys, values = (torch.cat([view[part] for view in views], dim=2) for part in (3, 4))
        frames, count = keys.shape[2], q.shape[2]
        mask = not_after(frames, None, q.device)[:, :, frames - count :] if causal else None
        if encoder.relative_position is not None:
            places = torch.arange(frames, device=q.device)[None]
            first = 0 if before is None else before[0].shape[1]
            relative = encoder.relative_position(places[:, first : first + count], places)
            q, keys, mask = layer.attention.related(relative, inner, q, keys, mask)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        yield x + layer.attention.out(mixed.transpose(1, 2).flatten(2))


def _convolved(layer: ConformerBlock, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the sum with a layer's convolution."""
    for before, x, after in neighbours(blocks):
        around, first = _around(before, x, after, layer.convolution.reach)
        yield x + layer.convolution(around, None)[:, first : first + x.shape[1]]


def _closed(layer: Layer, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield a layer's output from the sum that its attention is in."""
    for x in blocks:
        yield layer.joined(*layer.closing(x))


def _around(before: Tensor | None, x: Tensor, after: Tensor | None, reach: tuple[int, int]) -> tuple[Tensor, int]:
    """Return x [1, F, D] with what a convolution sees before and after it, and where it begins."""
    left = x[:, :0] if before is None else before[:, before.shape[1] - reach[0] :]
    right = x[:, :0] if after is None else after[:, : reach[1]]
    return torch.cat([left, x, right], dim=1), left.shape[1]


def _heads(encoder: SpeechEncoder, layer: Layer, blocks: Iterable[Tensor]) -> Iterator[Heads]:
    early = encoder.cfg.encoder.relative_position == "rotary_input"  # depends on the frame, not on distances alone
    start = 0
    for given in blocks:
        x, inner = layer.opened(given)
        places = torch.arange(start, start + x.shape[1], device=x.device)[None]
        start += x.shape[1]
        relative = encoder.relative_position(places, places) if early and encoder.relative_position else None
        yield x, inner, *layer.attention.projected(inner, None, relative)
