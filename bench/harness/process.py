"""Child processes: a task goes out as an argument, a result comes back as the last line of standard output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec

from bench.harness.engine import Figures, Task
from bench.harness.paths import ROOT

TASK_TIMEOUT_SECONDS = 600.0
"""A hang guard for one task."""

CHILD_TIMEOUT_SECONDS = 180.0
"""A hang guard for one of the children that a task starts."""


class Result(msgspec.Struct):
    """The result of a task: figures, or the reason why there are none."""

    figures: Figures = {}
    error: str = ""
    unsupported: str = ""


def child_command(task: Task) -> list[str]:
    """Return the command line of a child."""
    return [sys.executable, "-m", "bench.child", msgspec.json.encode(task).decode()]


def child_environment() -> dict[str, str]:
    """Return the environment of a child, which imports from this source tree first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def run_task(task: Task) -> Result:
    """Run a task in a child, and return its result, also if the child fails or hangs."""
    with subprocess.Popen(
        child_command(task),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,
    ) as child:
        try:
            output, errors = child.communicate(timeout=TASK_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # The group includes its servers and writers.
            return Result(error=f"timed out after {TASK_TIMEOUT_SECONDS:.0f} s")
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    try:
        return msgspec.json.decode(output.splitlines()[-1], type=Result)
    except (IndexError, msgspec.MsgspecError):
        lines = errors.decode(errors="replace").strip().splitlines()
        return Result(error=f"exit code {child.returncode}: {lines[-1] if lines else 'no output'}")
