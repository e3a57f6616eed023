"""The house keeps its shape: imports go down, modules say what they are for, nothing heavy is loaded early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "longshort"
FLOORS = [
    "shapes config files metrics",
    "cells ops",
    "kernels",
    "operators",
    "functional",
    "layers",
    "blocks tracing checking",
    "model",
    "checkpoints",
    "data",
    "generation evaluation plot progress doctor",
    "training byhand lab lessons",
    "demo",
    "cli",
    "__main__",
]
UPWARD = {("model", "checkpoints")}  # model.save(folder): people look for a method
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(n for n, names in enumerate(FLOORS) if name in names.split())


def imports(path: Path) -> set[str]:
    """The rooms of the package that a module imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "longshort":
            found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longshort."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("longshort.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = room(path)
    for other in imports(path) - {here}:
        assert floor(other) < floor(here) or (here, other) in UPWARD, f"{path} imports {other}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_say_what_they_are_for_and_stay_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert text.count("\n") <= 600, f"{path}: {text.count(chr(10))} lines; it wants to be a folder of the same name"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 80, f"{path}: {node.name} has {lines} lines"


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def tops(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it, by name or by a call with its name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports from '.': say longshort"
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.add(ast.literal_eval(node.args[0]))
    return {name.split(".")[0] for name in found}


CELLS_AND_OPS = [path for path in MODULES if room(path) in ("cells", "ops")]


@pytest.mark.parametrize("path", CELLS_AND_OPS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_cells_and_ops_import_torch_alone(path):
    assert tops(path) - sys.stdlib_module_names <= {"torch", "longshort"}


def test_tops_finds_every_kind_of_import(tmp_path):
    path = tmp_path / "cell.py"
    path.write_text("import os, numpy.linalg\ndef f():\n    from rich import box\n    import_module('triton.language')")
    assert tops(path) == {"os", "numpy", "rich", "triton"}


def test_importing_the_package_and_its_command_line_loads_no_torch():
    assert run("import sys, longshort.cli; longshort.cli.build(); print('torch' in sys.modules)").strip() == "False"


def test_every_public_name_is_there():
    code = "import longshort; print(all(getattr(longshort, n) is not None for n in longshort.__all__))"
    assert run(code).strip() == "True"


def test_a_wrong_name_is_an_attribute_error():
    import longshort

    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = longshort.no_such_name
