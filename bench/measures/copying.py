"""A copy of a store beside other ways to have it twice: `python -m bench.measures.copying`.

Each figure is a median over rounds, in events a second, and in microseconds of processor time of an event. In a round
all ways take turns with one source, as commands in processes of their own. Not all do the same: `cp` syncs and checks
nothing, `export | import` compares nothing, `backup` verifies and keeps bytes. The payload is MCP Hangar's
ProviderStarted.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from bench.harness.payload import event
from bench.harness.process import child_environment
from hangarlog import ANY, FileEventStore

SHAPES = (
    ("one event an append, 10 streams", 1, 10),
    ("one event an append, 1,000 streams", 1, 1000),
    ("100 events an append, 1,000 streams", 100, 1000),
)
"""(name, events per append, streams)."""

_HANGARLOG = f"{shlex.quote(sys.executable)} -m hangarlog"
WAYS = {
    "`hangarlog copy`": f"{_HANGARLOG} copy source target",
    "again, nothing is new": f"{_HANGARLOG} copy source target",
    "`export \\| import`": f"{_HANGARLOG} export source - | {_HANGARLOG} import imported -",
    "`hangarlog backup`": f"{_HANGARLOG} backup source backup",
    "`cp -r`": "cp -r source copied",
}


def fill(path: str, events: int, batch: int, streams: int) -> None:
    """Make the source."""
    with FileEventStore(path, durability="relaxed") as store:
        for number in range(0, events, batch):
            store.append(f"provider:{number // batch % streams}", [event(number + n) for n in range(batch)], ANY)


def seconds_of(command: str, folder: str) -> tuple[float, float]:
    """Run a command, and return (seconds, seconds of processor time)."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, shell=True, cwd=folder, env=child_environment(), check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def round_of(events: int, batch: int, streams: int) -> dict[str, tuple[float, float]]:
    """Return {way: (events a second, microseconds of processor time of an event)}."""
    with tempfile.TemporaryDirectory() as folder:
        fill(os.path.join(folder, "source"), events, batch, streams)
        found = {}
        for way, command in WAYS.items():
            wall, processor = seconds_of(command, folder)
            found[way] = events / wall, processor / events * 1e6
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000)
    options = parser.parse_args()
    machine = f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{machine}, {os.getloadavg()[0]:.1f} load\n")
    print("| source | way | events/s | µs of processor |")
    print("| --- | --- | --- | --- |")
    for name, batch, streams in SHAPES:
        rounds = [round_of(options.events, batch, streams) for _ in range(options.rounds)]
        for way in WAYS:
            rate, processor = (statistics.median(column) for column in zip(*(r[way] for r in rounds), strict=True))
            print(f"| {name} | {way} | {rate:,.0f} | {processor:.1f} |", flush=True)


if __name__ == "__main__":
    main()
