"""Models of the Hugging Face hub by name: ``hf:org/name`` or ``hf:org/name@revision``.

In: such a name. Out: the folder that huggingface_hub keeps it in; it is downloaded once.
"""

import logging
from pathlib import Path

from speechssl.core.errors import CheckpointError, ConfigError

__all__ = ["PREFIX", "from_hub"]

PREFIX = "hf:"
SETTINGS = ["*.json", "*.txt"]
WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"])
"""Patterns of weights, of which the first kind that is there is downloaded."""


def from_hub(name: str) -> Path:
    """Return the local folder of a model.

    Raises
    ------
    ConfigError
        huggingface_hub is not installed, or the name is none of a model.
    CheckpointError
        The model cannot be downloaded, and is not there from before.
    """
    repository, _, revision = name.removeprefix(PREFIX).strip("/").partition("@")
    if len(parts := repository.split("/")) > 2 or not all(parts):
        raise ConfigError(f"{name}: a model of the hub is named hf:org/name, or hf:org/name@revision")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"{name}: needs the package huggingface_hub: pip install 'speechssl[hf]'; or download the model's folder "
            "and give its path"
        ) from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    try:
        for patterns in WEIGHTS:
            found = snapshot_download(repository, revision=revision or None, allow_patterns=[*SETTINGS, *patterns])
            folder = Path(found)
            if any(folder.glob(patterns[0])):
                return folder
    except HFValidationError as error:
        raise ConfigError(f"{name}: no name of a model of the hub: {error}") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name}: the hub cannot be reached, and the model is not in the local cache; check the network, or give "
            "the path of a folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{name}: not downloaded: {' '.join(str(error).split())}") from error
    raise CheckpointError(f"{name}: the model has neither safetensors nor pytorch_model.bin")
