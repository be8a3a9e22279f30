"""What people install: the wheel is built from the source distribution, and the tests of the latter run on it.

The sources are out of reach: the tests' folder has no `hangarlog`.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from conftest import ROOT

import hangarlog

PYTHONS = ["3.12", "3.13", "3.14", "3.13t", "3.14t"]
"""Those that are tested with the newest versions. Python 3.11 is tested with the lowest."""
TESTED = ["record", "log", "testing", "test_conformance.py", "package/test_installed.py"]
NEEDED = ["attrs", "hypothesis", "pytest", "pytest-timeout", "trio"]
"""What these tests import."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # From 3.11.4 on.
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


@pytest.fixture(scope="session")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from it. Then the sources are deleted."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=unpacked, check=True, capture_output=True)
    shutil.rmtree(unpacked / "hangarlog")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(files.read(name))


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"hangarlog", "pytest_hangarlog.py", f"hangarlog-{hangarlog.__version__}.dist-info"}
    assert {"hangarlog/py.typed", "hangarlog/cli/mcp-hangar-events.db"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/test_" in name]


def test_an_index_shows_links_that_work_there(metadata: Message) -> None:
    text = str(metadata.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for target in targets:
        local = re.sub(r"^https://[^/]*/hangarlog/hangarlog/(blob/)?main/", "", target).partition("#")[0]
        assert "://" in local or not local or (ROOT / local).exists(), target


def test_the_metadata_says_what_it_is_for(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")} <= set(classifiers)
    assert len(metadata.get_all("Project-URL", [])) == 4
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_passes_its_tests_with_the_newest_versions(
    version: str, wheel: Path, unpacked: Path, tmp_path: Path
) -> None:
    python = _found(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    _run_tests(python, [f"{wheel}[aio,cli,fast]", *NEEDED], unpacked, tmp_path)


def test_the_wheel_passes_its_tests_with_the_lowest_versions(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    """Of what hangarlog needs, not of what tests it."""
    extras = PROJECT["optional-dependencies"]
    stated = [*PROJECT["dependencies"], *(line for name in ("aio", "cli", "fast") for line in extras[name])]
    lowest = [line.replace(">=", "==") for line in stated]
    python = _found("3.11")
    if python is None:
        pytest.skip("there is no Python 3.11 here, for which the lowest versions were made")
    _run_tests(python, [f"{wheel}[aio,cli,fast]", *NEEDED, *lowest], unpacked, tmp_path)


def _run_tests(python: str, packages: list[str], tests: Path, folder: Path) -> None:
    """Run the tests in `tests` in an environment with these packages."""
    environment = folder / "environment"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "COV"))}
    subprocess.run([python, "-m", "venv", environment], check=True, env=bare)
    inside = environment / "bin/python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(pip, env=bare, capture_output=True, text=True, check=False)
    if "(from versions: none)" in done.stderr and not os.environ.get("HANGARLOG_REQUIRE_TOOLS"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    command = [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTED)]
    done = subprocess.run(command, cwd=tests, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{3,} passed", done.stdout)


def _found(version: str) -> str | None:
    """Return a Python of this version: one on the PATH, or one installed beside this one."""
    free = version.endswith("t")
    command = shutil.which(f"python{version}")
    folders = [Path(sys.base_prefix).parent]
    if command:  # It may be a script of a version manager, which runs only a version that is chosen.
        folders.append(Path(command).parent.parent / "versions")
    beside = [python for folder in folders for python in folder.glob(f"{version.rstrip('t')}*{'t' * free}/bin/python3")]
    for python in (command, *map(str, sorted(beside))):
        if python is None:
            continue
        code = "import sys, sysconfig; print(*sys.version_info[:2], bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.split() == [*version.rstrip("t").split("."), str(free)]:
            return python
    return None
