"""Files that torch wrote, read without running anything that is in them.

In: a file of ``torch.save``, also one of fairseq, which holds settings beside its tensors. Out: plain dicts, lists and
tensors. Classes of fairseq and omegaconf are replaced by an inert record: neither library is needed, and none of their
code runs. Any other class is refused by torch.
"""

import argparse
import typing
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speechssl.core.errors import CheckpointError

__all__ = ["plain", "read_checkpoint"]


class Record:
    """Stands for an object of a class whose code is not run; its fields are attributes."""


ALLOWED = (
    "fairseq.data.dictionary.Dictionary",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
)
"""Classes in published checkpoints of fairseq, each read as a `Record`."""
TYPES = {"typing.Any": typing.Any, "builtins.dict": dict, "builtins.list": list, "builtins.int": int,
         "builtins.float": float, "builtins.str": str, "builtins.bool": bool}  # fmt: skip
"""Types that omegaconf notes beside its values."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a file of ``torch.save``: a dict with tensors in it, on the CPU.

    Raises CheckpointError when the file cannot be read safely, or holds something else.
    """
    allowed: list[Any] = [argparse.Namespace, *((Record, name) for name in ALLOWED)]
    allowed += [(value, name) for name, value in TYPES.items()]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises errors of many types for a foreign file
        raise CheckpointError(f"{path}: not a checkpoint that torch reads safely: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected names and tensors of a model")
    return content


def plain(value: Any) -> Any:
    """Return settings as dicts, lists and values: namespaces and the containers of omegaconf are opened."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    elif isinstance(value, Record):
        fields = vars(value)
        value = fields["_content"] if "_content" in fields else fields.get("_val", fields)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
