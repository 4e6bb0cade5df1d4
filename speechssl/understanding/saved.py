"""Saved probes: a folder with ``probe.json`` and ``probe.safetensors``, and their use from Python.

In: a head and what it predicts. Out: the folder; ``load_probe`` reads it and predicts from waveforms.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import CheckpointError, ConfigError, DataError
from speechssl.core.files import atomic_folder, read_json
from speechssl.understanding.extractors import Extractor, open_extractor
from speechssl.understanding.features import pooled
from speechssl.understanding.heads import ProbeHead
from speechssl.understanding.scores import nearest_classes
from speechssl.understanding.train import predict

__all__ = ["Probe", "load_probe", "save_probe"]


def save_probe(folder: Path, arrays: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write the arrays of a probe and what it is, whole or not at all."""
    from safetensors.torch import save

    weights = save({name: value.detach().cpu().clone().contiguous() for name, value in arrays.items()})
    with atomic_folder(folder) as new:
        (new / "probe.safetensors").write_bytes(weights)
        (new / "probe.json").write_text(json.dumps(dict(about), indent=2, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True)
class Probe:
    """A probe and the model that it reads."""

    about: dict[str, Any]
    """Task, model, head, classes."""
    extractor: Extractor
    arrays: dict[str, Tensor]
    head: ProbeHead | None
    """None for nearest neighbours."""

    def predict(self, wave: np.ndarray) -> Any:
        """Return the prediction for a waveform, float32 [T] at 16 kHz with full scale 1.

        Text: the transcript. Class or speaker: the label. Frames: a label each, or float32 [F], standardised.

        Raises ValueError when the waveform is shorter than one frame.
        """
        if wave.ndim != 1 or len(wave) < self.extractor.receptive:
            raise ValueError(f"give one channel of at least {self.extractor.receptive} samples at 16 kHz")
        (x,) = self.extractor([np.asarray(wave, dtype=np.float32)])
        about, classes = self.about, self.about["classes"]
        x = x if about["pool"] == "none" else pooled(x, about["pool"])[:, None]
        if self.head is None:
            row = about["layers"].index(about["layer"])
            vector = ((x[row] - self.arrays["mean"]) / self.arrays["std"]).numpy()
            known = self.arrays["vectors"].numpy(), self.arrays["classes"].numpy()
            return classes[int(nearest_classes(*known, vector, [about["k"]])[0, 0])]
        (scores,) = predict(self.head, [x])
        if not classes:
            return scores[:, 0].numpy()
        best = scores.argmax(-1).tolist()
        if about["kind"] == "text":
            labels = [classes[label] for label in torch.unique_consecutive(scores.argmax(-1)).tolist() if label]
            return " ".join(labels if about["tokens"] == "words" else "".join(labels).replace("|", " ").split())
        return classes[best[0]] if about["kind"] in ("class", "speaker") else [classes[label] for label in best]


def load_probe(folder: str | Path, model: str = "", *, device: str = "auto") -> Probe:
    """Read a probe that ``speechssl probe`` saved.

    Parameters
    ----------
    folder
        ``OUTPUT/HEAD``.
    model
        Where its model is now; empty for where it was.

    Raises
    ------
    DataError, CheckpointError
        The probe or the model cannot be read.
    ConfigError
        The model is another one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    about = read_json(folder / "probe.json", "give a folder that `speechssl probe` wrote, such as OUTPUT/linear")
    try:
        arrays = load((folder / "probe.safetensors").read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}: the weights of the probe cannot be read: {error}; run the probe again") from error
    extractor = open_extractor(model or about["model"], layers=about["layers"], stack=about["stack"], device=device)
    if extractor.identity != about["identity"]:
        raise ConfigError(f"{model or about['model']} is not the model that the probe in {folder} was trained on")
    if about["head"] == "knn":
        return Probe(about, extractor, arrays, None)
    mean = arrays["mixture.mean"][:, 0]
    pools, outputs = about["kind"] in ("class", "speaker"), max(1, len(about["classes"]))
    head = ProbeHead(about["head"], mean, torch.ones_like(mean), hidden=about["hidden"], outputs=outputs, pool=pools)
    try:
        head.load_state_dict(arrays)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit: {error}; run the probe again") from error
    return Probe(about, extractor, arrays, head.eval())
