"""The pages: every link, path, module and verb that they name is there, and the README stays short."""

import ast
import re
from pathlib import Path

import pytest

import speechssl
from speechssl.cli.main import VERBS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("manifests/*.md")])
ROOMS = ("speechssl", "tests", "benchmarks", "configs", "docs", "manifests")


def missing(page: Path, text: str) -> list[str]:
    """Return what a page names that is not there: relative links, paths in backticks, modules after ``python -m``."""
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    gone = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", text)
    gone += [path for path in paths if not (ROOT / path).exists()]
    modules = re.findall(rf"-m ((?:{'|'.join(ROOMS)})[\w.]*)", text)
    gone += [name for name in modules if name == name.lower() and not runnable(name)]  # capitals stand for any name
    return gone


def runnable(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__main__.py").exists()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing(page, text) == []
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    verbs = set(re.findall(r"^(?:torchrun .* -m )?speechssl (\w+)", blocks, re.MULTILINE))
    assert verbs <= VERBS.keys() | {"VERB"}


def test_what_is_missing_is_found() -> None:
    text = "[a](b.md) [c](README.md#x) [d](https://e.f) `tests/none.py` `tests/` -m benchmarks.none, -m speechssl.cli"
    assert missing(ROOT / "README.md", text) == ["b.md", "tests/none.py", "benchmarks.none", "speechssl.cli"]


def test_every_page_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        assert f"]({name})" in text or page.name in {"README.md", "CHANGELOG.md"}, name


def test_the_readme_is_short_and_its_python_is_right() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 775
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    tree = ast.parse(code)
    assert len(tree.body) == 5
    owners = {"speechssl": speechssl, "model": speechssl.SpeechModel}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    assert len(calls) == 4
    for node in calls:
        assert isinstance(node.value, ast.Name)
        assert hasattr(owners[node.value.id], node.attr), ast.unparse(node)
