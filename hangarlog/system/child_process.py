"""Python processes that import nothing from the current folder, which may be a hostile store."""

from __future__ import annotations

import os
import subprocess
import sys

from hangarlog.system.import_path import elsewhere


def start(program: str, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a Python program, with this process's module path and some environment variables of its own.

    `program` begins with `import sys; sys.path[:] = sys.argv[1:]`, before it imports anything else.
    """
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(elsewhere(given))}
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # As `multiprocessing` does.
    command = [sys.executable, "-P", *flags, "-c", program, *elsewhere(sys.path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
