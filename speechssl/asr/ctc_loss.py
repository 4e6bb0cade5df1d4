"""The terms of a CTC loss: likelihood of the labels, consistency of two views, entropy of the alignments.

In: frame-wise log-probabilities in float32, label ids, counts. Out: sums in nats, with gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.asr.tokens import BLANK

__all__ = ["alignment_entropies", "consistency", "ctc_losses"]

NEVER = -1e30
"""Log-probability of what cannot be; finite, so that no gradient is NaN."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its shapes depend on the values of the lengths
def ctc_losses(log_probs: Tensor, targets: Tensor, frames: tuple[int, ...], labels: tuple[int, ...]) -> Tensor:
    """Return the CTC loss of each row [B], float32: negative log-likelihood of its labels, 0 where they do not fit.

    ``log_probs`` are [B, F, V] float32 and ``targets`` [B, L] int64: cuDNN takes int32 only, so PyTorch's own kernel
    always runs (cuDNN's has no ``zero_infinity``). Its backward pass on CUDA is not deterministic; with deterministic
    algorithms the loss is computed on the CPU.
    """
    device = log_probs.device
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        log_probs, targets = log_probs.cpu(), targets.cpu()
    with torch.autocast(log_probs.device.type, enabled=False):
        losses = F.ctc_loss(
            log_probs.transpose(0, 1), targets.long(), torch.tensor(frames), torch.tensor(labels),
            blank=BLANK, reduction="none", zero_infinity=True,
        )  # fmt: skip
    return losses.to(device)


def consistency(log_probs: Tensor, valid: Tensor) -> Tensor:
    """Return the consistency loss of CR-CTC, a sum over the valid frames of all utterances.

    At each frame it is the mean of KL(b || a) and KL(a || b) in nats (Yao et al. 2024, section 3.2). Each first
    distribution is a target that gets no gradient.

    Parameters
    ----------
    log_probs
        ``[2 * B, F, V]``: views a of all utterances, then views b.
    valid
        ``[2 * B, F]`` bool: frames that count.
    """
    others = log_probs.detach().roll(len(log_probs) // 2, dims=0)
    divergence = F.kl_div(log_probs, others, reduction="none", log_target=True).sum(dim=-1)
    return 0.5 * divergence.masked_fill(~valid, 0.0).sum()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def alignment_entropies(log_probs: Tensor, targets: Tensor, frames: tuple[int, ...], labels: tuple[int, ...]) -> Tensor:
    """Return the entropy of the alignments of each row [B], in nats: of the paths that give its labels.

    It is ``log Z - E[log p]``, where Z is the probability of the labels and the mean is over their paths: the
    regulariser of Liu et al. 2018 (maximum conditional entropy). Both are summed up frame by frame, as in the forward
    recursion of CTC (Graves et al. 2006, equation 6), and autograd differentiates them. The result of a row whose
    labels do not fit has no meaning.

    Arguments are those of `ctc_losses`.
    """
    device, (rows, longest) = log_probs.device, targets.shape
    ends, lengths = torch.tensor(labels, device=device)[:, None], torch.tensor(frames, device=device)[:, None]
    states = torch.full((rows, 2 * longest + 1), BLANK, device=device)
    states[:, 1::2] = targets
    skips = F.pad((states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2]), (2, 0))
    scores = log_probs.gather(2, states[:, None].expand(-1, log_probs.shape[1], -1))
    begins = torch.arange(states.shape[1], device=device) < 2
    total = scores[:, 0].masked_fill(~begins, NEVER)  # log-probability of all ways into a state
    mean = scores[:, 0].masked_fill(~begins, 0.0)  # mean of the log-probabilities of these ways
    for frame in range(1, log_probs.shape[1]):
        before = torch.stack(
            [total, F.pad(total, (1, 0), value=NEVER)[:, :-1],
             F.pad(total, (2, 0), value=NEVER)[:, :-2].masked_fill(~skips, NEVER)],
        )  # fmt: skip
        means = torch.stack([mean, F.pad(mean, (1, 0))[:, :-1], F.pad(mean, (2, 0))[:, :-2]])
        inside = frame < lengths
        total = torch.where(inside, before.logsumexp(0) + scores[:, frame], total)
        mean = torch.where(inside, (before.softmax(0) * means).sum(0) + scores[:, frame], mean)
    last = torch.cat([2 * ends, (2 * ends - 1).clamp(min=0)], dim=1)
    final = total.gather(1, last).masked_fill(F.pad(ends == 0, (1, 0)), NEVER)
    return final.logsumexp(1) - (final.softmax(1) * mean.gather(1, last)).sum(1)
