"""speechssl: learn speech from raw, unlabelled audio; recognise it; measure the word error rate.

``load``, ``pretrain`` and ``finetune`` are those of ``speechssl.api``, imported when first used: importing the package
imports nothing heavy, so that the command line answers ``--help`` at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechssl.core.version import __version__

if TYPE_CHECKING:
    from speechssl.api import SpeechModel, finetune, load, pretrain

__all__ = ["SpeechModel", "__version__", "finetune", "load", "pretrain"]


def __getattr__(name: str) -> Any:
    """Import a name of the Python interface when it is first used (PEP 562)."""
    if name in __all__:
        return getattr(import_module("speechssl.api"), name)
    raise AttributeError(f"module 'speechssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names of the Python interface, imported or not."""
    return sorted(__all__)
