"""Those who hold locks: a process and a thread, which stop at a call of theirs."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangarlog import ANY, FileEventStore, HangarlogError, RetentionPolicy
from hangarlog.maintenance.backup import backup

from ..cells import Hooked, event, opened

BASE = 6
"""So many events are there at first."""


class Stopping(Hooked):
    """Stops at the call numbered `nth` of those that begin while just the locks `held` are held; counts them all."""

    def __init__(self, held: str = "", nth: int = 0, stop: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.held, self.nth, self.stop = held, nth, stop
        self.armed, self.dies = False, False
        self.counts: Counter[str] = Counter()

    def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        held = "+".join(sorted(set(self.locked.values()))) or "none"
        self.counts[held] += 1
        if held == self.held and self.counts[held] == self.nth:
            self.stop()

    def write(self, fd: int, data: bytes) -> None:
        super().write(fd, data[: len(data) // 2] if self.dies else data)
        if self.dies:
            os._exit(0)

    def sync_data(self, fd: int) -> None:
        """Whoever has one of its own sees every sync."""


def append(store: FileEventStore) -> None:
    store.append("a:1", [event("holder-0")], ANY)


def compact(store: FileEventStore) -> None:
    store.compact_stream("a:1")


def save(store: FileEventStore) -> None:
    store.save_snapshot("a:1", 2, {"n": 2})  # An older one than theirs would be refused.


def compress(store: FileEventStore) -> None:
    store.compress()


def retain(store: FileEventStore) -> None:
    store.retain(RetentionPolicy(prefix="a:", max_events_per_stream=1))


def archive(store: FileEventStore) -> None:
    store.archive(f"{store.folder.path}-archive", before=BASE + 1)


def back_up(store: FileEventStore) -> None:
    backup(store.folder.path, f"{store.folder.path}-backup", filesystem=store.folder.filesystem)


ACTS: dict[str, tuple[Callable[[FileEventStore], object], dict[str, Any]]] = {
    "relaxed": (append, {"durability": "relaxed"}),
    "durable": (append, {"durability": "always"}),
    "roll": (append, {"durability": "always"}),
    "recover": (append, {"durability": "always"}),
    "compact": (compact, {"durability": "relaxed"}),
    "snapshot": (save, {"durability": "relaxed"}),
    "compress": (compress, {"durability": "relaxed"}),
    "retain": (retain, {"durability": "relaxed"}),
    "archive": (archive, {"durability": "relaxed"}),
    "backup": (back_up, {"durability": "relaxed"}),
    "sync": (lambda store: store.sync(), {"durability": "relaxed"}),
    "close": (lambda store: store.close(), {"durability": 30.0}),
    "exclusive": (append, {"durability": "always", "exclusive": True}),
}
GATE = "write-gate.lock"


class Holder:
    """A forked process that opens a store, does an act when it is told to, and stops itself at its point."""

    def __init__(self, path: Path, act: str, held: str, nth: int) -> None:
        orders, self._order = os.pipe()
        self._report, report = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.read(self._report, 1)  # It has opened the store.
            return
        status = 1
        try:
            filesystem = Stopping(held, nth, lambda: os.kill(os.getpid(), signal.SIGSTOP))
            do, options = ACTS[act]
            store = opened(path, filesystem=filesystem, **options)
            os.write(report, b"o")
            os.read(orders, 1)
            filesystem.armed = True
            do(store)
            filesystem.armed = False
            store.close()
            status = 0
        finally:
            os._exit(status)

    def begin(self) -> bool:
        """Have it do its act; whether it has stopped at its point, or came to its end without."""
        os.write(self._order, b"g")
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        return os.WIFSTOPPED(status)

    def end(self, how: str) -> int:
        """Have it go on to its end, or kill it: its exit code."""
        os.kill(self.pid, signal.SIGCONT if how == "continued" else signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class ThreadHolder:
    """The same as a thread of this process, which uses the store that the others use, too."""

    def __init__(self, store: FileEventStore, filesystem: Stopping, act: str) -> None:
        self._go_on, self._stopped = threading.Event(), threading.Event()
        self.stands, self.succeeded = False, False
        self.error: BaseException | None = None  # What is none of hangarlog's.
        filesystem.stop = self._stop
        self._filesystem = filesystem

        def work() -> None:
            try:
                ACTS[act][0](store)
                self.succeeded = True
            except HangarlogError:
                pass  # Another one may have closed the store meanwhile.
            except BaseException as error:
                self.error = error
            finally:
                self._stopped.set()

        self._thread = threading.Thread(target=work, daemon=True)

    def _stop(self) -> None:
        if threading.current_thread() is self._thread:
            self.stands = True
            self._stopped.set()
            self._go_on.wait()

    def begin(self) -> bool:
        self._filesystem.armed = True
        self._thread.start()
        self._stopped.wait()
        return self.stands

    def end(self, how: str) -> int:
        self._go_on.set()
        self._thread.join()
        return 0
