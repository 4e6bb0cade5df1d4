"""A recogniser frozen for inference on a CPU: utterances follow one another without padding.

In: a ``CtcModel`` and waves of any lengths. Out: log-probabilities of each. The frames of several utterances lie in one
matrix [N, D] for norms, projections and feed-forward layers. The stem, the positional convolution and attention see one
utterance at a time. So nothing is computed for padding, there are no masks, and the working set stays in the
processor's cache. The tests compare it with the padded batch of ``frame_log_probs``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.asr.ctc import CtcModel
from speechssl.asr.engine.onednn import Dense, available
from speechssl.asr.engine.packed_stem import PackedStem
from speechssl.data.batches.batch import full_scale
from speechssl.models.kernels.choice import is_plain
from speechssl.models.kernels.fft_conv import FixedConvolution
from speechssl.models.kernels.linear import widened
from speechssl.models.norm import LayerNorm, normalise_waveform
from speechssl.models.position import PositionalConvolution
from speechssl.models.transformer import Block
from speechssl.models.waveform import WaveformStem

__all__ = ["PackedRecogniser", "can_pack"]

PACK_FRAMES = 2_000
"""Most frames in one matrix, unless one utterance has more: enough that reading the weights costs little."""
SCORES = 1 << 20
"""Attention weights in bfloat16 computed at a time: 2 MB, which fits a core's cache. All heads of 13 seconds at
once take two and a half times as long."""


def can_pack(model: CtcModel) -> bool:
    """Say whether ``PackedRecogniser`` takes this model, here."""
    weight, known = model.head.weight, model.encoder.cfg.encoder.is_standard
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and known and available() and not is_plain()


class PackedRecogniser:
    """A model with copies of its projections and convolutions in the layout of oneDNN's products.

    Make another when the model's weights have changed. There is no dropout, whatever the model's mode. With ``bf16``
    products and attention weights are in bfloat16; the residual stream, norms and the output layer stay in float32.
    """

    @torch.inference_mode()
    def __init__(self, model: CtcModel, *, bf16: bool = False) -> None:
        encoder = model.encoder
        self.encoder = encoder
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        stem = encoder.frontend
        self.stem = PackedStem(stem, self.dtype) if isinstance(stem, WaveformStem) else None
        self.projection = Dense(encoder.projection.weight, encoder.projection.bias, self.dtype)
        position = encoder.position
        assert isinstance(position, PositionalConvolution)
        self.position_bias = position.bias
        self.position = FixedConvolution(position.weight(), position.groups, self.dtype, causal=position.causal)
        self.blocks = [_PackedBlock(block, self.dtype) for block in encoder.blocks if isinstance(block, Block)]
        self.head = Dense(model.head.weight, model.head.bias, torch.float32)

    @torch.inference_mode()
    def __call__(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Return log-probabilities [F, V] float32 of each wave [T], int16 or float32 with full scale 1.

        F is 0 for a wave shorter than a frame sees.
        """
        counts = [int(self.encoder.frames(len(wave))) for wave in waves]
        found: list[Tensor] = []
        for pack in _packs(counts):
            found += self._pack([waves[i] for i in pack], [counts[i] for i in pack])
        return found

    def _pack(self, waves: Sequence[Tensor], counts: list[int]) -> list[Tensor]:
        heard = [full_scale(wave) for wave, count in zip(waves, counts, strict=True) if count]
        if not heard:
            return [torch.zeros(0, self.head.bias.shape[0]) for _ in waves]
        frames = [count for count in counts if count]
        encoder = self.encoder
        x = encoder.normalise_features(torch.cat([self._features(wave) for wave in heard]))
        x = self.projection(x.to(self.dtype)).float()
        x = x + torch.cat([self._positioned(part) for part in x.split(frames)])
        pre = encoder.cfg.encoder.norm == "pre"
        if not pre:
            x = encoder.norm(x)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, frames)
            if encoder.after_block is not None:
                x = encoder.after_block(number, x)
        if pre:
            x = encoder.norm(x)
        return list(F.log_softmax(self.head(x), dim=-1).split(counts))

    def _features(self, wave: Tensor) -> Tensor:
        """Return the stem's features [F, C] of one utterance."""
        if self.stem is None:
            return self.encoder.features(wave[None])[0]
        return self.stem(normalise_waveform(wave[None], None)[0] if self.encoder.cfg.normalize else wave)

    def _positioned(self, x: Tensor) -> Tensor:
        """Return the positional embedding of one utterance [F, D]."""
        return F.gelu(self.position(x[None])[0] + self.position_bias)


def _packs(counts: Sequence[int]) -> list[list[int]]:
    """Return the numbers of the utterances of each pack, in order."""
    packs: list[list[int]] = []
    held = 0
    for index, count in enumerate(counts):
        if not packs or held + count > PACK_FRAMES:
            packs.append([])
            held = 0
        packs[-1].append(index)
        held += count
    return packs


class _PackedBlock:
    """A transformer block over packed frames."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention = block.attention
        self.dtype = dtype
        self.pre = block.pre
        self.heads = attention.heads
        self.causal = attention.causal
        weight, bias = attention.qkv.weight.clone(), attention.qkv.bias.clone()
        dim = weight.shape[1]
        scale = (dim // self.heads) ** -0.5  # scale the queries once instead of all scores
        weight[:dim] *= scale
        bias[:dim] *= scale
        self.qkv = Dense(weight, bias, dtype)
        self.out = Dense(attention.out.weight, attention.out.bias, dtype)
        self.up = Dense(block.up.weight, block.up.bias, dtype, gelu=True)
        self.down = Dense(block.down.weight, block.down.bias, dtype)
        self.attention_norm: LayerNorm = block.attention_norm
        self.ffn_norm: LayerNorm = block.ffn_norm

    def __call__(self, x: Tensor, frames: list[int]) -> Tensor:
        """Map [N, D] float32 to the same; ``frames`` of each utterance add up to N."""
        if self.pre:
            x = x + self._attention(self.attention_norm(x), frames)
            return x + self._ffn(self.ffn_norm(x))
        x = self.attention_norm(x + self._attention(x, frames))
        return self.ffn_norm(x + self._ffn(x))

    def _attention(self, x: Tensor, frames: list[int]) -> Tensor:
        parts = self.qkv(x.to(self.dtype)).split(frames)
        return self.out(torch.cat([self._mixed(part) for part in parts]))

    def _mixed(self, qkv: Tensor) -> Tensor:
        """Return one utterance's values [F, D], mixed by attention."""
        count = len(qkv)
        q, k, v = qkv.view(count, 3, self.heads, -1).permute(1, 2, 0, 3)
        if self.dtype == torch.bfloat16:
            y = (_wide_attention if widened(q) else _tiled_attention)(q, k, v, causal=self.causal)
        else:
            y = F.scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0, is_causal=self.causal)[0]
        return y.transpose(0, 1).reshape(count, -1)

    def _ffn(self, x: Tensor) -> Tensor:
        return self.down(self.up(x.to(self.dtype)))


def _wide_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Return ``softmax(q k^T) v`` for bfloat16 [H, F, C] on a processor without bfloat16."""
    wide = F.scaled_dot_product_attention(
        q[None].float(), k[None].float(), v[None].float(), scale=1.0, is_causal=causal
    )
    return wide[0].to(q.dtype)


def _tiled_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Return ``softmax(q k^T) v`` for [H, F, C], a few heads at a time, or a part of one head's queries."""
    heads, count, _ = q.shape
    y = torch.empty_like(v)
    together = max(1, SCORES // count**2)
    rows = min(count, max(1, SCORES // count))
    for head in range(0, heads, together):
        part = slice(head, head + together)
        keys = k[part].transpose(1, 2)
        for row in range(0, count, rows):
            scores = torch.bmm(q[part, row : row + rows], keys)
            if causal:
                scores.masked_fill_(torch.ones(scores.shape[1:], dtype=torch.bool).triu(row + 1), -math.inf)
            torch.bmm(torch.softmax(scores, dim=-1), v[part], out=y[part, row : row + rows])
    return y
