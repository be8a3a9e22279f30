"""The child process of one measurement: `python -m bench.child TASK` runs a task and prints its result as JSON."""

from __future__ import annotations

import os
import sys
import traceback

import msgspec

from bench.engines.registry import load_engine
from bench.harness import recipes
from bench.harness.engine import Figures, Run, Task, Unsupported
from bench.harness.process import Result
from bench.harness.workload import Workload
from bench.measures.followers import follow
from bench.measures.opening import append_until_killed
from bench.measures.waking import wait
from bench.measures.writers import write
from bench.workloads import find

ROLES = {"write": write, "follow": follow, "wait": wait, "append until killed": append_until_killed}


def main() -> None:
    """Run the task of the command line."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    workload = find(task.workload)
    durable = workload.durable and task.role != "prepare"
    run = Run(load_engine(task.contender), task, durable, workload.payload_kind)
    run.engine.load()
    if role := ROLES.get(task.role):
        role(run)
        return
    try:
        result = Result(_figures(run, workload))
    except Unsupported as reason:
        result = Result(unsupported=str(reason))
    except Exception as error:
        traceback.print_exc()
        result = Result(error=f"{type(error).__name__}: {error}"[:300])
    print(msgspec.json.encode(result).decode(), flush=True)
    os._exit(0)  # Skips the cleanup of an engine's threads and of a million objects.


def _figures(run: Run, workload: Workload) -> Figures:
    prepares = run.task.role == "prepare"
    driven = run.engine.drive(f"write {workload.recipe}" if prepares else workload.key, run)
    if driven is not None:
        return driven
    if prepares:
        recipes.write(run, workload.recipe)
        return {}
    return workload.measure(run)


if __name__ == "__main__":
    main()
