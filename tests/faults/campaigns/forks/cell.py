"""The cells: programs in which a store is used on both sides of a fork."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from hangarlog import ANY, EventSerializer, FileEventStore, StoreBusyError, UntypedEvent
from hangarlog.maintenance.verify import verify
from hangarlog.system.filesystem import FileSystem
from hangarlog.testing.probe import write_session

GUARD = 60.0
"""Seconds after which a cell hangs."""

MODES: dict[str, dict[str, Any]] = {
    "relaxed": {"durability": "relaxed"},
    "always": {"durability": "always"},
    "interval": {"durability": 0.01},
    "exclusive": {"durability": "relaxed", "exclusive": True},
}


class Stopping(FileSystem):
    """In one process, the next call of one name waits half-way until it is told to go on."""

    def __init__(self) -> None:
        self.name, self.process = "", os.getpid()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.synced = threading.Event()

    def stop_in(self, name: str) -> None:
        self.name = name

    def _stop(self, name: str) -> None:
        if name == self.name and os.getpid() == self.process:
            self.name = ""
            self.reached.set()
            self.go_on.wait()

    def write(self, fd: int, data: bytes) -> None:
        if self.name != "write":
            super().write(fd, data)
            return
        super().write(fd, data[: len(data) // 2])
        self._stop("write")
        super().write(fd, data[len(data) // 2 :])

    def sync_data(self, fd: int) -> None:
        self._stop("sync_data")
        super().sync_data(fd)
        self.synced.set()


def opened(path: str, **options: Any) -> FileEventStore:
    return FileEventStore(path, serializer=EventSerializer(unknown="untyped"), **options)


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # In one call: several processes write here.


def append(store: FileEventStore, name: str, count: int = 5) -> None:
    """Batches over a stream that all share and one of their own; each event is announced and reported."""
    for number in range(count):
        ids = [f"{name}-{number}-{part}" for part in range(2)]
        say(f"tries {' '.join(ids)}")
        store.append_many(
            [
                ("shared:all", [UntypedEvent("T", {"text": "x" * 40}, event_id=ids[0])], ANY),
                (f"own:{name}", [UntypedEvent("T", {}, event_id=ids[1])], ANY),
            ]
        )
        say(f"acknowledged {' '.join(ids)}")


def is_busy(store: FileEventStore) -> None:
    """Appending must be refused because somebody else holds the store."""
    try:
        store.append("shared:all", [UntypedEvent("T", {}, event_id="phantom")], ANY)
    except StoreBusyError:
        return
    raise AssertionError("an append passed an exclusive holder")


@contextlib.contextmanager
def child(work: Callable[[], object], leave: str = "_exit", *, expected: int = 0) -> Iterator[int]:
    """A forked child that does `work` and leaves in one of its ways, while the block runs; then it is waited for."""
    process = os.fork()
    if not process:
        status = 1
        try:
            work()
            status = 0
            if leave == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if leave == "exit":
                raise SystemExit(0)  # Through the interpreter's own end.
            if leave == "error":
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end
                raise RuntimeError("an error that ends the child")
        except (SystemExit, RuntimeError):
            raise
        except BaseException as error:
            say(f"failed {type(error).__name__}: {error}".replace("\n", " "))
            traceback.print_exc()
            os._exit(1)
        os._exit(status)
    yield process
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == {"kill": -signal.SIGKILL, "error": 1}.get(leave, expected), f"the child left with {code}"


def third(path: str, *, busy: bool) -> None:
    """A process of its own appends, or is refused."""
    subprocess.run(
        [sys.executable, "-m", str(__package__), "_third", "busy" if busy else "free", path], check=True, timeout=GUARD
    )


def come_third(mode: str, path: str) -> None:
    if mode == "free":
        with opened(path, durability="relaxed") as store:
            append(store, f"third{os.getpid()}", 1)
        return
    with contextlib.suppress(StoreBusyError), opened(path, durability="relaxed") as store:
        is_busy(store)


LEAVES = ("_exit", "exit", "error", "kill")


class Cell:
    """A store and its mode; each public method is a cell of the table."""

    def __init__(self, path: str, mode: str) -> None:
        self.path, self.mode, self.options = path, mode, MODES[mode]
        self.exclusive = mode == "exclusive"
        self.filesystem = Stopping()
        self.store = opened(path, segment_bytes=2_000, filesystem=self.filesystem, **self.options)
        append(self.store, "before", 3)

    def _child_appends(self, name: str, count: int = 5) -> Callable[[], None]:
        """What a child does with the store it inherited: appends, or is refused where the parent holds it."""
        return lambda: is_busy(self.store) if self.exclusive else append(self.store, name, count)

    def _end(self) -> None:
        append(self.store, "after", 3)
        if self.exclusive:
            third(self.path, busy=True)
        assert list(verify(self.store)) == []
        self.store.close()
        third(self.path, busy=False)

    def idle(self) -> None:
        """Forked when nothing goes on; both append at once."""
        with child(self._child_appends("child", 30)):
            append(self.store, "parent", 30)

    def leaving(self) -> None:
        """Children that leave in every way, with nothing done and with events appended."""
        for leave in LEAVES:
            with child(lambda: None, leave):
                append(self.store, f"beside-{leave}", 1)
            with child(self._child_appends(f"child-{leave}", 2), leave):
                pass
            append(self.store, f"parent-{leave}", 1)
            if self.exclusive:
                third(self.path, busy=True)

    def dying_in_an_append(self) -> None:
        """A child that is killed with half of its write done; what it left is made whole here."""
        if self.exclusive:
            return

        def half() -> None:
            self.filesystem.write = (
                lambda fd, data: (  # type: ignore[method-assign]
                    FileSystem.write(self.filesystem, fd, data[: len(data) // 2]),
                    os.kill(os.getpid(), signal.SIGKILL),
                )
            )
            append(self.store, "dying", 1)

        with child(half, "kill"):
            pass

    def lock_held(self) -> None:
        """Forked while another thread holds the write lock: the child waits for it, and is not its holder."""
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with write_session(self.store).lock():
                held.set()
                go_on.wait()

        self._beside(hold, held, go_on)

    def inside_an_append(self) -> None:
        """Forked while another thread has written half of a batch: nobody cuts it off."""
        self.filesystem.stop_in("write")
        self._beside(
            lambda: append(self.store, "thread", 3), self.filesystem.reached, self.filesystem.go_on, also_here=False
        )

    def inside_a_sync(self) -> None:
        """Forked while another thread syncs."""
        if self.mode == "interval":
            self.store.sync()
        self.filesystem.stop_in("sync_data")

        def work() -> None:
            append(self.store, "thread", 3)
            self.store.sync()

        def sync_too() -> None:
            self._child_appends("child")()
            self.store.sync()

        self._beside(work, self.filesystem.reached, self.filesystem.go_on, also_here=False, child_does=sync_too)

    def inside_a_compression(self) -> None:
        """Forked while another thread has written half of a compressed file."""
        append(self.store, "more", 10)
        self.filesystem.stop_in("write")
        self._beside(self.store.compress, self.filesystem.reached, self.filesystem.go_on, also_here=False)
        assert any(name.endswith(".zst") for name in os.listdir(self.path)), "nothing was compressed"

    def _beside(
        self,
        work: Callable[[], object],
        reached: threading.Event,
        go_on: threading.Event,
        *,
        also_here: bool = True,
        child_does: Callable[[], None] | None = None,
    ) -> None:
        """Fork while a thread that does `work` is where it says; children of both lives are made."""
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        reached.wait()
        with child(lambda: None, "exit"):  # One that leaves before the thread goes on gives nothing back.
            pass
        if self.exclusive:
            third(self.path, busy=True)
        with child(child_does or self._child_appends("child")):
            go_on.set()
            append(self.store, "parent")
        thread.join()

    def closed_in_the_child(self) -> None:
        """The child closes the store; the parent goes on with it, and still holds what it held."""
        for leave in LEAVES:
            with child(self.store.close, leave):
                pass
            append(self.store, f"parent-{leave}", 2)
            if self.exclusive:
                third(self.path, busy=True)

        def use_and_close() -> None:
            self._child_appends("child")()
            self.store.close()

        with child(use_and_close):
            append(self.store, "parent")

    def closed_in_the_parent(self) -> None:
        """The parent closes the store; the child goes on with it (but not with a hold it never had)."""
        mine, theirs = os.pipe()

        def work() -> None:
            os.read(mine, 1)
            if not self.exclusive:
                append(self.store, "child")
            assert len(list(self.store.records())) >= 6
            self.store.close()
            with opened(self.path, **self.options) as again:
                append(again, "child-again")

        with child(work):
            self.store.close()
            os.write(theirs, b"x")
        self.store = opened(self.path, filesystem=self.filesystem, **self.options)

    def opened_anew_in_the_child(self) -> None:
        """The child forgets what it inherited and opens the folder itself."""

        def work() -> None:
            if self.exclusive:
                try:
                    opened(self.path, **self.options)
                except StoreBusyError:
                    return
                raise AssertionError("two exclusive holders")
            with opened(self.path, **self.options) as own:
                append(own, "child")
                append(self.store, "child-inherited")

        with child(work):
            append(self.store, "parent")

    def grandchildren(self) -> None:
        """Three generations append at once."""

        def work() -> None:
            with child(self._child_appends("grandchild", 10)):
                self._child_appends("child", 10)()

        with child(work):
            append(self.store, "parent", 10)

    def reading_on_both_sides(self) -> None:
        """A read that is under way goes on in both, although they share its open files."""
        for number in range(3):
            append(self.store, f"more-{number}", 100)
        records = self.store.records()
        ids = [next(records).event_id for _ in range(20)]
        wanted = [record.event_id for record in self.store.records()]

        def rest() -> None:
            found = ids + [record.event_id for record in records]
            assert found == wanted, f"{len(found)} of {len(wanted)} records"

        with child(rest, "exit"):
            rest()

    def under_load(self) -> None:
        """Six threads append all the time; children are forked wherever they happen to be."""
        ended = threading.Event()

        def load(number: int) -> None:
            turn = 0
            while not ended.is_set():
                append(self.store, f"load{number}.{turn}", 5)
                turn += 1

        with ThreadPoolExecutor(6) as threads:
            running = [threads.submit(load, number) for number in range(6)]
            try:
                for number in range(12):
                    with child(self._child_appends(f"child{number}", 5), LEAVES[number % 2]):
                        append(self.store, f"parent{number}", 2)
            finally:
                ended.set()
            for future in running:
                future.result()

    def synced_in_the_child(self) -> None:
        """What a child appends with an interval is synced by a thread of its own, and at its exit."""
        if self.mode != "interval":
            return

        def work() -> None:
            self.filesystem.synced.clear()
            for number in itertools.count():
                append(self.store, f"child{number}")
                end, until = self.store.last_position, monotonic() + GUARD / 2
                while self.store.durable_position < end:
                    assert monotonic() < until, "nobody syncs what the child has appended"
                    threading.Event().wait(0.01)
                if self.filesystem.synced.is_set():
                    return
                assert number < 10, "nobody syncs in the child"  # The parent may have synced its first ones.

        with child(work):
            append(self.store, "parent")
        # In a folder of its own, where nobody else's sync can cover what it appends.
        slow = opened(f"{self.path}-slow", filesystem=self.filesystem, durability=3600)
        slow.append("a:1", [UntypedEvent("T", {})], ANY)
        slow.sync()
        mine, theirs = os.pipe()

        def leave_unsynced() -> None:
            slow.append("a:1", [UntypedEvent("T", {})], ANY)
            real = self.filesystem.sync_data
            self.filesystem.sync_data = lambda fd: (real(fd), os.write(theirs, b"x"))  # type: ignore[method-assign]

        with child(leave_unsynced, "exit"):
            os.close(theirs)
        assert os.read(mine, 1) == b"x", "what a child appended was not synced at its exit"
        slow.close()

    def multiprocessing_fork(self) -> None:
        self._multiprocessing("fork")

    def multiprocessing_spawn(self) -> None:
        self._multiprocessing("spawn")

    def multiprocessing_forkserver(self) -> None:
        self._multiprocessing("forkserver")

    def _multiprocessing(self, method: str) -> None:
        """Its processes use what they inherited, or open the folder; the parent appends meanwhile."""
        context = multiprocessing.get_context(method)
        if method == "fork":
            target: Any = _inherited
            arguments: list[tuple[Any, ...]] = [(self, f"{method}{number}") for number in range(3)]
        else:
            target, arguments = _worker, [(self.path, self.mode, f"{method}{number}") for number in range(3)]
        processes = [context.Process(target=target, args=given) for given in arguments]
        for process in processes:
            process.start()
        append(self.store, "parent", 10)
        for process in processes:
            process.join()
            assert process.exitcode == 0, f"exit code {process.exitcode}"


def _inherited(cell: Cell, name: str) -> None:
    cell._child_appends(name)()


def _worker(path: str, mode: str, name: str) -> None:
    if mode == "exclusive":
        with opened(path, durability="relaxed") as store:
            is_busy(store)
    else:
        with opened(path, **MODES[mode]) as store:
            append(store, name)


CELLS = [name for name, value in vars(Cell).items() if not name.startswith("_") and callable(value)]
