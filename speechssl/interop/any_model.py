"""A trained model in any known format: what ``--init``, ``--model``, a teacher and ``speechssl.load`` take.

In: a path, or ``hf:org/name``. Out: a ``ModelFolder``, so that code that starts from a model, or uses it as a teacher,
need not know which library wrote it. `FORMATS` has the formats: what tells one from the others, and what reads it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import ModelConfig
from speechssl.core.errors import CheckpointError
from speechssl.interop.checkpoint_file import read_checkpoint
from speechssl.interop.fairseq import is_fairseq, is_fairseq2, read_fairseq, read_fairseq2
from speechssl.interop.foreign import Foreign
from speechssl.interop.hub import PREFIX, from_hub
from speechssl.interop.huggingface_folder import is_huggingface, read_huggingface
from speechssl.interop.model_folder import ModelFolder, load_folder
from speechssl.interop.torchaudio import is_torchaudio, read_torchaudio
from speechssl.models.encoder import SpeechEncoder

__all__ = ["FORMATS", "FileFormat", "encoder_of", "load_any", "load_any_encoder", "local_path", "read_foreign"]

SUFFIXES = {".pt", ".pth", ".bin"}

logger = logging.getLogger("speechssl.model")


@dataclass(frozen=True)
class FileFormat:
    """What one library writes with ``torch.save``."""

    origin: str
    found: Callable[[Mapping[str, Any]], bool]
    """Whether the content of a file is of this format."""
    read: Callable[[Mapping[str, Any], Path], Foreign]


FORMATS = (
    FileFormat("fairseq", is_fairseq, read_fairseq),
    FileFormat("fairseq2", is_fairseq2, read_fairseq2),
    FileFormat("torchaudio", is_torchaudio, read_torchaudio),
)
"""Formats of files, in the order in which they are looked for. Folders are ours, or of Hugging Face."""


def local_path(source: Path | str) -> Path:
    """Return where a model lies on this machine; ``hf:org/name`` is downloaded; raises as ``from_hub``."""
    return from_hub(str(source)) if str(source).startswith(PREFIX) else Path(source)


def read_foreign(path: Path) -> Foreign | None:
    """Return a model of another library as it was read; None for a folder that is not one of Hugging Face.

    Raises
    ------
    CheckpointError, ConfigError
        As :func:`load_any`.
    """
    if not path.is_file():
        return read_huggingface(path) if is_huggingface(path) else None
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: a file; give a model folder, or a file {', '.join(sorted(SUFFIXES))} of torch")
    content = read_checkpoint(path)
    for each in FORMATS:
        if each.found(content):
            return each.read(content, path)
    known = ", ".join(each.origin for each in FORMATS)
    raise CheckpointError(f"{path}: no wav2vec 2.0, HuBERT or WavLM model in a format of {known}")


def load_any(source: Path | str) -> ModelFolder:
    """Read a model.

    Parameters
    ----------
    source
        A model folder of this project; a folder of transformers (wav2vec 2.0, HuBERT, WavLM, data2vec-audio; bare, for
        pretraining, or with a CTC head); a file of torch (.pt, .pth, .bin) with a
        checkpoint of fairseq or fairseq2, or a state dict of torchaudio; or ``hf:org/name``, a model of the Hugging
        Face hub. Heads that our objectives and recognisers have, too, are read.

    Raises
    ------
    CheckpointError
        The path is missing, damaged, or none of these.
    ConfigError
        The model has something that our encoder cannot express.
    """
    path = local_path(source)
    foreign = read_foreign(path)
    if foreign is None:
        return load_folder(path)
    if foreign.left_out:
        logger.warning("%s: left out: %s", source, foreign.left_out)
    return foreign.model()


def load_any_encoder(source: Path | str, cfg: ModelConfig | None = None) -> SpeechEncoder:
    """Return the encoder of a model, in evaluation mode; raises as :func:`load_any`.

    ``cfg`` takes the place of its own configuration, for other dropouts; sizes must agree.
    """
    return encoder_of(load_any(source), source, cfg)


def encoder_of(loaded: ModelFolder, source: Path | str, cfg: ModelConfig | None = None) -> SpeechEncoder:
    """Return the encoder of a model that was read from ``source``; as :func:`load_any_encoder`."""
    encoder = SpeechEncoder(cfg or loaded.cfg)
    try:
        encoder.load_state_dict(loaded.part("encoder"))
    except RuntimeError as error:
        raise CheckpointError(f"{source}: the weights do not fit the configuration: {error}") from error
    return encoder.eval()
