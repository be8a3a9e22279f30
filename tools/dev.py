"""Set up and run a command, with nothing but Python: `python3 tools/dev.py COMMAND`.

The commands are demo, test, check, python, bench, integrations, jetstream.

The first run creates `.venv` in the root of the project and installs the project with the extras of the command.
`integrations` and `jetstream` make environments of their own: see tools/integrations.py and tools/jetstream.py.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed-from"
EXTRAS = ["cli", "test", "test,bench"]  # Each includes the ones before it.

LINT_IMPORTS = ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
"""The layers of the package, as pyproject.toml states them."""
OWN = ["integrations", "jetstream"]
"""The commands that are modules in tools/."""
COMMANDS: dict[str, list[list[str]]] = {
    "demo": [["-m", "hangarlog", "demo"]],
    "test": [["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]],
    "check": [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"], ["-m", "mypy"], LINT_IMPORTS],
    "python": [[]],
    "bench": [["-m", "bench"]],
}


def set_up(extra: str) -> None:
    """Create the environment. Update it if pyproject.toml changed or the command needs more extras."""
    project = (ROOT / "pyproject.toml").read_text()
    installed = STAMP.read_text() if STAMP.is_file() else ""
    if installed in [f"{enough}\n{project}" for enough in EXTRAS[EXTRAS.index(extra) :]]:
        return
    print(f"setting up {VENV} …", file=sys.stderr)
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True, clear=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--editable", f"{ROOT}[{extra}]"], check=True)
    STAMP.write_text(f"{extra}\n{project}")


def main() -> int:
    """Run the command that the first argument names, with the rest as its arguments. Return its exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in [*COMMANDS, *OWN]:
        print(f"usage: python3 tools/dev.py {'|'.join([*COMMANDS, *OWN])} …", file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python runs this file first
        print("hangarlog needs Python 3.11 or newer", file=sys.stderr)
        return 2
    if sys.argv[1] in OWN:
        command = [sys.executable, "-m", f"tools.{sys.argv[1]}", *sys.argv[2:]]
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    set_up({"demo": "cli", "bench": "test,bench"}.get(sys.argv[1], "test"))
    for command in COMMANDS[sys.argv[1]]:
        done = subprocess.run([str(PYTHON), *command, *sys.argv[2:]], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
