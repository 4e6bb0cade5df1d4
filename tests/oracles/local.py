"""The block-local encoder over a whole recording at once: every frame in memory, one dense attention mask a layer."""

import torch
from torch import Tensor

from speechssl.models.encoder import SpeechEncoder

__all__ = ["encode_whole"]


@torch.inference_mode()
def encode_whole(encoder: SpeechEncoder, wave: Tensor, block: int) -> Tensor:
    """Return [F, D] of wave [T]: frame f may look at frame g when their blocks are the same or neighbours.

    In a causal encoder, at the latest at itself.
    """
    frames = int(encoder.frames(len(wave)))
    place = torch.arange(frames) // block
    sees = (place[:, None] - place[None, :]).abs() <= 1
    if encoder.cfg.encoder.causal:
        sees = sees.tril()
    rows = []
    for b in range(int(place[-1]) + 1):  # each frame's features, normalised over the samples of three blocks
        first = max(0, b - 1) * block
        seen = encoder.features(wave[None, first * encoder.hop : (b + 2) * block * encoder.hop])[0]
        mine = torch.arange(frames)[place == b] - first
        rows.append(seen[mine])
    x = encoder.project(torch.cat(rows)[None])
    pre = encoder.cfg.encoder.norm == "pre"
    x = x if encoder.position is None else x + encoder.position(x)
    x = x if pre else encoder.norm(x)
    for layer in encoder.blocks:
        conformer = hasattr(layer, "convolution")
        x = x + 0.5 * layer.first(x) if conformer else x
        inner = layer.attention_norm(x) if pre or conformer else x
        heads = layer.attention.heads
        q, k, v = (part.view(frames, heads, -1).transpose(0, 1) for part in layer.attention.qkv(inner)[0].chunk(3, -1))
        bias = torch.zeros(()).masked_fill(~sees, float("-inf"))
        if encoder.relative_position is not None:
            places = torch.arange(frames)[None]
            relative = encoder.relative_position(places, places)
            if getattr(relative, "early", False):  # what queries and keys are projected from is rotated
                turned = relative(*2 * [inner.view(1, frames, heads, -1).transpose(1, 2)])
                weights, biases = layer.attention.qkv.weight.chunk(3), layer.attention.qkv.bias.chunk(3)
                q, k = (
                    (part[0].transpose(0, 1).flatten(1) @ weight.T + own).view(frames, heads, -1).transpose(0, 1)
                    for part, weight, own in zip(turned, weights, biases, strict=False)
                )
            q, k, bias = (part[0] for part in layer.attention.related(relative, inner, q[None], k[None], sees[None]))
            bias = bias if bias.is_floating_point() else torch.zeros(()).masked_fill(~sees, float("-inf"))
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + bias
        attended = layer.attention.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))[None]
        x = x + attended
        if conformer:  # its convolution reaches no further than a block
            x = x + layer.convolution(x, None)
            x = layer.norm(x + 0.5 * layer.last(x))
            continue
        x = x + layer.ffn(layer.ffn_norm(x)) if pre else layer.attention_norm(x)
        x = x if pre else layer.ffn_norm(x + layer.ffn(x))
    return (encoder.norm(x) if pre else x)[0]
