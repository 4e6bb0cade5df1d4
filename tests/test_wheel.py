"""The wheel holds the whole package: modules, type marker, style sheets and presets."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_a_wheel_holds_every_file_of_the_package_and_works_without_the_checkout(tmp_path):
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed: make setup")
    (path,) = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(tmp_path / "installed")
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = (file for file in (ROOT / "speechssl").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    presets = {f"speechssl/configs/{file.name}" for file in (ROOT / "configs").glob("*.toml")}
    assert names == {file.relative_to(ROOT).as_posix() for file in package} | presets
    assert {"speechssl/py.typed", "speechssl/reports/page/report.css", "speechssl/configs/tiny.toml"} <= names
    found = subprocess.run(
        [sys.executable, "-m", "speechssl", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "wav2vec2-base" in found.stdout
