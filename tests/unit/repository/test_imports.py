"""The import order of the packages, and the mirror of the package in tests/unit.

Reference: the table ORDER, written by hand, and the sources as `ast` reads them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "vitas_ds"
# Each level may import the levels above it, and nothing of its own level except its own package.
ORDER = (
    ("errors",),
    ("arch", "distributed"),
    ("config", "models"),
    ("recipe", "data", "run", "engine", "search.feasible"),
    ("training", "export", "elastic", "search.scoring", "search.latency"),
    ("search",),
    ("reports",),
    ("stages", "tools"),
    ("__main__",),
)
PARTS = {"search.trials": "search", "commands": "__main__"}  # they belong to another package
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
# The only package that may import a library
OWNER = {"deepspeed": "engine", "nvidia": "data", "wandb": "run", "pymoo": "search"}


def module_name(file: Path) -> str:
    """Return the module of a file without the leading ``vitas_ds.``; "" for ``vitas_ds/__init__.py``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
MODULES = [module for module in FILES if module]  # vitas_ds.load() imports its modules when it is called


def package_of(module: str) -> str:
    package = module if module in LEVEL or module in PARTS else module.rpartition(".")[0]
    return PARTS.get(package, package)


def imported_names(module: str) -> Iterator[str]:
    """Yield the absolute names of the imports of a module, also inside functions."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import; write it as an absolute one"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project_imports(module: str) -> set[str]:
    """Return the modules of vitas_ds imported by a module."""
    found = set()
    for name in imported_names(module):
        library, _, inner = name.partition(".")
        if library == "vitas_ds":
            found.add(inner if inner in FILES else inner.rpartition(".")[0])
    return found - {module, ""}


def test_every_package_has_a_level():
    assert {package_of(module) for module in MODULES} == set(LEVEL)
    assert len(LEVEL) <= 20 and len(ORDER) <= 9


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_order(module):
    package = package_of(module)
    others = {other for other in project_imports(module) if package_of(other) != package}
    wrong = sorted(other for other in others if LEVEL[package_of(other)] >= LEVEL[package])
    assert wrong == [], f"{module} ({package}) imports {wrong}"


def test_modules_form_no_import_cycle():
    """Depth-first search: no module is reached from itself."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in project_imports(module):
                visit(other, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


@pytest.mark.parametrize("library", OWNER)
def test_one_package_imports_each_library(library):
    users = {package_of(module) for module in FILES if library in {n.split(".")[0] for n in imported_names(module)}}
    assert users == {OWNER[library]}


def test_packages_describe_themselves_and_their_imports():
    for module, file in FILES.items():
        if file.name == "__init__.py" and module:
            text = ast.get_docstring(ast.parse(file.read_text())) or ""
            assert "May import:" in text and len(text.splitlines()[0]) > 20, module


def test_unit_tests_mirror_the_package():
    """``tests/unit/P/test_M.py`` or ``test_M_topic.py`` tests ``vitas_ds/P/M.py``."""
    unit = ROOT / "tests" / "unit"
    for file in unit.rglob("test_*.py"):
        folder, words = file.relative_to(unit).parent, file.stem.removeprefix("test_").split("_")
        if folder.name in ("repository", "benchmarks"):
            continue
        modules = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
        assert any((PACKAGE / folder / f"{name}.py").is_file() for name in modules), f"{file}: no such module"
