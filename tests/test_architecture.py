"""The house holds: imports go one way, nothing dangerous is called, every configuration loads, files stay small."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from speechssl import config
from speechssl.config.load import from_dict
from speechssl.workflows.demo import DemoConfig
from tests.support.objectives import KINDS, build, make_batch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "speechssl"
FILES = sorted(PACKAGE.rglob("*.py"))
TIERS = (
    {"core"},
    {"config"},
    {"data"},
    {"models"},
    {"objectives", "targets", "interop"},
    {"training"},
    {"evaluation"},
    {"asr"},
    {"understanding"},
    {"reports"},
    {"workflows"},
    {"api"},
    {"cli"},
    {"__main__"},
)
"""Rooms in the order of the arrows: each may import what stands before it, and itself."""
INNER = {
    "data": {
        "audio": set(),
        "ingest": {"audio"},
        "store": {"ingest", "audio"},
        "batches": {"store", "ingest", "audio"},
        "audit": {"ingest", "audio"},
        "synth": {"audio"},
    },
    "models": {"kernels": set()},
    "objectives": {
        "shared": {"base"},
        "two_views": {"base", "shared"},
        "classification": {"base", "shared"},
    },
    "evaluation": {"wer": {"bootstrap"}, "compare": {"wer", "bootstrap"}, "nist": {"compare", "wer", "bootstrap"}},
    "reports": {"page": set(), "run": {"page"}, "comparison": {"run", "page"}},
}
"""What an inner room may import of its own room, besides itself."""
MOST_FILES = 17
PURE_MODELS = {
    "torch",
    "math",
    "dataclasses",
    "typing",
    "collections",
    "copy",
    "itertools",
    "numpy",
    "functools",
    "contextlib",
    "warnings",
    "__future__",
}


def imports(path: Path) -> list[str]:
    """Return the dotted names that a file imports, lazily or not; type-checking imports included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            rooms = (PACKAGE.parent / node.module.replace(".", "/")).is_dir()  # then a name may be a module
            names += [f"{node.module}.{alias.name}" for alias in node.names] if rooms else [node.module]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        own = {name for name in imports(path) if name.startswith("speechssl")}
        assert own == {"speechssl.core.version", "speechssl.api"}  # the latter for its types
        return
    (tier,) = (number for number, rooms in enumerate(TIERS) if parts[0] in rooms)
    allowed = set().union(*TIERS[:tier], {parts[0]})
    for name in imports(path):
        pieces = name.split(".")
        if pieces[0] != "speechssl" or len(pieces) < 2:
            assert not (parts[0] == "data" and name.startswith("torch.nn"))
            continue
        assert pieces[1] in allowed, f"{parts[0]} must not import {name}"
        inner = INNER.get(parts[0], {})
        if pieces[1] == parts[0] and len(pieces) > 2 and parts[1] in inner:
            assert pieces[2] in inner[parts[1]] | {parts[1]}, f"{parts[0]}/{parts[1]} must not import {name}"


COMMON_WORDS = {"sum"}
NAMES_OF_OBJECTIVES = re.compile(
    "|".join(re.sub("[-_]", "[-_]?", kind) for kind in KINDS.keys() - COMMON_WORDS), re.IGNORECASE
)
MAY_NAME_OBJECTIVES = (
    "objectives/",
    "config/",
    "cli/help.py",  # examples name presets
    "interop/",  # architectures and prefixes of weights in the formats of other libraries
)
SHARED_METRICS = {"accuracy"}
"""Words of evaluation in general."""
UNITS_HAVE_TOO = {"perplexity"}
"""What units/units.json says of units has this name, too; training/monitoring/ reads no units."""


