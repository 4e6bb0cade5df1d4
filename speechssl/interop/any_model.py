"""A trained encoder from one of three sources: our model folder, a Hugging Face folder, a torchaudio state dict.

In: a path. Out: a ``ModelFolder``, so that code that starts from a model, or uses it as a teacher, need not know which
library wrote it. Heads are kept only from our own folders.
"""

import json
from pathlib import Path

from speechssl.config import ModelConfig
from speechssl.core.errors import CheckpointError
from speechssl.interop.huggingface import load_huggingface
from speechssl.interop.model_folder import ModelFolder, load_folder
from speechssl.models.encoder import SpeechEncoder

__all__ = ["encoder_of", "load_any", "load_any_encoder"]

STATE_DICTS = {".pt", ".pth"}


def load_any(path: Path) -> ModelFolder:
    """Read a model.

    Parameters
    ----------
    path
        A model folder of this project; a folder with ``config.json`` (wav2vec 2.0, HuBERT or WavLM) and
        ``model.safetensors`` of transformers; or a file (.pt, .pth) with the state dict of a torchaudio model.

    Raises
    ------
    CheckpointError
        The path is missing, damaged, or none of these.
    ConfigError
        The model has something that our encoder cannot express.
    """
    path = Path(path)
    if path.is_file() and path.suffix in STATE_DICTS:
        from speechssl.interop.torchaudio import load_torchaudio

        return _foreign(load_torchaudio(path), "torchaudio")
    if path.is_file():
        raise CheckpointError(f"{path}: a file; give a model folder, or a .pt or .pth file of torchaudio")
    if _of_huggingface(path / "config.json"):
        return _foreign(load_huggingface(path), "Hugging Face")
    return load_folder(path)


def load_any_encoder(path: Path, cfg: ModelConfig | None = None) -> SpeechEncoder:
    """Return the encoder of a model, in evaluation mode; raises as :func:`load_any`.

    ``cfg`` takes the place of its own configuration, for other dropouts; sizes must agree.
    """
    return encoder_of(load_any(path), path, cfg)


def encoder_of(loaded: ModelFolder, path: Path, cfg: ModelConfig | None = None) -> SpeechEncoder:
    """Return the encoder of a model that was read from ``path``; as :func:`load_any_encoder`."""
    encoder = SpeechEncoder(cfg or loaded.cfg)
    try:
        encoder.load_state_dict(loaded.part("encoder"))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the configuration: {error}") from error
    return encoder.eval()


def _foreign(encoder: SpeechEncoder, library: str) -> ModelFolder:
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    return ModelFolder(encoder.cfg, state, None, {"library": library})


def _of_huggingface(path: Path) -> bool:
    """Whether a configuration names a model type of transformers; ``load_folder`` reports what cannot be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config and "format" not in config
