"""Rules of the layout that import-linter does not check."""

import ast
from pathlib import Path

import pytest

import wsfleet

PACKAGE = Path(wsfleet.__file__).parent
PACKAGES = [
    "cli",
    "config",
    "core",
    "endpoint",
    "fleet",
    "pipeline",
    "runtime",
    "serve",
    "sinks",
    "testing",
    "transport",
]
MODULES = sorted(path for name in PACKAGES for path in (PACKAGE / name).rglob("*.py"))


def test_the_top_contains_only_packages() -> None:
    """Beside the packages there are `__init__.py`, `__main__.py` and `py.typed`, and nothing else."""
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == {*PACKAGES, "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_imports_from_the_public_package(path: Path) -> None:
    """`from wsfleet import X` inside the package would hide which package X comes from, and point up."""
    tree = ast.parse(path.read_text("utf-8"))
    names = [
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "wsfleet"
        for name in node.names
    ]
    assert all(name in PACKAGES for name in names)


@pytest.mark.parametrize("name", PACKAGES)
def test_package_docstrings_name_input_and_output(name: str) -> None:
    """The docstring of each package names its input, its output and the packages it imports."""
    text = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text("utf-8"))) or ""
    assert "Input: " in text and "Output: " in text and ("Imports " in text or "imports " in text.lower())