def strings_and_names(path: Path) -> tuple[set[str], set[str]]:
    """Return the string constants of a file without its docstrings, and every name that its code uses."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    strings, names = set(), set()
    for node in ast.walk(tree):
        field = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name", ast.ImportFrom: "module"}.get(type(node))
        if field:
            names.add(str(getattr(node, field)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            strings.add(node.value)
    return strings, names


def metrics_of_objectives() -> set[str]:
    """Return the names of all metrics that objectives log, without the number of a group."""
    logged: set[str] = set()
    for kind in KINDS:
        objective = build(kind).double()
        logged |= objective(objective.prepare(make_batch([16_000]))).metrics.keys()
        logged |= {rule.metric for rule in objective.rules}
    return {re.sub(r"_\d+$", "", name) for name in logged} - SHARED_METRICS


def test_nothing_else_names_an_objective_or_its_metrics():
    """In code: prose may say which paper a number comes from."""
    metrics = metrics_of_objectives()
    assert len(metrics) > 8
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(MAY_NAME_OBJECTIVES):
            continue
        strings, names = strings_and_names(path)
        for found in strings | names:
            assert not NAMES_OF_OBJECTIVES.search(found.replace("DemoConfig", "")), (
                f"{name}: {found!r} names an objective"
            )
        known = metrics if name.startswith("training/monitoring/") else metrics - UNITS_HAVE_TOO
        assert not {found.removeprefix("valid_") for found in strings} & known, f"{name} names a metric"


def dotted(path: Path) -> str:
    """Return the name under which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one file, or of one that imports itself (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            place = stack.index(name)
            component = set(stack[place:])
            del stack[place:]
            if len(component) > 1 or name in graph[name]:
                found.append(component)

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_no_file_imports_itself_by_a_detour():
    """Lazy and type-only imports count, too: there is one order in which all files can be read."""
    files = {dotted(path): path for path in FILES}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for found in imports(path):
            target = found if found in files else found.rpartition(".")[0]  # a file, or a name out of a folder's own
            graph[name] |= {target} & files.keys()
    assert sum(map(len, graph.values())) > 2 * len(files), "the graph has lost its edges"
    assert circles(graph) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [{"a", "b", "c"}, {"e"}]


def test_rooms_are_small():
    folders = {path.parent for path in FILES}
    wide = {str(folder): count for folder in folders if (count := len(list(folder.glob("*.py")))) > MOST_FILES}
    assert not wide, f"split these folders into rooms: {wide}"


def test_the_sample_rate_is_written_once():
    constant = re.compile(r"^\w*RATE = 16_?000$", re.MULTILINE)
    found = [path for path in FILES if constant.search(path.read_text(encoding="utf-8"))]
    assert found == [PACKAGE / "data/audio/decode.py"]


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").rglob("*.py")), ids=lambda path: path.name)
def test_models_touch_no_file(path):
    outside = {name.split(".")[0] for name in imports(path)} - PURE_MODELS - {"speechssl"}
    assert not outside, f"models are tensors in, tensors out; {path.name} imports {outside}"
    assert not re.search(r"\bopen\(|Path\(|\.read_text|\.write_", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_dangerous(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert "pickle" not in {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "yaml.load", "os.system", "os.popen"}, f"{path}: {called}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("shell") != "True", f"{path}: shell=True"
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}: torch.load without weights_only=True"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}: bare except"
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = ast.unparse(node.type) in {"Exception", "BaseException"}
            assert not (silent and broad), f"{path}:{node.lineno}: an exception is swallowed"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path} is long: split it by noun"
    assert ast.get_docstring(ast.parse(text)), f"{path} does not open with what it is for"
    assert "utils" not in path.stem


WRITERS = {
    "asr/decoding/language_model.py",  # an unpacked model, in a temporary folder of the caller
    "asr/transcription/outputs.py",  # appends to the journal of transcripts
    "core/ledger.py",  # appends
    "data/audio/ffmpeg.py",  # what came through a pipe, in a temporary folder
    "data/ingest/public/unpack.py",  # extracts into a temporary path of the caller
    "data/synth/corpus.py",  # workers fill an atomic folder of their parent
    "training/monitoring/log.py",  # appends to metrics.jsonl
    "training/monitoring/trackers.py",  # TensorBoard appends to its event files
    "workflows/side_by_side.py",  # a child's output is appended to its log
}
"""Files that write outside ``core/files.py``: they append, or fill what is thrown away or renamed by their caller."""
WHOLE = {"atomic_file", "atomic_folder", "atomic_path", "temporary_path"}
"""Blocks of ``core/files.py``: what is written inside them is whole or not there."""
WRITES = {
    *("write_text", "write_bytes", "truncate", "fsync", "tofile", "savez", "savez_compressed"),
    *("save_file", "save_pretrained", "savefig", "SummaryWriter", "export_chrome_trace", "download_url_to_file"),
    *("copytree", "copyfile", "copyfileobj", "copy2", "move", "rename", "link", "symlink_to", "hardlink_to"),
    *("extract", "extractall", "mkstemp", "NamedTemporaryFile"),
}
"""Names of functions and methods that write to the disk."""


def is_write(call: ast.Call) -> bool:
    """Whether a call writes to the disk, as far as its name and its mode say it; a buffer is not the disk."""
    name = ast.unparse(call.func).rsplit(".", 1)[-1]
    first = ast.unparse(call.args[0]) if call.args else ""
    if name == "open":
        modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        texts = {mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)}
        return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)
    if name == "replace":  # of a path; of a string it has two arguments, and dataclasses' has keywords
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    if name in {"save", "write"} and ast.unparse(call.func) in {"torch.save", "np.save", "soundfile.write"}:
        return first not in {"buffer", "file"}
    return name in WRITES


