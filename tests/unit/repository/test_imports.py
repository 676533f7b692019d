"""The order of imports, read from the sources: a hand-written table, and the mirror of the package in tests/unit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "vitas_ds"
# Each level may import the levels above it, and nothing of its own level.
ORDER = (
    ("errors",),
    ("arch", "distributed"),
    ("config", "models"),
    ("recipe", "data", "run", "engine", "search.feasible"),
    ("training", "export", "search.scoring", "search.latency"),
    ("search",),
    ("reports",),
    ("stages", "tools"),
    ("__main__",),
)
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
TOP = ("errors", "config", "recipe", "__main__")
FREE = ("",)  # vitas_ds/__init__.py: load() imports what it needs when it is called


def name_of(file: Path) -> str:
    """The module of a file, without the leading ``vitas_ds.``."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str:
    return module if module in TOP or FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def imports(module: str) -> set[str]:
    """The modules of this project that a module imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vitas_ds":
            base = (node.module or "").removeprefix("vitas_ds").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                found.add(full if full in FILES else base)
    return found - {module, ""}


def test_every_package_has_a_level():
    assert {package_of(module) for module in FILES} == {*LEVEL, *FREE}
    assert len(LEVEL) <= 20 and len(ORDER) <= 9


@pytest.mark.parametrize("module", [name for name in FILES if name not in FREE])
def test_imports_follow_the_order(module):
    mine = package_of(module)
    wrong = [
        other for other in imports(module) if mine != package_of(other) and LEVEL[package_of(other)] >= LEVEL[mine]
    ]
    assert wrong == [], f"{module} ({mine}) imports {wrong}"


def test_no_cycles_between_modules():
    """Depth-first search: a module that is reached from itself."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in imports(module):
                visit(other, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


def test_only_engine_imports_deepspeed_and_only_dali_imports_dali():
    for library, allowed in (("deepspeed", "engine"), ("nvidia", "data"), ("wandb", "run"), ("pymoo", "search")):
        users = set()
        for module, file in FILES.items():
            for node in ast.walk(ast.parse(file.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if library in {name.split(".")[0] for name in names}:
                    users.add(package_of(module))
        assert users == {allowed}, f"{library} is imported by {users}"


def test_packages_say_what_they_are():
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
