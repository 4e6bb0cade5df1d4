"""The encoder that every objective shares: stem, feature projection, positional convolution, transformer.

In: wave [B, T] at 16 kHz, lengths [B] (None: nothing is padded), a mask drawn by the objective. Out: EncoderOutput.

Layer outputs follow one convention everywhere: ``layers[0]`` is the input of the first block. ``layers[i]`` is the
output of block i, after its residual sums and, with post-norm, its last norm. The final norm of a pre-norm encoder is
not applied. This is ``hidden_states`` of transformers 5 and, shifted by one, ``extract_features`` of torchaudio;
fairseq's layer results differ.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechssl.config import ModelConfig
from speechssl.core.errors import ConfigError
from speechssl.models.conformer import ConformerBlock
from speechssl.models.frontend import Samples, build_frontend
from speechssl.models.kernels.choice import is_plain
from speechssl.models.kernels.dropout import Dropout
from speechssl.models.logmel import LogMelStem, MelAugmentation
from speechssl.models.norm import LayerNorm, at_least_float32, frame_mask, normalise_waveform
from speechssl.models.position import build_position
from speechssl.models.relative_position import Relative, build_relative_position
from speechssl.models.transformer import Block, linear, take_frames

__all__ = ["EncoderOutput", "SpeechEncoder"]


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder returns. Frames after a row's ``frame_lengths`` are undefined in ``x`` and ``layers``."""

    x: Tensor
    """[B, F, D] float32: the last block's output (after the final norm of a pre-norm encoder); [B, W, D] with
    ``positions``."""
    layers: tuple[Tensor, ...] = ()
    """Input of the first block, then the output of each block; empty unless ``layers`` is set."""
    branches: tuple[Tensor, ...] = ()
    """Feed-forward branch of each block, before its residual sum; empty unless ``branches`` is set."""
    features: Tensor | None = None
    """[B, F, C]: output of the stem before layer norm, unmasked; zero on padding."""
    frame_lengths: Tensor | None = None
    """[B] valid frames; None when nothing is padded."""


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


def _refuse_statistics(cfg: ModelConfig) -> None:
    """Raise ConfigError where features depend on the whole utterance: a causal encoder must not see what follows."""
    stem = cfg.frontend
    if cfg.normalize:
        wrong = "model.normalize = true takes them over the whole waveform; set it to false"
    elif stem.kind == "waveform" and stem.norm == "group":
        wrong = 'model.frontend.norm = "group" takes them over all frames; set it to "layer"'
    elif stem.kind == "logmel" and stem.statistics == "utterance":
        wrong = 'model.frontend.statistics = "utterance" takes them over all frames; set it to "past"'
    else:
        return
    raise ConfigError(f"model.encoder.causal = true needs features without statistics of what follows: {wrong}")


