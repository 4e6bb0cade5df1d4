"""AdamW, learning-rate schedules as pure functions of the step, and gradient clipping.

In: parameters and ``OptimConfig``. Out: an optimiser whose rate the loop sets before every update; nothing here has
state besides AdamW's own moments, so a checkpoint needs no scheduler.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from speechssl.config import OptimConfig
from speechssl.core.errors import ConfigError

__all__ = ["build_optimizer", "clip_gradients", "full_rate_until", "lr_at", "set_rate"]


def build_optimizer(parameters: Iterable[nn.Parameter] | Sequence[dict[str, Any]], cfg: OptimConfig) -> AdamW:
    """Return AdamW over ``parameters`` or over parameter groups.

    A group may carry ``lr_scale``, a factor on the scheduled rate (default 1), and any setting of AdamW. Weight decay
    is decoupled and falls on every parameter, norms and biases included, as in the published recipes of wav2vec 2.0
    and HuBERT (fairseq's Adam); a group with ``weight_decay=0`` is exempt. Parameters without a gradient (frozen ones)
    are neither moved nor decayed. The fused kernel is used on CPU and GPU alike.

    Raises ConfigError when the schedule's settings contradict each other.
    """
    check_schedule(cfg)
    items: list[Any] = list(parameters)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    return AdamW(
        [{"lr_scale": 1.0, **group} for group in groups],
        lr=cfg.lr,
        betas=cfg.betas,
        eps=cfg.eps,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def check_schedule(cfg: OptimConfig) -> None:
    """Raise ConfigError where the schedule cannot be computed."""
    if min(cfg.warmup, cfg.hold) < 0 or cfg.warmup + cfg.hold > 1:
        raise ConfigError(f"optim.warmup ({cfg.warmup}) and optim.hold ({cfg.hold}) are shares of all steps: at most 1")
    if cfg.schedule == "tri-stage" and not 0 < cfg.final_scale <= 1:
        raise ConfigError(
            f"optim.final_scale must be in (0, 1] for tri-stage (exponential decay), got {cfg.final_scale}"
        )
    if cfg.lr <= 0:
        raise ConfigError(f"optim.lr must be positive, got {cfg.lr}")


def lr_at(step: int, total: int, cfg: OptimConfig) -> float:
    """Return the learning rate of update ``step`` (0 is the first) in a run of ``total`` updates.

    Warm-up takes ``W = round(warmup * total)`` updates. All schedules but tri-stage rise as ``(step + 1) / W``, so
    that the first update moves the weights and the last one of the warm-up has the full rate; after it, with ``p =
    (step - W) / (total - W)``:

    - polynomial: linear, ``1 + p * (final_scale - 1)`` (wav2vec 2.0 and HuBERT pretraining);
    - cosine: ``final_scale + (1 - final_scale) * (1 + cos(pi p)) / 2``;
    - constant: 1.

    tri-stage (fine-tuning in wav2vec 2.0, section 4.3, as in fairseq) rises as ``init_scale + (1 - init_scale) step /
    W``, stays at 1 for ``round(hold * total)`` updates, then decays exponentially to ``final_scale``.
    """
    warm = round(cfg.warmup * total)
    step = min(step, total)
    if cfg.schedule == "tri-stage":
        hold = round(cfg.hold * total)
        decay = max(1, total - warm - hold)
        if step < warm:
            scale = cfg.init_scale + (1 - cfg.init_scale) * step / warm
        else:
            scale = math.exp(math.log(cfg.final_scale) * max(0, step - warm - hold) / decay)
        return cfg.lr * scale
    if step < warm:
        return cfg.lr * (step + 1) / warm
    share = (step - warm) / max(1, total - warm)
    match cfg.schedule:
        case "polynomial":
            return cfg.lr * (1 + share * (cfg.final_scale - 1))
        case "cosine":
            return cfg.lr * (cfg.final_scale + (1 - cfg.final_scale) * (1 + math.cos(math.pi * share)) / 2)
        case "constant":
            return cfg.lr
        case _:
            assert_never(cfg.schedule)


def full_rate_until(total: int, cfg: OptimConfig) -> int:
    """Return the update after which the rate falls: the end of the warm-up and, with tri-stage, of the hold."""
    return round(cfg.warmup * total) + (round(cfg.hold * total) if cfg.schedule == "tri-stage" else 0)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its rate: ``lr`` times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, *, scale: float = 1.0) -> Tensor:
    """Multiply all gradients by ``scale``, then clip their global L2 norm to ``limit`` (0: no limit), in one pass.

    Returns the norm after scaling and before clipping, a scalar. A non-finite norm is returned as it is; the gradients
    are then spoilt, and the caller must not use them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True) * scale
    if limit > 0 and gradients:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0) * scale)
    elif scale != 1 and gradients:
        torch._foreach_mul_(gradients, scale)
    return norm
