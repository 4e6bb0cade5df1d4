"""The encoder of a recogniser by depth: rates that fall towards the input, and release from the top down.

In: an encoder with blocks 1 to L; depth 0 is what comes before them. Out: groups for the optimiser, and which
parameters are trained (ULMFiT: Howard and Ruder 2018, sections 3.2 and 3.3).
"""

from typing import Any

from torch import nn

from speechssl.models.encoder import SpeechEncoder

__all__ = ["encoder_groups", "parameters_by_depth", "release"]


def parameters_by_depth(encoder: SpeechEncoder) -> list[list[nn.Parameter]]:
    """Return the parameters of each depth, 0 to L.

    Depth 0 has stem, projection, mask embedding and positions. The final norm of a pre-norm encoder belongs to its last
    block.
    """
    depths: list[list[nn.Parameter]] = [[] for _ in range(len(encoder.blocks) + 1)]
    for name, parameter in encoder.named_parameters():
        room, _, rest = name.partition(".")
        if room == "blocks":
            depths[int(rest.partition(".")[0]) + 1].append(parameter)
        else:
            last = room == "norm" and encoder.cfg.encoder.norm == "pre"
            depths[-1 if last else 0].append(parameter)
    return depths


def encoder_groups(encoder: SpeechEncoder, decay: float) -> list[dict[str, Any]]:
    """Return groups of the optimiser, frozen parameters included: the rate of depth d is ``decay ** (L - d)``."""
    if decay == 1.0:
        return [{"params": list(encoder.parameters()), "lr_scale": 1.0}]
    depths = parameters_by_depth(encoder)
    top = len(depths) - 1
    return [{"params": each, "lr_scale": decay ** (top - depth)} for depth, each in enumerate(depths) if each]


def release(encoder: SpeechEncoder, updates: int, every: int) -> bool:
    """Set which parameters are trained ``updates`` after the first release; return whether depth 0 is.

    Before it (negative ``updates``) none is. With ``every`` above 0 the last block comes first, and each depth below it
    ``every`` updates after the one above; else all come at once.
    """
    encoder.requires_grad_(updates >= 0)
    if updates < 0 or not every:
        return updates >= 0
    depths = parameters_by_depth(encoder)
    lowest = len(depths) - 1 - updates // every
    for depth in depths[: max(0, lowest)]:
        for parameter in depth:
            parameter.requires_grad = False
    return lowest <= 0