class SpeechEncoder(nn.Module):
    """wav2vec 2.0 / HuBERT encoder (wav2vec 2.0, section 2).

    Raises
    ------
    ConfigError
        Sizes that do not fit together (``dim`` and ``heads``, ``dim`` and ``pos_groups``, an empty stem); a causal
        encoder with statistics of whole utterances.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        encoder = cfg.encoder
        if encoder.causal:
            _refuse_statistics(cfg)
        self.cfg = cfg
        self.dim = encoder.dim
        self.frontend = build_frontend(cfg.frontend)
        self.hop = self.frontend.hop
        self.feature_norm = LayerNorm(self.frontend.dim)
        self.projection = linear(self.frontend.dim, encoder.dim)
        self.mask_embedding = nn.Parameter(torch.empty(encoder.dim).uniform_())
        self.position = build_position(encoder)
        self.norm = LayerNorm(encoder.dim)
        self.dropout = Dropout(encoder.dropout)
        self.input_dropout = Dropout(encoder.input_dropout)
        block = ConformerBlock if encoder.block == "conformer" else Block
        self.blocks = nn.ModuleList(block(encoder) for _ in range(encoder.layers))
        self.relative_position = build_relative_position(encoder)
        self.recompute = False
        """Keep only the input of each block in training, and run the block again in the backward pass: less memory, a
        third more time, the same numbers."""
        self.after_block: Callable[[int, Tensor], Tensor] | None = None
        """Maps the number of a block, from 1, and its output [..., D] to the input of the next block. A recogniser that
        conditions the encoder on its own output sets it."""
        if cfg.frontend.grad_scale == 0:
            self.frontend.requires_grad_(requires_grad=False)

    def frames(self, samples: Samples) -> Samples:
        """Return the number of encoder frames of ``samples`` samples."""
        return self.frontend.frames(samples)

    def features(
        self, wave: Tensor, lengths: Tensor | None = None, augmentation: MelAugmentation | None = None
    ) -> Tensor:
        """Return the stem's output [B, F, C] before layer norm, zero on padding.

        The gradient that flows back through it, the feature penalty's included, is scaled by ``frontend.grad_scale``.
        ``augmentation`` is for the log-mel stem alone.
        """
        if self.cfg.normalize:
            wave = normalise_waveform(wave, lengths)
        if augmentation is None:
            features = self.frontend(wave, lengths)
        else:
            features = cast(LogMelStem, self.frontend)(wave, lengths, augmentation)
        scale = self.cfg.frontend.grad_scale
        if scale == 1 or not features.requires_grad:
            return features
        return cast(Tensor, _ScaleGradient.apply(features, scale))

    def normalise_features(self, features: Tensor) -> Tensor:
        """Return the layer-normed features [..., C] float32: what the quantiser of wav2vec 2.0 sees."""
        return self.feature_norm(at_least_float32(features))

    def project(self, features: Tensor) -> Tensor:
        """Return layer norm and projection of features [B, F, C] as [B, F, D], float32."""
        return at_least_float32(self.projection(self.normalise_features(features)))

    def hide(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return projected features x [B, F, D] with the mask embedding where ``mask`` [B, F] is true."""
        return torch.where(mask[..., None], self.mask_embedding.to(x.dtype), x)

    def context(
        self,
        x: Tensor,
        frame_lengths: Tensor | None = None,
        *,
        layers: bool = False,
        branches: bool = False,
        stop_at: int | None = None,
        positions: Tensor | None = None,
        visible: tuple[Tensor, Tensor] | None = None,
    ) -> EncoderOutput:
        """Run positional convolution and blocks.

        Parameters
        ----------
        x
            [B, F, D] projected (and masked) features.
        frame_lengths
            [B] valid frames, or None when nothing is padded: then no mask is built.
        layers
            Also return the layer outputs, numbered as the module says.
        branches
            Also return the feed-forward branch of each block. All blocks run then, without layer drop.
        stop_at
            Run this many blocks only, and return ``layers[stop_at]`` as ``x``, without the final norm of a pre-norm
            encoder.
        positions
            [B, W] int64: the frames whose last output is wanted. The last block then computes its queries and its
            feed-forward for these alone (not together with ``layers``, ``branches`` or ``visible``).
        visible
            [B, V] int64 and [B] int64: the frames that the blocks see, from the left and padded, and their number in
            each row. The positional convolution sees all frames. The output, and each layer, has these V frames.
        """
        if positions is not None and (layers or branches or visible is not None):
            raise ValueError("layer outputs are computed for all frames: leave positions out")
        blocks = [cast(Block | ConformerBlock, block) for block in self.blocks]
        if stop_at is not None:
            if not 0 <= stop_at <= len(blocks):
                raise ValueError(f"no layer {stop_at}: the encoder has layers 0 to {len(blocks)}")
            blocks = blocks[:stop_at]
        key_mask = valid = None
        if frame_lengths is not None:
            # A row without a single frame attends to its first position: a softmax over nothing would be NaN.
            valid = frame_mask(frame_lengths.clamp(min=1), x.shape[1])
            x = x.masked_fill(~valid[..., None], 0.0)
            key_mask = None if self.cfg.encoder.causal else valid[:, None, None, :]
        pre = self.cfg.encoder.norm == "pre"
        if self.position is not None:
            x = x + self.position(x, valid)
        if visible is not None:
            x = take_frames(x, visible[0])
            key_mask = frame_mask(visible[1].clamp(min=1), x.shape[1])[:, None, None, :]
        x = self.dropout(x if pre else self.norm(x))
        outputs, added = [x], []
        last = None if is_plain() else positions
        relative = None
        if self.relative_position is not None:
            frames = torch.arange(x.shape[1], device=x.device)[None] if visible is None else visible[0]
            relative = cast(Relative, self.relative_position(frames, frames))
        for number, block in enumerate(blocks, 1):
            if branches:
                x, branch = block.parts(x, key_mask, relative=relative)
                x = block.joined(x, branch)
                added.append(branch)
            else:
                x = self._maybe_dropped(block, x, key_mask, last if number == len(blocks) else None, relative)
            if layers:
                outputs.append(x)
            if self.after_block is not None:
                x = self.after_block(number, x)
        if last is None or not blocks:
            x = take_frames(x, positions)
        if pre and stop_at is None:
            x = self.norm(x)
        frame_lengths = frame_lengths if visible is None else visible[1]
        return EncoderOutput(x, tuple(outputs) if layers else (), tuple(added), frame_lengths=frame_lengths)

    def _maybe_dropped(
        self,
        block: Block | ConformerBlock,
        x: Tensor,
        key_mask: Tensor | None,
        positions: Tensor | None,
        relative: Relative | None,
    ) -> Tensor:
        """Run a block, or in training with probability ``layer_drop`` pass its input on.

        The decision is drawn on the CPU, so that nothing waits for the device. The parameters of a dropped block take
        part with a gradient of zero: ranks may decide differently, and DDP waits for all of them. A compiled graph has
        no branches: there the block always runs.
        """
        rate = self.cfg.encoder.layer_drop if self.training else 0.0
        compiling = torch.compiler.is_compiling()
        if rate > 0 and not compiling and torch.rand(()).item() < rate:
            unused = [*block.parameters(), *([relative] if isinstance(relative, Tensor) else [])]
            return take_frames(x, positions) + 0.0 * sum(p.sum() for p in unused if p.requires_grad)
        if self.recompute and torch.is_grad_enabled():
            y = cast(Tensor, checkpoint(block, x, key_mask, positions, relative, use_reentrant=False))
        else:
            y = block(x, key_mask, positions, relative)
        if rate > 0 and compiling:
            y = torch.where(torch.rand((), device=x.device) < rate, take_frames(x, positions), y)
        return y

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
        augmentation: MelAugmentation | None = None,
        layers: bool = False,
        stop_at: int | None = None,
        positions: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Parameters
        ----------
        wave
            [B, T] float32 samples at 16 kHz, zero after each row's length.
        lengths
            [B] valid samples; None when nothing is padded.
        mask
            [B, F] bool: frames whose projection is replaced by the mask embedding.
        channel_mask
            [B, D] bool: channels set to 0 in every frame (fine-tuning).
        feature_mask
            [B, C] bool: outputs of the stem set to 0 in every frame, before layer norm. ``features`` keeps them.
        augmentation
            Changes the log-mel of the log-mel stem (SpecAugment).
        layers, stop_at, positions
            As in :meth:`context`.

        Raises
        ------
        ValueError
            The wave is not two-dimensional, or shorter than one frame.
        """
        features = self.features(wave, lengths, augmentation)
        frame_lengths = None if lengths is None else self.frames(lengths)
        shown = features if feature_mask is None else features.masked_fill(feature_mask[:, None, :], 0.0)
        x = self.input_dropout(self.project(shown))
        if mask is not None:
            x = self.hide(x, mask)
        elif self.training and self.mask_embedding.requires_grad:
            x = x + 0.0 * self.mask_embedding.sum()  # DDP waits for a gradient of every trainable parameter
        if channel_mask is not None:
            x = x.masked_fill(channel_mask[:, None, :], 0.0)
        output = self.context(x, frame_lengths, layers=layers, stop_at=stop_at, positions=positions)
        return replace(output, features=features)
