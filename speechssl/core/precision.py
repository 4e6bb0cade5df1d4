"""The precision of matrix products: the explicit setting, or bfloat16 where the device computes in it.

In: ``auto``, ``bf16`` or ``fp32``, and the kind of device. Out: a ``Choice``, with its reason in one line.
"""

from dataclasses import dataclass
from typing import Literal, cast

from speechssl.core.processor import Processor, gpu_has_bf16, processor

__all__ = ["Choice", "Precision", "Setting", "choose", "device_kind", "uses_bf16"]

Precision = Literal["bf16", "fp32"]
Setting = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Choice:
    """A precision and why."""

    precision: Precision
    device: str
    """The device's capabilities, in words."""
    reason: str
    """Empty for an explicit setting."""
    warning: str = ""
    """Why another precision would be better here; empty where none would."""

    @property
    def bf16(self) -> bool:
        """Whether products are in bfloat16."""
        return self.precision == "bf16"

    @property
    def line(self) -> str:
        """The message for the user; empty for an explicit setting that is the fast one here."""
        if not self.reason and not self.warning:
            return ""
        warning = f"; warning: {self.warning}" if self.warning else ""
        return f"precision: {self.precision} ({self.reason or 'as configured'}){warning}"


def choose(
    setting: Setting, device: str, *, kept: str = "", here: Processor | None = None, gpu_bf16: bool | None = None
) -> Choice:
    """Return the precision of a run.

    Parameters
    ----------
    setting
        An explicit setting is used as it is; ``auto`` is bfloat16 where the device computes in it, else float32.
    device
        ``cpu`` or ``cuda``.
    kept
        The precision that the run was started with, if it was; ``auto`` then means this one.
    here, gpu_bf16
        The processor, and whether the GPU computes in bfloat16; detected where they are None.
    """
    hint = ""
    if device == "cuda":
        fast = gpu_has_bf16() if gpu_bf16 is None else gpu_bf16
        what = f"GPU, {'' if fast else 'no '}bfloat16"
        hint = "" if fast else "; GPUs of compute capability 8.0 or later have it, and are several times faster"
    else:
        unit = here or processor()
        fast, what = unit.bf16, str(unit)
    if setting == "auto" and kept in ("bf16", "fp32"):
        return Choice(cast(Precision, kept), what, "as this run was started", _warning(kept, what, fast=fast))
    if setting == "auto":
        return Choice("bf16" if fast else "fp32", what, f"auto: {what}{hint}")
    return Choice(setting, what, "", _warning(setting, what, fast=fast))


def _warning(precision: str, what: str, *, fast: bool) -> str:
    """Return the warning about an explicit precision that is the slower one here, or an empty string."""
    if precision == "bf16" and not fast:
        return f"bf16 is slow here ({what}); fp32 is faster and more exact"
    if precision == "fp32" and fast:
        return f"bf16 is usually faster here ({what})"
    return ""


def device_kind(setting: Literal["auto", "cpu", "cuda"]) -> str:
    """Return the kind of device that a setting means on this machine."""
    import torch

    return "cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu"


def uses_bf16(setting: Setting, device: str) -> bool:
    """Return whether products on this kind of device are in bfloat16."""
    return choose(setting, device).bf16
