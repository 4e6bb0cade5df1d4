"""The first form of a pretraining configuration: ``objective = "hubert"`` beside a table for every objective.

In: such settings. Out: the same in the present form, or an error that shows it.
"""

from typing import Any

from speechssl.config.load import toml_lines
from speechssl.core.errors import ConfigError

__all__ = ["in_new_form", "refuse_old_form", "refuse_old_overrides"]

OFFLINE = ("steps", "clusters", "layers", "carry_over", "kmeans_hours", "kmeans_starts", "units_normalise")
"""Settings of ``[hubert]`` that are now in ``[objective.targets]``."""
PLACES = {
    "mask": "objective.mask",
    **{f"hubert.{name}": f"objective.targets.{name}" for name in OFFLINE},
    "hubert": "objective",
    "wav2vec2": "objective",
    "teacher": "objective.targets.teacher",
    "units": "objective.targets.units",
    "units_hop": "objective.targets.units_hop",
}
"""Old key -> new key; the first that fits counts."""


def _is_old(data: dict[str, Any]) -> bool:
    return isinstance(data.get("objective"), str) or any(name.partition(".")[0] in data for name in PLACES)


def in_new_form(data: dict[str, Any]) -> dict[str, Any]:
    """Return settings in the present form, without the tables of other objectives; unchanged when they have it."""
    if not _is_old(data):
        return data
    stated = data.get("objective", "wav2vec2")
    objective: dict[str, Any] = dict(stated) if isinstance(stated, dict) else {"kind": stated}
    kind = str(objective.get("kind"))
    own: dict[str, Any] = data[kind] if isinstance(data.get(kind), dict) else {}
    objective |= {name: value for name, value in own.items() if kind != "hubert" or name not in OFFLINE}
    if "mask" in data:
        objective["mask"] = data["mask"]
    if kind == "hubert":
        targets = {name: value for name, value in own.items() if name in OFFLINE}
        targets |= {name: data[name] for name in ("units", "units_hop", "teacher") if name in data}
        objective |= {"targets": targets} if targets else {}
    old = {name.partition(".")[0] for name in PLACES}
    return {name: value for name, value in data.items() if name not in old | {"objective"}} | {"objective": objective}


def refuse_old_form(data: dict[str, Any], where: str) -> None:
    """Raise ConfigError for settings in the old form; the message shows them in the present one."""
    if not _is_old(data):
        return
    prefix = f"{where}." if where else ""
    lines = toml_lines({"objective": in_new_form(data)["objective"]}, prefix)
    raise ConfigError(
        "the settings of the objective are in their old form. They are one table now, with the settings of one "
        "objective only:\n"
        + "\n".join(lines)
        + "\nA run that was started with the old form cannot be resumed; choose another output folder"
    )


def refuse_old_overrides(words: list[str], prefix: str) -> None:
    """Raise ConfigError for an option in the old form, and name the present one; ``prefix`` is that of its table."""
    for word in words:
        option = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if not word.startswith("--") or not option.startswith(prefix):
            continue
        key = option.removeprefix(prefix)
        if key == "objective":
            new = "objective.kind"
        else:
            place = next((old for old in PLACES if key == old or key.startswith(f"{old}.")), None)
            if place is None:
                continue
            new = PLACES[place] + key.removeprefix(place)
        raise ConfigError(f"--{prefix}{key}: this setting is --{prefix}{new} now".replace("_", "-"))
