"""Grouped convolution over frames through the frequency domain: the positional embedding's, 128 taps wide.

In: channels-last frames and a kernel of K taps. Out: what ``F.conv1d`` gives with ``K // 2`` zeros before each
utterance, or with ``K - 1`` for a causal convolution, whose outputs see no later frame. Overlap-save (Oppenheim and
Schafer, Discrete-Time Signal Processing, section 8.7): frames are taken in blocks of 2K, each of which gives K + 1
outputs. The Fourier transforms of blocks and kernel are products with tables of cosines and sines, in float32. Between
them each frequency is one small complex product per group, in bfloat16 under autocast where the device computes in it.
For BASE and 20 seconds of speech that is 8 GFLOP in place of 28, forward and backward. cuDNN has no fast kernel for
such a convolution: on an H200 it takes 60 of the 83 ms of a step of BASE.

The convolution is linear in the frames and in the kernel: the backward pass is the same products, transposed.
"""

from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.models.kernels.linear import product, widened

__all__ = ["FixedConvolution", "convolve_groups"]


class _Form(NamedTuple):
    """Taps K, groups, and the zeros before each utterance."""

    taps: int
    groups: int
    before: int

    @classmethod
    def of(cls, weight: Tensor, groups: int, *, causal: bool) -> Self:
        """Return the form of a kernel [D, D / groups, K]."""
        taps = weight.shape[2]
        return cls(taps, groups, taps - 1 if causal else taps // 2)


class _Spectra:
    """Transforms between frames and the spectra of their blocks.

    Columns [points, blocks * D] are blocks side by side; spectra [(K + 1) * groups, 2 * blocks, D / groups] have a
    matrix for each frequency and group, its first half real, the second imaginary.
    """

    def __init__(self, form: _Form, weight: Tensor) -> None:
        self.taps, self.groups, self.before = form
        self.step = self.taps + 1
        points, device, dtype = 2 * self.taps, weight.device, weight.dtype
        turns = torch.outer(torch.arange(self.step, device=device), torch.arange(points, device=device)) % points
        angles = torch.arange(points, dtype=torch.float64, device=device) * (torch.pi / self.taps)
        forth = torch.cat([angles.cos()[turns], -angles.sin()[turns]])
        share = torch.full((2, self.step), 2.0 / points, dtype=torch.float64, device=device)
        share[:, 0] = share[:, -1] = 1.0 / points  # these two frequencies are their own conjugates
        self.forth = forth.to(dtype)
        """[2 (K + 1), 2K]: real parts of frequencies 0 to K, then imaginary parts."""
        self.back = (forth * share.view(-1, 1)).t()[: self.step].to(dtype).contiguous()
        """[K + 1, 2 (K + 1)]: the first K + 1 points of the signal again."""

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the spectra [2, (K + 1) * groups, out, in] of a kernel [D, D / groups, K]."""
        columns = product(self.forth[:, : self.taps], weight.flatten(0, 1).t())
        return columns.view(2, -1, len(weight) // self.groups, weight.shape[1])

    def kernel_transposed(self, spectra: Tensor) -> Tensor:
        """Return the gradient [D, D / groups, K] of a kernel from that of its spectra."""
        width = spectra.shape[3]
        columns = product(self.forth[:, : self.taps].t(), spectra.view(len(self.forth), -1).to(self.forth.dtype))
        return columns.t().contiguous().view(-1, width, self.taps)

    def frames(self, x: Tensor) -> Tensor:
        """Return the spectra of x [B, F, D]."""
        before, blocks = self.before, self.blocks(x)
        padded = F.pad(x, (0, 0, before, blocks * self.step + self.taps - 1 - before - x.shape[1]))
        return self._spectra(self.forth, padded.unfold(1, 2 * self.taps, self.step).permute(3, 0, 1, 2))

    def frames_transposed(self, spectra: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of x [B, F, D] from that of its spectra: each block's gradient is added to its frames."""
        ends = self._columns(self.forth.t(), spectra, shape)
        whole = ends.new_zeros(shape[0], ends.shape[1] + 1, self.step, shape[2])
        whole[:, :-1] = ends[:, :, : self.step]
        whole[:, 1:, : self.taps - 1] += ends[:, :, self.step :]
        return whole.flatten(1, 2)[:, self.before :][:, : shape[1]]

    def outputs(self, spectra: Tensor, shape: torch.Size) -> Tensor:
        """Return the frames [B, F, D] whose blocks have these spectra."""
        return self._columns(self.back, spectra, shape).flatten(1, 2)[:, : shape[1]]

    def outputs_transposed(self, dy: Tensor) -> Tensor:
        """Return the gradient of the spectra from that of their frames [B, F, D]."""
        padded = F.pad(dy, (0, 0, 0, self.blocks(dy) * self.step - dy.shape[1]))
        return self._spectra(self.back.t(), padded.unfold(1, self.step, self.step).permute(3, 0, 1, 2))

    def blocks(self, x: Tensor) -> int:
        """Return the number of blocks of an utterance of x [B, F, D]."""
        return -(-x.shape[1] // self.step)

    def _spectra(self, table: Tensor, points: Tensor) -> Tensor:
        """Return the spectra of ``table @ points``, for points [points, B, blocks, D]."""
        parts = product(table, points.reshape(len(points), -1))
        by_group = parts.view(2, self.step, -1, self.groups, points.shape[3] // self.groups).permute(1, 3, 0, 2, 4)
        return by_group.reshape(self.step * self.groups, -1, by_group.shape[4])

    def _columns(self, table: Tensor, spectra: Tensor, shape: torch.Size) -> Tensor:
        """Return ``table @ columns`` of spectra as [B, blocks, points, D]."""
        by_group = spectra.to(table.dtype).view(self.step, self.groups, 2, -1, spectra.shape[2])
        points = product(table, by_group.permute(2, 0, 3, 1, 4).reshape(table.shape[1], -1))
        return points.view(len(table), shape[0], -1, shape[2]).permute(1, 2, 0, 3)


def _turned(spectra: Tensor) -> Tensor:
    """Return ``spectra`` times -i."""
    real, imaginary = spectra.chunk(2, dim=1)
    return torch.cat([imaginary, -real], dim=1)


def _correlate(frames: Tensor, kernel: Tensor) -> Tensor:
    """Return the spectra of the outputs: frames times the conjugate of the kernel, summed over a group's inputs."""
    real, imaginary = kernel
    return torch.bmm(frames, real.mT).baddbmm_(_turned(frames), imaginary.mT)


class _GroupedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: _Form, dtype: torch.dtype) -> Tensor:
        ctx.spectra, ctx.shape, ctx.dtype = _Spectra(form, weight), x.shape, dtype
        with torch.autocast(x.device.type, enabled=False):
            frames, kernel = ctx.spectra.frames(x.to(weight.dtype)).to(dtype), ctx.spectra.kernel(weight).to(dtype)
            ctx.save_for_backward(frames, kernel)
            return cast(Tensor, ctx.spectra.outputs(_correlate(frames, kernel), x.shape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        frames, kernel = ctx.saved_tensors
        dx = d_weight = None
        with torch.autocast(frames.device.type, enabled=False):
            mixed = ctx.spectra.outputs_transposed(grads[0]).to(ctx.dtype)
            if ctx.needs_input_grad[0]:
                real, imaginary = kernel
                d_frames = torch.bmm(mixed, real).baddbmm_(_turned(mixed), imaginary, alpha=-1)
                dx = ctx.spectra.frames_transposed(d_frames, ctx.shape)
            if ctx.needs_input_grad[1]:
                d_kernel = torch.stack([torch.bmm(mixed.mT, frames), torch.bmm(mixed.mT, _turned(frames))])
                d_weight = ctx.spectra.kernel_transposed(d_kernel)
        return dx, d_weight, None, None


def convolve_groups(x: Tensor, weight: Tensor, groups: int, *, causal: bool = False) -> Tensor:
    """Convolve frames, ``K // 2`` zeros before each utterance and as many outputs as frames.

    Parameters
    ----------
    x
        [B, F, D] on a CPU or a CUDA device, B and F at least 1.
    weight
        [D, D / groups, K], as in ``nn.Conv1d``.
    causal
        ``K - 1`` zeros before each utterance: output f sees frames up to f. Blocks of frames share spectra, so later
        frames enter by rounding; the products are never in bfloat16, whose rounding is coarse.

    Returns
    -------
    [B, F, D] float32 under autocast, otherwise as given.
    """
    device = x.device.type
    rounded = torch.is_autocast_enabled(device) and not widened(x) and not causal
    dtype = torch.get_autocast_dtype(device) if rounded else weight.dtype
    return cast(Tensor, _GroupedConvolution.apply(x, weight, _Form.of(weight, groups, causal=causal), dtype))


class FixedConvolution:
    """The convolution with one kernel [D, D / groups, K] for many inputs: its spectra are computed once.

    ``dtype`` is that of the products between frames and kernel; float32 instead of bfloat16 where that is faster, and
    where the convolution is causal.
    """

    def __init__(self, weight: Tensor, groups: int, dtype: torch.dtype, *, causal: bool = False) -> None:
        self._spectra = _Spectra(_Form.of(weight, groups, causal=causal), weight)
        self._kernel = self._spectra.kernel(weight).to(
            weight.dtype if dtype == torch.bfloat16 and (causal or widened(weight)) else dtype
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B, F, D] to the same; no gradients."""
        frames = self._spectra.frames(x).to(self._kernel.dtype)
        return self._spectra.outputs(_correlate(frames, self._kernel), x.shape)
