"""A process of its own for every measurement: a task as its argument, figures as its last line on standard output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import msgspec

from bench.harness.workload import Figures, Run, Task, Workload

ROOT = Path(__file__).resolve().parent.parent
_LIMIT = 600.0  # A hang guard, in seconds.


class Answer(msgspec.Struct):
    """What a child says: figures, or why there are none."""

    figures: Figures = {}
    error: str = ""
    unsupported: str = ""


def command(task: Task) -> list[str]:
    """The command line of a child."""
    return [sys.executable, "-m", "bench.child", msgspec.json.encode(task).decode()]


def environment() -> dict[str, str]:
    """With this source tree first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def ask(task: Task) -> Answer:
    """Run a child to its end; whatever happens to it is an answer."""
    with subprocess.Popen(
        command(task),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as child:
        try:
            output, errors = child.communicate(timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # With its servers and writers.
            return Answer(error=f"not done after {_LIMIT:.0f} s")
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    try:
        return msgspec.json.decode(output.splitlines()[-1], type=Answer)
    except (IndexError, msgspec.MsgspecError):
        said = errors.decode(errors="replace").strip().splitlines()
        return Answer(error=f"exit {child.returncode}: {said[-1] if said else 'said nothing'}")


def main() -> None:
    """Do the task of the command line."""
    # Here, because what they import is to be imported in a child, and what they run are children.
    from bench.engines import load
    from bench.harness.engine import Unsupported
    from bench.measures.followers import follow
    from bench.measures.opening import append_for_ever
    from bench.measures.writers import write
    from bench.workloads import find

    task = msgspec.json.decode(sys.argv[1], type=Task)
    workload = find(task.workload)
    run = Run(load(task.contender), task, workload.durable and task.do != "prepare", workload.kind)
    run.engine.load()
    if role := {"write": write, "follow": follow, "append for ever": append_for_ever}.get(task.do):
        role(run)
        return
    try:
        answer = Answer(_figures(run, workload))
    except Unsupported as reason:
        answer = Answer(unsupported=str(reason))
    except Exception as error:
        traceback.print_exc()
        answer = Answer(error=f"{type(error).__name__}: {error}"[:300])
    print(msgspec.json.encode(answer).decode(), flush=True)
    os._exit(0)  # An engine's threads, or a million objects, need not be waited for.


def _figures(run: Run, workload: Workload) -> Figures:
    from bench.harness.recipes import write as write_recipe

    prepares = run.task.do == "prepare"
    driven = run.engine.drive(f"write {workload.prepare}" if prepares else workload.key, run)
    if driven is not None:
        return driven
    if prepares:
        write_recipe(run, workload.prepare)
        return {}
    return workload.measure(run)


if __name__ == "__main__":
    main()
