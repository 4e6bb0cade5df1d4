"""The grouped convolution through the frequency domain against PyTorch's own: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.kernels.fft_conv import FixedConvolution, convolve_groups

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])


def tensors(B, frames, dim, groups, taps, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(taps)
    x = torch.randn(B, frames, dim, generator=generator, dtype=dtype)
    weight = torch.randn(dim, dim // groups, taps, generator=generator, dtype=dtype)
    return x.to(device).requires_grad_(), weight.to(device).requires_grad_()


def reference(x, weight, groups, *, causal=False):
    taps = weight.shape[2]
    y = F.conv1d(x.transpose(1, 2), weight, padding=taps - 1 if causal else taps // 2, groups=groups)
    return y[..., : x.shape[1]].transpose(1, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 13, 12, 3, 8), (2, 5, 8, 2, 16), (4, 9, 6, 1, 7), (2, 8, 6, 1, 7), (1, 1, 4, 4, 4), (5, 11, 4, 2, 1),
        (1, 40, 4, 1, 2),
    ],
)  # fmt: skip
@devices
def test_values_and_gradients_are_those_of_conv1d(shape, causal, device):
    """Kernels even and odd, wider than the utterance, of one tap; a whole number of blocks of outputs, and one more."""
    x, weight = tensors(*shape, device=device)
    groups = shape[3]
    fast, plain = convolve_groups(x, weight, groups, causal=causal), reference(x, weight, groups, causal=causal)
    assert torch.allclose(fast, plain, atol=1e-12)
    towards = torch.randn(plain.shape, dtype=plain.dtype).to(device)
    for a, b in zip(
        torch.autograd.grad(fast, (x, weight), towards), torch.autograd.grad(plain, (x, weight), towards), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_frozen_input_or_kernel_gets_no_gradient():
    x, weight = tensors(2, 9, 8, 2, 4)
    convolve_groups(x.detach(), weight, 2).sum().backward()
    assert x.grad is None and weight.grad is not None
    weight.grad = None
    convolve_groups(x, weight.detach(), 2).sum().backward()
    assert weight.grad is None and x.grad is not None


@devices
def test_under_autocast_it_is_as_exact_as_conv1d(device):
    """Values and gradients in bfloat16, against the same in float64: at most the error of PyTorch's own.

    cuDNN sums in float32 and rounds once; the spectra are rounded three times on the way.
    """
    x, weight = tensors(3, 300, 96, 4, 128, torch.float32, device)
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(device)

    def computed(convolution, dtype, *, autocast):
        given = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            y = convolution(*given, 4)
        return [y, *torch.autograd.grad(y, given, towards.to(y.dtype))]

    exact = computed(reference, torch.float64, autocast=False)
    peer = computed(reference, torch.float32, autocast=True)
    fast = computed(convolve_groups, torch.float32, autocast=True)
    assert all(t.dtype == torch.float32 for t in fast)
    for mine, theirs, true in zip(fast, peer, exact, strict=True):
        assert (mine - true).norm() < (1.05 if device == "cpu" else 1.2) * (theirs - true).norm()


@pytest.mark.parametrize("causal", [False, True])
def test_a_fixed_kernel_gives_the_same(causal):
    x, weight = tensors(2, 40, 8, 2, 16)
    fixed = FixedConvolution(weight.detach(), 2, x.dtype, causal=causal)
    assert torch.allclose(fixed(x.detach()), reference(x, weight, 2, causal=causal), atol=1e-12)


def test_a_causal_convolution_is_never_rounded_to_bfloat16():
    """Coarse rounding of a block's spectra would carry what follows into the frames before."""
    x, weight = (t.detach() for t in tensors(1, 40, 8, 2, 16, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve_groups(x, weight, 2, causal=True)
    assert torch.allclose(y, reference(x, weight, 2, causal=True), atol=1e-4)
