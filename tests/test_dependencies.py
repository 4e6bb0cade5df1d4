"""pyproject.toml is true: what the package imports is declared, and what is declared is imported."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from fsspec.registry import known_implementations

from speechssl.data.store.remote import STORES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = {
    "PIL": "pillow",
    "flashlight": "flashlight-text",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages whose name in imports is not the one they are installed by (``_`` and ``-`` are the same)."""
OURS = {"speechssl", "tests", "benchmarks", "docs", "_typeshed"}
"""And ``_typeshed``, which is there for type checkers alone."""
TOOLS = {
    "ruff": "ruff check",
    "mypy": "/mypy",
    "pytest-xdist": "--dist ",
    "pytest-cov": "--cov ",
}
"""Tools of the extra ``dev``, and how the Makefile calls them."""
LOADED_BY_FSSPEC = {"s3fs", "gcsfs", "adlfs", "huggingface-hub"}
"""What fsspec imports when an address of its kind is opened; the package names none of them."""
DEVELOPMENT = {"bench", "dev", "notebook"}
"""Extras that the package itself does not import: benchmarks, tests and the notebook of docs/ do."""


def distribution(requirement):
    """``Foo_bar>=1`` -> ``foo-bar``."""
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")


def imported(path):
    """{distribution: is it only imported when it is needed, or where its absence is handled}."""
    found = {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            child.at_start = isinstance(parent, ast.Module)
    for node in ast.walk(tree):
        for name in names(node):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names | OURS:
                continue
            installed = NAMES.get(top, top).lower().replace("_", "-")
            found[installed] = found.get(installed, True) and not node.at_start
            if name.startswith("torch.utils.tensorboard"):
                found["tensorboard"] = True  # torch's writer is a shell around it
    return found


def names(node):
    """Return the modules that one node of the tree imports, by statement or through importlib."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module]
    called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
    if called in {"import_module", "find_spec", "importorskip"} and node.args:
        first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        return [first.value] if isinstance(first, ast.Constant) else []
    return []


def imports_below(*folders):
    found = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for name, lazy in imported(path).items():
            found.setdefault(name, {})[str(path.relative_to(ROOT))] = lazy
    return found


HARD = {distribution(item) for item in PROJECT["dependencies"]}
EXTRAS = {name: {distribution(item) for item in items} for name, items in PROJECT["optional-dependencies"].items()}
OPTIONAL = set().union(*(items for name, items in EXTRAS.items() if name not in DEVELOPMENT)) - HARD
PACKAGE = imports_below("speechssl")


def test_what_the_package_imports_is_declared_and_what_is_declared_is_imported():
    assert set(PACKAGE) | LOADED_BY_FSSPEC == HARD | OPTIONAL
    opened = {known_implementations[kind]["class"].split(".")[0].replace("_", "-") for kind in STORES}
    assert opened - {"fsspec"} == EXTRAS["stores"] == LOADED_BY_FSSPEC


def test_the_reader_of_imports_sees_every_way_to_import(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "import os, alpha.inner\nfrom beta_x.y import z\nfrom speechssl import q\n"
        "try:\n    import gamma\nexcept ImportError:\n    gamma = None\n"
        "def f():\n    import PIL.Image\n    importlib.import_module(f'delta.{f}')\n"
        "    if find_spec('epsilon'):\n        from torch.utils.tensorboard import W\n"
        "if TYPE_CHECKING:\n    import zeta\n",
        encoding="utf-8",
    )
    assert imported(path) == {
        "alpha": False, "beta-x": False, "gamma": True, "pillow": True, "delta": True, "epsilon": True, "torch": True,
        "tensorboard": True, "zeta": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(OPTIONAL & set(PACKAGE)))
def test_what_an_extra_brings_is_never_imported_at_the_start_of_a_module(name):
    assert not {path for path, lazy in PACKAGE[name].items() if not lazy}


def test_tests_benchmarks_and_pictures_import_what_is_declared():
    development = imports_below("tests", "benchmarks", "docs")
    declared = HARD.union(*EXTRAS.values())
    foreign = {"fairseq2", "torchcodec", "fastabx"}  # peers that are measured or compared where they are installed
    undeclared = {name: sorted(paths) for name, paths in development.items() if name not in declared | foreign}
    assert not undeclared
    unused = {name for extra in DEVELOPMENT & set(EXTRAS) for name in EXTRAS[extra]} - set(development) - set(PACKAGE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert unused == {tool for tool, call in TOOLS.items() if call in makefile}


def test_versions_leave_room_for_newer_releases():
    """torchaudio 2.11 is its last feature release and names no torch; librosa 1 is not refused before it exists."""
    wanted = {distribution(item): item for item in PROJECT["dependencies"]}
    assert wanted["torch"] == "torch>=2.11" and "<" not in wanted["torchaudio"] + wanted["librosa"]


def test_constraints_pin_every_dependency_to_a_version_it_allows():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {distribution(line): line.partition("==")[2] for line in lines if line}
    installed_by_make = HARD.union(*(EXTRAS[name] for name in ("demo", "bpe", "dev", "bench", "fast")))
    assert installed_by_make <= set(pinned) and all(pinned.values())
