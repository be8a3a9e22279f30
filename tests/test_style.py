"""The sources keep their own rules: formatter, linter, strict types, documented names, one seam."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

import hangarlog

SOURCES = sorted((ROOT / "hangarlog").rglob("*.py"))


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_the_sources_are_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
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


def test_files_and_functions_stay_small() -> None:
    """A file under 500 lines, a function under 60."""
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 500, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}:{node.lineno} {node.name}"


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
