"""A program that ends in the middle of a call: `python -m … WAY CALL NTH FOLDER`. It is a part of row 17."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_at_the_very_end: list[Callable[[], None]] = []
# Before the store's module registers what it does at exit: so this is done after it.
atexit.register(lambda: [work() for work in _at_the_very_end])

from hangarlog import ANY, HangarlogError  # noqa: E402

from ..cells import event, opened  # noqa: E402
from .strangers import CALLS, MOMENT, Pausing, Strangers  # noqa: E402


class Leaving:
    """A thread that makes a call, and some more; and what the process does in the middle of it.

    The thread is a daemon, or one that the interpreter waits for before it closes anything (`wait`).
    """

    def __init__(self, way: str, call: str, nth: int, path: Path) -> None:
        self.way, self.call = way, call
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.strangers = Strangers(path.parent / "strangers-of-the-process")
        self.filesystem = Pausing(nth, self.stand)
        self.do, durability = CALLS[call]
        self.store = opened(path, durability=durability, filesystem=self.filesystem, lock_timeout=0.2)
        if call != "roll":  # It was used before.
            self.store.append("b:1", [event("warm-0")], ANY)
            say("acknowledged warm-0")
        self.thread = threading.Thread(target=self.work, daemon=way != "wait")

    def stand(self) -> None:
        self.reached.set()
        if self.way == "wait":
            threading.main_thread().join()
        elif self.way != "load":
            self.go_on.wait()

    def work(self) -> None:
        try:
            self.filesystem.thread = threading.get_ident()
            for event_id in self.do(self.store):
                say(f"acknowledged {event_id}")
            self.appends_more()
        except HangarlogError as error:
            if self.way == "wait" and self.call != "close":
                say(f"broken {error!r}")
        except BaseException as error:
            say(f"broken a thread ends in {error!r}")
        finally:
            self.reached.set()

    def appends_more(self) -> None:
        turn = 0
        while turn < 3 or self.way == "load":
            self.store.append("b:1", [event(f"more-{turn}")], ANY)
            say(f"acknowledged more-{turn}")
            turn += 1

    def at_the_very_end(self) -> None:
        """The store's module has done what it does at exit; the interpreter is still whole."""
        self.strangers.open()
        self.go_on.set()
        self.thread.join(MOMENT if self.way == "load" else 10 * MOMENT)
        for change in set(self.strangers.changed()):
            say(f"broken {change}")

    def leave(self) -> None:
        _at_the_very_end.append(self.at_the_very_end)
        self.thread.start()
        self.reached.wait()
        say("counts processes that ended")
        if self.way == "sys":
            sys.exit(0)
        if self.way == "error":
            raise RuntimeError("an error that ends the process")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


Leaving(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])).leave()
