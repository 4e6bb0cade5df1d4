"""Settings of the page on what models have learned."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.config.understanding import ProbeConfig
from speechssl.config.understanding.abx import AbxConfig
from speechssl.config.understanding.layers import LayersConfig

__all__ = ["UnderstandConfig"]


@dataclass(frozen=True)
class UnderstandConfig:
    """Show on one page what models have learned: layers, ABX and probes."""

    output: str = "runs/understand"
    """Folder for the results; the page is ``understand.html``."""
    tasks: tuple[str, ...] = ("speaker",)
    """Tasks of ``probe``. The data need their labels."""
    alignment: str = ""
    """Times of phones, for ``layers``, ``abx`` and ``probe``: a CTM or ABX item file, or a folder of TextGrid files.
    Empty: no ABX, and nothing about phones."""
    words: str = ""
    """Times of words, for ``layers``, in files of the same forms."""
    stack: int = 2
    """Frames of 10 ms that are joined into one, for ``logmel`` and ``mfcc``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    layers: LayersConfig = field(default_factory=LayersConfig)
    """How layers are compared. What stands above counts for it, for ``abx`` and for ``probe``."""
    abx: AbxConfig = field(default_factory=AbxConfig)
    """How ABX is measured."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """How heads are trained."""
