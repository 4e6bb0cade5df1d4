"""The floor of a training step on a CPU: its own matrix products and nothing else.

In: a function that makes one step. Out: every matrix product of the step, with its shapes, strides and dtype, and a
function that computes them all on tensors of random numbers that are there already. A step cannot be faster than that
with the same products by the same library.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Products", "replay"]

LAST_TWO = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addmm_": 1, "baddbmm_": 1, "_linear_pointwise": 0}
"""Operations that multiply matrices, and where their first factor stands."""


class Products(TorchDispatchMode):
    """Records the factors of every matrix product that is made inside: pairs of (shape, strides, dtype)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in LAST_TWO:
            a, b = args[LAST_TWO[name] : LAST_TWO[name] + 2]
            if name == "_linear_pointwise":
                b = b.t()
            self.found.append(tuple((tuple(x.shape), x.stride(), x.dtype) for x in (a, b)))
        return func(*args, **(kwargs or {}))

    def operations(self) -> int:
        """Return the multiplications and additions of all products."""
        return sum(2 * math.prod(a[0]) * b[0][-1] for a, b in self.found)


def replay(step: Callable[[], Any]) -> tuple[Callable[[], None], int]:
    """Make one step; return (a function that computes its products alone, their operations)."""
    with Products() as products:
        step()
    extent = max(1 + sum((n - 1) * s for n, s in zip(x[0], x[1], strict=True)) for pair in products.found for x in pair)
    memory = {dtype: torch.randn(extent).to(dtype) for dtype in {x[2] for pair in products.found for x in pair}}

    def work() -> None:
        for (shape, strides, dtype), (other, gaps, kind) in products.found:
            torch.matmul(memory[dtype].as_strided(shape, strides), memory[kind].as_strided(other, gaps))

    return work, products.operations()
