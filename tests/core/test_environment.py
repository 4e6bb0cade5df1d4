"""What a run was made with is written beside it, and the report says it even when made elsewhere later."""

import json
import platform
from importlib import metadata

import speechssl
from speechssl.core.environment import environment, write_environment
from speechssl.reports.run.build import build_report
from tests.support.tiny import run_tiny


def test_versions_are_those_that_run():
    found = environment()
    assert found["speechssl"] == speechssl.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == metadata.version("torch")


def test_packages_that_are_missing_are_left_out(monkeypatch):
    monkeypatch.setattr("speechssl.core.environment.PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert set(environment()) == {"speechssl", "python", "numpy", "platform", "processor"}


def test_a_file_beside_the_run(tmp_path):
    write_environment(tmp_path, devices="8 x cuda")
    assert json.loads((tmp_path / "environment.json").read_text(encoding="utf-8")) == {
        **environment(),
        "devices": "8 x cuda",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["environment.json"]


def test_a_training_run_remembers_its_environment(tmp_path, monkeypatch):
    run_tiny(tmp_path)
    saved = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert saved["devices"] == "1 x cpu"
    monkeypatch.setattr("speechssl.core.environment.__version__", "99.0")
    build_report(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["environment"] == saved
