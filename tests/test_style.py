"""The sources keep their own rules: formatter, linter, strict types, documented names, one seam."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

import hangarlog

SOURCES = sorted((ROOT / "hangarlog").rglob("*.py"))
ALL = sorted(path for top in ("hangarlog", "tests", "bench", "tools") for path in (ROOT / top).rglob("*.py"))
FOLDERS = sorted(
    {path.parent for path in ALL if ROOT / "tests" in path.parents and not (path.parent / "__init__.py").exists()}
)
"""Those that pytest puts on the path: the modules in them import each other by their bare names."""
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
COMMANDS = {
    "ruff check": ["-m", "ruff", "check"],
    "ruff format": ["-m", "ruff", "format", "--check"],
    "mypy": ["-m", "mypy"],
    "lint-imports": ["-c", LINT_IMPORTS, "--no-cache"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_sources_are_clean(name: str) -> None:
    done = subprocess.run(
        [sys.executable, *COMMANDS[name]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_typed_program_against_the_public_names_runs() -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "tests/public_api.py")], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )


def test_the_core_imports_nothing_but_its_two_dependencies() -> None:
    """What the command line and the importer need is not loaded by `import hangarlog`."""
    program = (
        "import sys; before = set(sys.modules); import hangarlog; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    loaded = {name for name in done.stdout.split() if name not in sys.stdlib_module_names}
    assert loaded <= {"hangarlog", "msgspec", "filelock", "typing_extensions", "isal"}  # The last where it is there.
    assert not {"sqlite3", "click", "asyncio"} & set(done.stdout.split())


SEAMS = {"filesystem.py", "mcp_hangar_sqlite.py", "crashes.py"}


def test_only_the_seam_calls_what_changes_files() -> None:
    """os.write, fsync, rename and their like are in filesystem.py; a database and crash states are other files."""
    changing = {"write", "fsync", "fdatasync", "ftruncate", "rename", "replace", "unlink", "remove", "link", "mkdir"}
    assert {path.name for path in SOURCES} >= SEAMS
    for path in SOURCES:
        if path.name in SEAMS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in changing, f"{path.name}:{node.lineno} os.{node.attr}"


def oversized(path: Path) -> Iterator[str]:
    """What is too large in a module: a file of more than 500 lines, a function of 60 or more."""
    text = path.read_text()
    if text.count("\n") > 500:
        yield f"{path}: {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= 60:
            yield f"{path}:{node.lineno} {node.name}: {(node.end_lineno or 0) - node.lineno} lines"


def test_files_and_functions_stay_small() -> None:
    assert not [found for path in ALL for found in oversized(path)]


def imported(path: Path, paths: set[Path]) -> Iterator[Path]:
    """The modules among `paths` that the one at `path` imports anywhere, also in its functions.

    A name that is not below the root is looked for in the folders of tests, as pytest does. That a module's package is
    imported before it does not count.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from module_of(alias.name.split("."), places_of(path, alias.name), paths)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            parts = name.split(".") if name else []
            places = [path.parents[node.level - 1]] if node.level else places_of(path, name)
            for alias in node.names:
                yield from list(module_of([*parts, alias.name], places, paths)) or module_of(parts, places, paths)


def places_of(path: Path, name: str) -> list[Path]:
    """Where the module at `path` finds the one of this whole name."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return []
    return [ROOT, *(FOLDERS if ROOT / "tests" in path.parents else ())]


def module_of(parts: list[str], places: list[Path], paths: set[Path]) -> Iterator[Path]:
    """The module of that name in the first of the places that has one."""
    for place in places:
        for found in (place.joinpath(*parts).with_suffix(".py"), place.joinpath(*parts, "__init__.py")):
            if parts and found in paths:
                yield found
                return


def test_no_imports_go_in_circles() -> None:
    paths = set(ALL)
    graph = {path: set(imported(path, paths)) for path in paths}
    assert sum(map(len, graph.values())) > 2 * len(paths)  # It does see them.
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_modules_that_are_imported_by_bare_names_have_different_ones() -> None:
    names = [path.stem for folder in FOLDERS for path in folder.glob("*.py") if path.stem != "__main__"]
    names += [path.parent.name for path in ALL if path.name == "__init__.py" and path.parent.parent in FOLDERS]
    assert sorted(names) == sorted(set(names))


def test_the_public_names_are_all_there_and_documented() -> None:
    for name in hangarlog.__all__:
        value = getattr(hangarlog, name)
        if callable(value):
            assert value.__doc__, name
    assert (
        sorted(hangarlog.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)) == hangarlog.__all__
    )


def test_the_version_has_its_entry_in_the_changelog() -> None:
    assert f"## {hangarlog.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [name.split(">")[0] for name in project["dependencies"]] == ["msgspec", "filelock"]


def test_the_packages_data_is_the_tests_data() -> None:
    """The demo's events are installed from there."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source in wheel["force-include"]:
        assert Path(ROOT / source).is_file()
