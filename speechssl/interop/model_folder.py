"""The published model: a folder with ``model.safetensors`` and ``config.json``, whole or not there.

In: an encoder (and heads). Out: a folder that needs nothing else to be used: configuration, weights, label set, where
it came from. Keys of the weights: ``encoder.*`` for the encoder, ``head.*`` for a CTC head, other parts under their own
names.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from speechssl.config import ModelConfig
from speechssl.config.load import from_dict, to_dict
from speechssl.core.errors import CheckpointError, ConfigError
from speechssl.core.files import atomic_folder
from speechssl.models.encoder import SpeechEncoder

__all__ = ["ModelFolder", "is_model", "load_encoder", "load_folder", "save_model"]

FORMAT = "speechssl-model"
VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

logger = logging.getLogger("speechssl.model")


class HasDict(Protocol):
    """A label set (``asr.tokens.Tokens``) that can describe itself in plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        ...


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds."""

    cfg: ModelConfig
    state: dict[str, Tensor]
    """All weights, on the CPU, under their prefixed names."""
    tokens: dict[str, Any] | None
    """The label set of a recogniser (``Tokens.from_dict``); None for a pretrained encoder."""
    info: dict[str, Any]
    """Where the model came from: objective, step, scores."""
    path: Path | None = None
    """The folder, for errors."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights under ``prefix.``, without the prefix.

        Raises CheckpointError for the encoder of a self-conditioned recogniser: its blocks take the recogniser's own
        output as input, so that it is not an encoder by itself.
        """
        if prefix == "encoder" and any(name.startswith("conditioning.") for name in self.state):
            raise CheckpointError(
                f"{self.path}: a self-conditioned recogniser (ctc.self_conditioned), whose encoder cannot be used "
                "without it; give a model that was trained without self-conditioning"
            )
        start = prefix + "."
        return {name[len(start) :]: value for name, value in self.state.items() if name.startswith(start)}


def save_model(
    folder: Path,
    *,
    encoder: SpeechEncoder,
    extra: Mapping[str, Tensor] | None = None,
    tokens: HasDict | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder, replacing one that is there as a whole: its other files are not kept.

    The new folder is written and synced beside the old one and takes its name only when complete. A crash leaves either
    the old model or the new one; between the two renames the old one is at ``NAME.previous``. ``extra`` has more
    weights under their full names, such as ``head.weight``; ``tokens`` the labels of a recogniser; ``info`` plain
    values that say where the model came from.

    Raises CheckpointError when the folder cannot be written (the old one is untouched), or a weight is not finite.
    """
    from safetensors.torch import save

    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} | dict(extra or {})
    # Copies on the CPU, contiguous and unshared, as the format asks.
    state = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(f"{folder}: not saved: {broken[0]} holds NaN or infinity ({len(broken)} such tensors)")
    weights = save(state, metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "info": dict(info or {}),
        "tokens": None if tokens is None else tokens.to_dict(),
        "model": to_dict(encoder.cfg),
    }
    folder = Path(folder)
    try:
        with atomic_folder(folder) as new:
            (new / WEIGHTS).write_bytes(weights)
            (new / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the model was not written: {error}") from error


def is_model(folder: Path) -> bool:
    """Return whether a model folder is complete; a warning says what is wrong with a damaged one."""
    try:
        _read_weights(folder, _read_config(folder))
    except CheckpointError as error:
        if folder.is_dir():
            logger.warning("%s", error)
        return False
    return True


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        previous = folder.with_name(folder.name + ".previous")
        hint = f"; a save was cut short: rename {previous} to {folder}" if previous.is_dir() else ""
        what = "it has no config.json" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder} is not a model folder: {what}{hint}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); copy the folder again, or delete it and run its training again"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a speechssl model; a Hugging Face folder is read by speechssl.interop.huggingface"
        )
    if config.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: version {config.get('version')!r} of the format, but this speechssl reads version {VERSION}; "
            "use the release that wrote it"
        )
    return config


def _read_weights(folder: Path, config: dict[str, Any]) -> bytes:
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: the weights cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != config.get("sha256"):
        raise CheckpointError(
            f"{path}: damaged or from another model: its bytes do not match config.json; "
            "copy the folder again, or delete it and run its training again, which exports the last checkpoint"
        )
    return data


def load_folder(folder: Path) -> ModelFolder:
    """Read and verify a model folder; the weights are checked against the digest in ``config.json``.

    Raises CheckpointError when the folder is missing, is not a model folder, is of another version, or is damaged.
    """
    folder = Path(folder)
    config = _read_config(folder)
    data = _read_weights(folder, config)
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not a safetensors file: {error}") from error
    try:
        cfg = from_dict(ModelConfig, config.get("model") or {}, where="model")
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    return ModelFolder(cfg, state, config.get("tokens"), config.get("info") or {}, folder)


def load_encoder(folder: Path, cfg: ModelConfig | None = None) -> SpeechEncoder:
    """Return the encoder of a model folder, in evaluation mode.

    ``cfg`` takes the place of the saved configuration, for other dropouts; sizes must agree.

    Raises CheckpointError as :func:`load_folder`, and when the weights do not fit the configuration.
    """
    loaded = load_folder(folder)
    encoder = SpeechEncoder(cfg or loaded.cfg)
    try:
        encoder.load_state_dict(loaded.part("encoder"))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit the configuration: {error}") from error
    return encoder.eval()
