"""What the tests of subscriptions share: a follower in a thread, and processes that follow or write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from conftest import ROOT

from hangarlog import ANY, EncodedEvent, FileEventStore

LONG = 60.0
"""Seconds that nothing here takes: a test that waits so long has failed."""


def opened(path: Path, **options: Any) -> FileEventStore[Any]:
    return FileEventStore.untyped(path, **{"durability": "relaxed", **options})


def put(store: FileEventStore[Any], count: int = 1, size: int = 10, stream_id: str = "a:1") -> None:
    """Append a batch."""
    store.append(stream_id, [EncodedEvent("Added", b'{"text":"%s"}' % (b"x" * size))] * count, ANY)


class Follower(threading.Thread):
    """Iterates over a subscription until it has ended, and keeps the positions, or the error."""

    def __init__(self, subscription: Any, last: int = 0) -> None:
        super().__init__(daemon=True)
        self.subscription, self.last = subscription, last
        self.found: list[int] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for record in self.subscription:
                self.found.append(record.position)
                if record.position == self.last:
                    return
        except BaseException as error:
            self.error = error

    def end(self) -> list[int]:
        self.join(LONG)
        assert not self.is_alive(), f"it hangs after {self.found[-3:]}"
        if self.error:
            raise self.error
        return self.found


_FOLLOW = """
import sys
from hangarlog import FileEventStore
with FileEventStore.untyped(sys.argv[1], durability="relaxed") as store:
    with store.subscribe(int(sys.argv[2]), timeout=60) as subscription:
        print("ready", flush=True)
        for record in subscription:
            print(record.position, flush=True)
"""

_WRITE = """
import os, signal, sys
from hangarlog import ANY, EncodedEvent, FileEventStore
from hangarlog.filestore.shared_state import SharedState
with FileEventStore.untyped(sys.argv[1], durability=sys.argv[2], exclusive=sys.argv[3] == "exclusive") as store:
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "die before waking\\n":
            SharedState.announce = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            SharedState.wake_durable_followers = SharedState.announce
        store.append("a:1", [EncodedEvent("Added", b"{}")], ANY)
        print("done", flush=True)
"""


class Process:
    """A process that follows a store, or one that appends an event for each line."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str) -> str:
        """Send a line, and return the answer; nothing if the process has ended."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.line()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def follower(path: Path, position: int = 0) -> Process:
    return Process(_FOLLOW, path, position)


def writer(path: Path, durability: str = "relaxed", *, exclusive: bool = False) -> Process:
    return Process(_WRITE, path, durability, "exclusive" if exclusive else "")
