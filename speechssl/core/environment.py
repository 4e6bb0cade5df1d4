"""Versions and machine of a run: this package, Python, and the libraries that its numbers depend on.

In: nothing. Out: names and values, also as ``environment.json`` in the run folder, which the report reads.
"""

import platform
from importlib import metadata
from pathlib import Path

from speechssl.core.files import write_json
from speechssl.core.version import __version__

__all__ = ["environment", "write_environment"]

PACKAGES = ("torch", "torchaudio", "numpy", "webdataset", "soundfile", "soxr", "jiwer")


def environment() -> dict[str, str]:
    """Return versions and platform of this process; packages that are not installed are left out."""
    found = {"speechssl": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "platform": platform.platform(), "processor": platform.machine()}


def write_environment(folder: Path, **more: str) -> None:
    """Write ``environment.json`` into a folder, with ``more`` at its end; a resumed run replaces it."""
    write_json(folder / "environment.json", {**environment(), **more})
