"""A part of the hostile-input campaign: files that seem to be larger than any device, and counts that lie.

Each case runs all commands in one process that may take `MEMORY` bytes and `SECONDS` of the processor, so that neither
can grow with what a file claims. Every command ends with a code of its own, none with a traceback.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostile_input import Part

MEMORY = 1 << 30
SECONDS = 60
HUGE = 1 << 40

PROGRAM = """
import json, os, resource, sys
from hangarlog.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), resource.RLIM_INFINITY))
for words in json.loads(sys.argv[3]):
    sys.argv = ["hangarlog", *words]
    try:
        main()
    except SystemExit as ended:
        print("ended", words[0], ended.code, file=sys.stderr, flush=True)
"""


def commands(store: Path, scratch: Path) -> list[list[str]]:
    """All there are, those first that only read; the last ones show that the store works after a repair."""
    path = str(store)
    looks = [["verify", path, "--read-only"], ["read", path, "--limit", "9"], ["tail", path], ["tail", path, "a:1"]]
    looks += [["read", path, "a:1", "--reverse"], ["read", path, "--reverse", "--limit", "3"], ["stats", path]]
    looks += [["streams", path, "-l"], ["verify", path], ["read", path, "--skip-damaged"]]
    makes = [["export", path, str(scratch / "out.jsonl")], ["backup", path, str(scratch / "backup")]]
    event = ["append", path, "a:1", "--type", "T", "--data", "{}"]
    return [*looks, *makes, event, ["repair", path], ["verify", path], ["read", path, "--skip-damaged"], event]


def run_all(part: Part, name: str, *, works: bool = True) -> None:
    """All commands on the part's store; with `works` the last ones must succeed, as they come after a repair."""
    scratch = part.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with part.case(name):
        words = commands(part.path, scratch)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(MEMORY), str(SECONDS), json.dumps(words)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"},
            check=False,
        )
        errors = done.stderr.decode("utf-8", "replace")
        ended = [line.split() for line in errors.splitlines() if line.startswith("ended ")]
        at = words[len(ended)][0] if len(ended) < len(words) else "its end"
        assert done.returncode == 0, f"{at}: ended with {done.returncode}: {errors[-700:]}"
        assert "Traceback" not in errors, errors[-700:]
        codes = [code for _, _, code in ended]
        assert set(codes) <= {"0", "1", "2"}, ended
        assert not works or codes[-1] == codes[-2] == "0", errors[-700:]
        part.figures["commands on files of any size"] += len(codes)


def grown(path: Path) -> None:
    """A hole behind what is there."""
    path.touch()
    os.truncate(path, HUGE)


def ended_by_a_line(path: Path) -> None:
    """The same, and then a newline: so it is a line."""
    grown(path)
    with open(path, "ab") as file:
        file.write(b"\n")


def begun_by_a_hole(path: Path) -> None:
    """A hole, and then what was there."""
    content = path.read_bytes() if path.exists() else b"x\n"
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.seek(HUGE)
        file.write(content)


def divided(path: Path) -> None:
    """A hole in the middle, at the end of a line where there are lines."""
    content = path.read_bytes() if path.exists() else b"x\n"
    middle = content.find(b"\n", len(content) // 2) + 1 or len(content) // 2
    with open(path, "wb") as file:
        file.write(content[:middle])
        file.seek(HUGE)
        file.write(content[middle:])


HOLES = (grown, ended_by_a_line, begun_by_a_hole, divided)
LEFT_OVER = ["journal.jsonl.new", "streams/a/1.jsonl.new", "hangarlog.json.new", "ring.new", "put-aside.jsonl"]
LEFT_OVER += ["journal.jsonl.rebuilt", "streams/b/1.jsonl.rebuilt", "backup.json", "locks/write.lock"]


def sizes(part: Part) -> None:
    """Every file of a store, and those that may be left beside them, with a hole of a terabyte."""
    from hostile_input import make_base

    base = part.folder / "base"
    make_base(base)
    (base / "ring").write_bytes(bytes(1 << 20))
    names = [str(path.relative_to(base)) for path in sorted(base.rglob("*")) if path.is_file()]
    for name in [*names, *LEFT_OVER]:
        for make in part.rng.sample(HOLES, len(HOLES) if part.size >= 1000 else 1):
            for lost in part.states():
                part.made_anew(base, lost=lost)
                make(part.path / name)
                shown = f"{name}: {make.__name__}{', state lost' if lost else ''}"
                run_all(part, shown, works=name != "hangarlog.json")
