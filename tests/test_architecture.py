"""Rules of the code base: light imports, public names, private modules, unused functions, places of tests."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import evolve

ROOT = Path(evolve.__file__).parents[1]
HEAVY = ("torch", "transformers", "mergekit", "lm_eval")
SHARED_BY_TESTS = {"support"}
OF_NO_PACKAGE = {"faults", "fuzz"}  # tests of the whole, from outside
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "evolve").rglob("*.py"))
}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def top_level(path: Path) -> Iterator[ast.stmt]:
    """Yield the statements of a module, with those below a top-level `if`, for example `if TYPE_CHECKING`."""
    for statement in parsed(path).body:
        yield from statement.body if isinstance(statement, ast.If) else [statement]


def exported(path: Path) -> list[str]:
    """Return `__all__` of a module; empty where it has none."""
    for statement in top_level(path):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def functions(path: Path) -> list[str]:
    """Return the public top-level functions of a module, without commands, which typer calls."""
    return [
        statement.name
        for statement in top_level(path)
        if isinstance(statement, ast.FunctionDef)
        and not statement.name.startswith("_")
        and not any(ast.unparse(decorator).startswith("app.") for decorator in statement.decorator_list)
    ]


def classes(path: Path) -> list[str]:
    return [s.name for s in top_level(path) if isinstance(s, ast.ClassDef) and not s.name.startswith("_")]


def imported(path: Path) -> list[str]:
    """Return the names that top-level imports bind."""
    return [
        (alias.asname or alias.name).partition(".")[0]
        for statement in top_level(path)
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for alias in statement.names
    ]


def assigned(path: Path) -> list[str]:
    targets = [
        target
        for statement in top_level(path)
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
    ]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def used(path: Path) -> Iterator[str]:
    """Yield every name that a file uses; a package that only exports a name does not use it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and path.name != "__init__.py":
            yield from (alias.name for alias in node.names)


# ------------------------------------------------------------------------------------------------------ light imports


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that a new process has loaded after one import."""
    code = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["evolve", "evolve.config", "evolve.lineage", "evolve.engines.protocols"])
def test_light_modules_load_no_engine(module):
    loaded = loaded_by(module)

    assert "evolve" in loaded
    assert not loaded & set(HEAVY)


# ------------------------------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if exported(path)])
def test_all_names_exactly_what_a_module_offers(name):
    path = MODULES[name]
    names = exported(path)
    private = [found for found in names if found.startswith("_") and found != "__version__"]

    assert len(names) == len(set(names))
    assert not private
    assert not set(names) - {*functions(path), *classes(path), *imported(path), *assigned(path)}
    assert not {*functions(path), *classes(path)} - set(names)


@pytest.mark.parametrize("name", [name for name in MODULES if name in PACKAGES])
def test_a_package_exports_or_uses_all_that_it_imports_from_its_modules(name):
    own = {
        alias.asname or alias.name
        for statement in top_level(MODULES[name])
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(f"{name}.")
        for alias in statement.names
    }

    assert own <= {*exported(MODULES[name]), *used(MODULES[name])}


def imports_of_evolve(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports from evolve."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "evolve":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "evolve")


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_a_private_module_of_another_package(name):
    package = name if name in PACKAGES else name.rpartition(".")[0]
    wrong = []
    for found in imports_of_evolve(MODULES[name]):
        parts = found.split(".")
        private = next((at for at, part in enumerate(parts) if part.startswith("_") and part != "__version__"), None)
        if private is not None and not f"{package}.".startswith(".".join(parts[:private]) + "."):
            wrong.append(found)

    assert not wrong


def test_every_public_function_is_used():
    """Tests are no use: what only they call is either private or dead."""
    files = [path for folder in ("evolve", "benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
    uses = {name for path in files for name in used(path)}
    unused = [
        f"{name}.{function}" for name, path in MODULES.items() for function in functions(path) if function not in uses
    ]

    assert not unused, "\n".join(unused)


# ------------------------------------------------------------------------------------------------- errors, tests


def test_every_error_has_an_exit_code_and_a_place_in_the_overview():
    errors = importlib.import_module("evolve.errors")
    found = [value for name in errors.__all__ if inspect.isclass(value := getattr(errors, name))]

    assert len(found) > 1
    for error in found:
        assert issubclass(error, errors.EvolveError)
        assert error.exit_code == (2 if issubclass(error, errors.InputError) else 1)
        assert error.__name__ in errors.__doc__


def test_the_folders_of_tests_are_those_of_the_packages():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")} - {Path()}
    folders -= {Path(name) for name in OF_NO_PACKAGE}
    packages = {MODULES[name].parent.relative_to(ROOT / "evolve") for name in PACKAGES} - {Path()}

    assert not folders - packages
    assert not {path for path in packages if len(path.parts) == 1} - folders
    assert not {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"} - {
        *(path.parts[0] for path in packages),
        *SHARED_BY_TESTS,
        *OF_NO_PACKAGE,
    }
