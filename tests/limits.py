"""Programs that may take only so much memory and processor time."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT


def run_limited(program: str, more: int, *arguments: object, seconds: int = 120) -> str:
    """Run a program in a process that may take so many bytes `more` than it has once hangarlog is imported."""
    begin = (
        "import os, resource, sys; from hangarlog import *; import hangarlog.maintenance.verify\n"
        "def limit(more):\n"
        "    pages = int(open('/proc/self/statm').read().split()[0])\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))\n"
        "def opened(path, **options):\n"
        "    options = {'durability': 'relaxed', **options}\n"
        "    return FileEventStore(path, serializer=EventSerializer(unknown='untyped'), **options)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{begin}more = {more}\n{program}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},  # Freed is given back.,
    )
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout
