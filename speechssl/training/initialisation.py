"""What a pretraining starts from: weights of another model, whose sizes must be those of the configuration.

In: the configuration and the model that ``init`` names. Out: the configuration that the run really has, one line for
each size that differs, and an objective with the heads that fit.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import FrontendConfig, ModelConfig, PretrainConfig
from speechssl.core.errors import ConfigError
from speechssl.interop.any_model import load_any
from speechssl.objectives.base import Objective

__all__ = ["size_differences", "strange_labels", "take_heads", "with_initial_sizes"]

RATES = ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layer_drop")
"""Fields of the encoder that change no weight's shape or meaning."""
STEM = {"waveform": ("kind", "conv_layers", "norm", "bias"), "logmel": ("kind", "n_mels", "stack", "conv2d")}


def with_initial_sizes(cfg: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the sizes of ``init`` where ``model_from_init`` asks for them.

    Raises
    ------
    ConfigError
        The sizes of ``[model]`` and of ``init`` differ; the message says what to write. Or there is no ``init``.
    CheckpointError
        From reading ``init``.
    """
    if not cfg.init:
        if cfg.model_from_init:
            raise ConfigError("model_from_init takes the sizes from init, but init is empty: give --init FOLDER")
        return cfg
    there = load_any(Path(cfg.init)).cfg
    if cfg.model_from_init:
        return replace(cfg, model=_with_rates_of(there, cfg.model))
    if differences := size_differences(cfg.model, there):
        raise ConfigError(
            f"init = {cfg.init}: it gives weights only, and this model has other sizes than [model]:\n  "
            + "\n  ".join(differences)
            + "\nWrite these sizes, or give --model-from-init to take all of them from there. To learn from the units "
            "of that model with the sizes of [model], give it as --objective.targets.teacher.model instead"
        )
    return cfg


def size_differences(here: ModelConfig, there: ModelConfig) -> list[str]:
    """Return ``model.NAME = VALUE (here VALUE)`` for each size, or other trait of the weights, that differs."""
    pairs = [("normalize", here.normalize, there.normalize)]
    pairs += [(f"frontend.{name}", *values) for name, values in _stems(here.frontend, there.frontend).items()]
    for item in fields(here.encoder):
        if item.name not in RATES:
            pairs.append((f"encoder.{item.name}", getattr(here.encoder, item.name), getattr(there.encoder, item.name)))
    return [f"model.{name} = {_shown(new)} (here {_shown(own)})" for name, own, new in pairs if own != new]


def _stems(here: FrontendConfig, there: FrontendConfig) -> dict[str, tuple[Any, Any]]:
    """Return the traits of two stems that count for the kind of the second one."""
    return {name: (getattr(here, name), getattr(there, name)) for name in STEM[there.kind]}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _with_rates_of(sizes: ModelConfig, rates: ModelConfig) -> ModelConfig:
    """Return a configuration with the sizes of one and the dropouts and gradient scale of another."""
    encoder = replace(sizes.encoder, **{name: getattr(rates.encoder, name) for name in RATES})
    return replace(sizes, encoder=encoder, frontend=replace(sizes.frontend, grad_scale=rates.frontend.grad_scale))


def take_heads(objective: Objective, cfg: PretrainConfig, strange: Mapping[str, str]) -> str:
    """Copy the heads of ``init`` that fit into an objective; return in one line which were taken and which are new.

    A head is everything under one name (``quantizer``, ``projection``). It is taken as a whole or not at all: half a
    quantiser would choose entries that mean something else.

    Parameters
    ----------
    strange
        Heads that are not to be taken although they may fit, each with the reason.
    """
    source = load_any(Path(cfg.init))
    heads: dict[str, dict[str, Tensor]] = {}
    for name, value in objective.exported().items():
        heads.setdefault(_head(objective, name), {})[name] = value
    trained = source.info.get("objective")
    if trained != cfg.objective.kind:
        why = (
            f"it was trained with {trained}" if trained else f"it comes from {source.info.get('library', 'elsewhere')}"
        )
        return f"init {cfg.init}: the encoder is taken, all heads are new ({why})"
    taken, new = [], []
    for head, tensors in heads.items():
        if reason := strange.get(head.rpartition(".")[2]) or _misfit(tensors, source.state):
            new.append(f"{head} ({reason})")
            continue
        taken.append(head)
        with torch.no_grad():
            for name, value in tensors.items():
                value.copy_(source.state[name])
    return f"init {cfg.init}: taken: {', '.join(['encoder', *taken])}; new: {', '.join(new) or 'nothing'}"


def _head(objective: nn.Module, name: str) -> str:
    """Return the head that a tensor belongs to: ``projection``, or that of an objective in this one,
    ``first.projection``.
    """
    top, _, rest = name.partition(".")
    part = getattr(objective, top, None)
    return f"{top}.{_head(part, rest)}" if isinstance(part, Objective) else top


def _misfit(tensors: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    """Return why a head cannot be taken; empty when it can."""
    for name, value in tensors.items():
        if name not in there:
            return f"no {name} in the folder"
        if there[name].shape != value.shape:
            return f"{name} is {list(there[name].shape)} there, {list(value.shape)} here"
    return ""


def strange_labels(cfg: PretrainConfig, identity: str) -> dict[str, str]:
    """Return label embeddings, with the reason, where ``init`` learnt other units than those of ``identity``.

    A unit is a number: embedding 7 of one k-means says nothing about cluster 7 of another.
    """
    if not cfg.init:
        return {}
    units = load_any(Path(cfg.init)).info.get("units")
    known = units.get("identity") if isinstance(units, dict) else None
    if known and known == identity:
        return {}
    return {"embeddings": "other units" if known else "the folder does not say which units it learnt"}
