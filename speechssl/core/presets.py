"""The presets that come with the package, and configurations by name. Imports no settings: ``--help`` lists presets."""

import difflib
from importlib import resources
from pathlib import Path

from speechssl.core.errors import ConfigError

__all__ = ["find_config", "presets"]


def _preset_folder() -> Path:
    """Return the folder of presets: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(str(resources.files("speechssl"))) / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def presets() -> list[str]:
    """Return the names of the presets that came with the package."""
    return sorted(path.stem for path in _preset_folder().glob("*.toml"))


def find_config(name: str) -> Path:
    """Return the file of a configuration given as a path or as the name of a preset.

    Raises ConfigError when neither a file nor a preset has that name.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    preset = _preset_folder() / f"{name.removesuffix('.toml')}.toml"
    if preset.is_file():
        return preset
    close = difflib.get_close_matches(name, presets(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; presets: {', '.join(presets())}"
    raise ConfigError(f"no configuration file or preset {name!r}{hint}")
