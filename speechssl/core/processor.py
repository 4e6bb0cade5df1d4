"""What the processor can do, as this process may use it: its vector unit, and whether products in bfloat16 are fast.

In: torch's list of the processor's instruction sets, and the variables that emulate an older processor. Out:
``Processor``. Both libraries of matrix products read such a variable: ATen ``ATEN_CPU_CAPABILITY``, oneDNN
``ONEDNN_MAX_CPU_ISA`` (or ``DNNL_MAX_CPU_ISA``). The lowest of what they allow counts.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

__all__ = ["Processor", "Unit", "detect", "gpu_has_bf16", "processor"]


class Unit(IntEnum):
    """Units that compute matrix products, in order of speed; each includes the units before it."""

    BASE = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3
    AMX_BF16 = 4


_X86 = ("x86_64", "AMD64", "x86", "i686")
_NAMES = {
    Unit.BASE: "no AVX2",
    Unit.AVX2: "AVX2",
    Unit.AVX512: "AVX-512",
    Unit.AVX512_BF16: "AVX-512",
    Unit.AMX_BF16: "AMX",
}
_FLAGS = {
    Unit.AVX2: ("avx2",),
    Unit.AVX512: ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"),
    Unit.AVX512_BF16: ("avx512_bf16",),
    Unit.AMX_BF16: ("amx_tile", "amx_bf16"),
}
"""Names of ``torch.cpu.get_capabilities`` that a unit needs beside those of the units before it."""


@dataclass(frozen=True)
class Processor:
    """What this process may use of its processor."""

    unit: Unit
    there: Unit
    """The vector unit of the processor; newer than ``unit`` where an older one is emulated."""
    machine: str = "x86_64"

    @property
    def bf16(self) -> bool:
        """Whether products in bfloat16 are faster than those in float32."""
        return self.unit >= Unit.AVX512_BF16

    @property
    def avx512(self) -> bool:
        """Whether vectors have 512 bits."""
        return self.unit >= Unit.AVX512

    def __str__(self) -> str:
        """Return one line for people, such as ``AVX2, no bfloat16``."""
        if self.machine not in _X86:
            return f"{self.machine}, bfloat16 not used"
        emulated = " (emulated)" if self.unit < self.there else ""
        return f"{_NAMES[self.unit]}, {'bfloat16' if self.bf16 else 'no bfloat16'}{emulated}"


_ONEDNN_LIMITS = (
    ("AVX512_CORE_AMX", Unit.AMX_BF16),
    ("AVX512_CORE_BF16", Unit.AVX512_BF16),
    ("AVX512_CORE_FP16", Unit.AVX512_BF16),
    ("AVX512_CORE", Unit.AVX512),
    ("AVX10_1_512_AMX", Unit.AMX_BF16),
    ("AVX10_2_512_AMX", Unit.AMX_BF16),
    ("AVX10", Unit.AVX512_BF16),
    ("AVX2", Unit.AVX2),
    ("AVX", Unit.BASE),
    ("SSE", Unit.BASE),
)
"""Units allowed by values of ``ONEDNN_MAX_CPU_ISA`` with these prefixes; other values set no limit."""
_ATEN_LIMITS = {"default": Unit.BASE, "avx2": Unit.AVX2}
"""Units that ``ATEN_CPU_CAPABILITY`` allows; "avx512" sets no limit."""


def detect(capabilities: Mapping[str, Any], variables: Mapping[str, str], machine: str) -> Processor:
    """Return what may be used of a processor whose instruction sets, by torch's names, are true in ``capabilities``.

    ``variables`` is the environment, ``machine`` is ``platform.machine()``: only x86 has units that are known to be
    faster in bfloat16.
    """
    there = Unit.BASE
    for unit, names in _FLAGS.items():
        if machine not in _X86 or not all(capabilities.get(name) for name in names):
            break
        there = unit
    name = (variables.get("ONEDNN_MAX_CPU_ISA") or variables.get("DNNL_MAX_CPU_ISA") or "").upper()
    onednn = next((unit for prefix, unit in _ONEDNN_LIMITS if name.startswith(prefix)), Unit.AMX_BF16)
    aten = _ATEN_LIMITS.get(variables.get("ATEN_CPU_CAPABILITY", ""), Unit.AMX_BF16)
    return Processor(min(there, onednn, aten), there, machine)


@lru_cache(maxsize=1)
def _capabilities() -> Mapping[str, Any]:
    """Return the processor's instruction sets, without bfloat16 where this build of torch has no oneDNN."""
    import torch

    found = dict(torch.cpu.get_capabilities())
    return found if torch.backends.mkldnn.is_available() else {**found, "avx512_bf16": False}


@lru_cache(maxsize=16)
def _detected(aten: str, onednn: str, dnnl: str) -> Processor:
    """Detect once for each state of the environment, since every product needs the result."""
    variables = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "DNNL_MAX_CPU_ISA": dnnl}
    return detect(_capabilities(), variables, platform.machine())


def processor() -> Processor:
    """Return what this process may use of the processor it runs on."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return _detected(*(os.environ.get(name, "") for name in names))


def gpu_has_bf16() -> bool:
    """Return whether the current CUDA device computes in bfloat16 itself; torch can also emulate it, slowly."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