def writes(node: ast.AST) -> list[int]:
    """Return the lines on which a file writes by itself, outside the blocks of ``WHOLE``."""
    if isinstance(node, ast.With):
        entered = [item.context_expr for item in node.items]
        names = {ast.unparse(each.func) for each in entered if isinstance(each, ast.Call)}
        if names & WHOLE:
            return []
    own = [node.lineno] if isinstance(node, ast.Call) and is_write(node) and "devnull" not in ast.unparse(node) else []
    return own + [line for child in ast.iter_child_nodes(node) for line in writes(child)]


def test_H6_there_is_one_writer():
    found = {
        path.relative_to(PACKAGE).as_posix(): lines
        for path in FILES
        if (lines := writes(ast.parse(path.read_text(encoding="utf-8"))))
    }
    del found["core/files.py"]
    assert {name: lines for name, lines in found.items() if name not in WRITERS} == {}, "write through core/files.py"
    assert set(found) == WRITERS, "these files no longer write by themselves: take them off the list"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.open('w')", True),
        ("open(path, mode='ab')", True),
        ("path.open('rb')", False),
        ("path.open()", False),
        ("path.write_text(text)", True),
        ("with atomic_folder(path) as folder:\n    (folder / 'a').write_bytes(data)", False),
        ("with other(path):\n    path.write_bytes(data)", True),
        ("old.replace(new)", True),
        ("text.replace('a', 'b')", False),
        ("replace(cfg, seed=1)", False),
        ("os.rename(old, new)", True),
        ("np.savez(path, x=x)", True),
        ("soundfile.write(path, wave, 16_000)", True),
        ("soundfile.write(buffer, wave, 16_000)", False),
    ],
)
def test_writing_is_seen(code, found):
    assert bool(writes(ast.parse(code))) is found


def config_class(path: Path) -> type:
    """The configuration class of a shipped file, told by its name's first word."""
    kinds = {
        "run": config.RunConfig,
        "demo": DemoConfig,
        "compare": config.CompareObjectivesConfig,
        "finetune": config.FinetuneConfig,
        "evaluate": config.EvaluateConfig,
        "selftrain": config.SelftrainConfig,
    }
    return kinds.get(path.stem.split("-")[0], config.PretrainConfig)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_loads(path):
    from_dict(config_class(path), tomllib.loads(path.read_text(encoding="utf-8")))


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from speechssl.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'numpy', 'tyro', 'soundfile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
