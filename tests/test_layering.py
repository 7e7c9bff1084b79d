"""Imports run one way, optional libraries are imported where they are needed, and what is imported is declared."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "textgan"
FILES = sorted(PACKAGE.rglob("*.py"))

# Which parts of the package each part may import, besides itself, textgan.errors and the version.
MAY_IMPORT = {
    "ops": set(),
    "data": {"ops"},
    "models": {"ops"},
    "metrics": {"ops", "data"},
    "sampling": {"ops", "models", "metrics"},
    "training": {"ops", "data", "models", "metrics", "sampling", "config"},
    "analysis": {"ops", "data", "models", "metrics", "sampling", "config", "training"},
    "cli": {"ops", "data", "models", "metrics", "sampling", "config", "training", "analysis", "threads"},
    "config": set(),
    "errors": set(),
    "threads": set(),
    "__init__": set(),
    "__main__": {"cli"},
}
DISTRIBUTIONS = {"yaml": "PyYAML"}


def part_of(module):
    """Return the part that a module of the package belongs to; the config modules are one part."""
    name = module.split(".")[1] if "." in module else "__init__"
    return "config" if name.startswith("config") else name


def modules_imported(tree, *, inside_functions):
    """Yield (line, module) for each import; without those inside functions if so asked."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name of the module"
            if node.module == "textgan":
                names = (f"textgan.{a.name}" for a in node.names if a.name != "__version__")
                yield from ((node.lineno, name) for name in names)
            else:
                yield node.lineno, node.module
        pending.extend(ast.iter_child_nodes(node))


def violations(files):
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        mine = part_of(module)
        for line, imported in modules_imported(tree, inside_functions=True):
            if imported.split(".")[0] == "textgan":
                part = part_of(imported)
                if part not in MAY_IMPORT[mine] | {mine, "errors"}:
                    yield f"{path.relative_to(ROOT)}:{line}: {mine} imports {imported}"


def declared(section, key):
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return {re.match(r"[\w.-]+", line).group() for line in parser[section][key].split("\n") if line}


def test_there_is_something_to_look_at():
    assert {part_of(".".join(p.relative_to(ROOT).with_suffix("").parts)) for p in FILES} == set(MAY_IMPORT)


def test_imports_run_one_way():
    assert list(violations(FILES)) == []


@pytest.mark.parametrize(
    "part, line",
    [
        ("ops", "from textgan.models.generator import Generator"),
        ("models", "import textgan.data.words"),
        ("metrics", "def f():\n    from textgan.models import generator"),
        ("training", "from textgan.cli.main import main"),
        ("data", "from textgan import config"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, monkeypatch, part, line):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "textgan" / part / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    (found,) = violations([path])
    assert found.startswith(f"textgan/{part}/x.py:")


def test_ops_need_only_torch():
    for path in (PACKAGE / "ops").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, imported in modules_imported(tree, inside_functions=True):
            name = imported.split(".")[0]
            assert name in {"torch", "textgan"} | sys.stdlib_module_names, f"{path.name}:{line}: {imported}"


def test_module_tops_import_only_what_setup_cfg_installs():
    core = declared("options", "install_requires")
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, imported in modules_imported(tree, inside_functions=False):
            name = imported.split(".")[0]
            if name != "textgan" and name not in sys.stdlib_module_names:
                place = f"{path.relative_to(ROOT)}:{line}: {imported}"
                assert DISTRIBUTIONS.get(name, name) in core, place


def test_imports_inside_functions_are_declared_somewhere():
    known = declared("options", "install_requires")
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    for extra in parser["options.extras_require"]:
        known |= declared("options.extras_require", extra)
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, imported in modules_imported(tree, inside_functions=True):
            name = imported.split(".")[0]
            if name != "textgan" and name not in sys.stdlib_module_names:
                place = f"{path.relative_to(ROOT)}:{line}: {imported}"
                assert DISTRIBUTIONS.get(name, name) in known, place
