"""Stores that are open in two processes, and what they must hold."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import traceback
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from hangarlog import ANY, FileEventStore, StorageError, UntypedEvent
from hangarlog.maintenance.verify import verify

from ..jobs import die_with_parent

Batch = list[tuple[str, list[tuple[str, str]]]]  # Of each stream, the id and the text of each event.
Content = list[tuple[str, str, str]]  # Stream, id and text of each event.


def append(store: FileEventStore, batch: Batch) -> None:
    store.append_many(
        (stream_id, [UntypedEvent("Added", {"text": text}, event_id=event_id) for event_id, text in events], ANY)
        for stream_id, events in batch
    )


def digest(content: Content) -> tuple[int, int]:
    return len(content), zlib.crc32(repr(content).encode())


def content_of(store: FileEventStore, stream_id: str | None = None) -> Content:
    return [
        (envelope.stream_id, envelope.event_id, json.loads(bytes(envelope.data))["text"])
        for block in store.envelopes(stream_id)
        for envelope in block
    ]


def error_of(kinds: Any, work: Callable[..., object], *arguments: Any) -> Any:
    """The error of one of these kinds that it ends with, None if it succeeds."""
    try:
        work(*arguments)
    except kinds as error:
        return error
    return None


def look(store: FileEventStore, expected: tuple[int, int]) -> None:
    """It holds exactly that, in the journal and in every stream, and nothing is damaged."""
    content = content_of(store)
    assert digest(content) == expected, f"it holds {len(content)} events, not these {expected[0]}"
    assert store.get_event_count() == expected[0]
    streams: dict[str, Content] = {}
    for event in content:
        streams.setdefault(event[0], []).append(event)
    assert store.list_streams() == sorted(streams)
    for stream_id, events in streams.items():
        assert content_of(store, stream_id) == events, f"stream {stream_id} differs from the journal"
        assert store.get_stream_version(stream_id) == len(events) - 1
    damage = list(verify(store))
    assert not damage, f"verify finds {damage[0]}"


def _serve(connection: Connection) -> None:
    """The other process: does what it is told to open stores, and answers with what went wrong."""
    die_with_parent()
    stores: dict[str, FileEventStore] = {}
    while True:
        try:
            path, work, argument = connection.recv()
        except EOFError:
            os._exit(0)
        problem = ""
        try:
            if work == "close":
                stores.pop(path).close()
            else:
                store = stores.get(path) or stores.setdefault(path, FileEventStore(path))
                {"append": append, "look": look}[work](store, argument)
        except Exception:
            problem = traceback.format_exc()
        connection.send(problem)


class OtherProcess:
    """A process that was forked before anything was refused, and has its own stores open all the time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, path: str, work: str, argument: Any = None) -> None:
        try:
            self._connection.send((path, work, argument))
            problem = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            problem = f"it ended with {self._process.exitcode}"
        assert not problem, f"in the other process: {problem}"


class Watched:
    """A store that is open here twice, durable and relaxed, and in another process, and what it must hold."""

    def __init__(self, path: str, other: OtherProcess, numbers: random.Random, segment_bytes: int = 64 << 20) -> None:
        self.path, self._other, self._numbers = path, other, numbers
        self.content: Content = []
        self._known_there = False
        self._ids = 0
        self.stores = {
            durability: FileEventStore(path, durability=durability, segment_bytes=segment_bytes)
            for durability in ("relaxed", "always")
        }

    def batch(self, streams: list[str], each: int = 1, longest: int = 9) -> Batch:
        return [(stream_id, [self._event(longest) for _ in range(each)]) for stream_id in streams]

    def _event(self, longest: int) -> tuple[str, str]:
        self._ids += 1
        return f"e{self._ids}", "x" * self._numbers.randint(0, longest)

    def append(self, durability: str, batch: Batch) -> None:
        append(self.stores[durability], batch)
        self._count(batch)

    def append_there(self, batch: Batch) -> None:
        self._known_there = True
        self._other.ask(self.path, "append", batch)
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        self.content += [(stream_id, *event) for stream_id, events in batch for event in events]

    def refused(self, durability: str, batch: Batch, code: int) -> bool:
        """Whether that append is refused, in which case it must say why, and that nothing was written."""
        error = error_of(StorageError, self.append, durability, batch)
        if error is not None:
            assert error.errno == code, f"refused with {error.errno}, not {code}: {error}"
            assert isinstance(error.__cause__, OSError), f"it has no cause: {error!r}"
            assert os.strerror(code) in str(error), error
        return error is not None

    def check(self, *, here_only: bool = False) -> None:
        """Seen by the stores that are open; and by a fresh one and the other process, which need no limit lifted."""
        expected = digest(self.content)
        for store in self.stores.values():
            look(store, expected)
        if not here_only:
            self._known_there = True
            with FileEventStore(self.path) as fresh:
                look(fresh, expected)
            self._other.ask(self.path, "look", expected)

    def goes_on(self) -> None:
        """The next appends succeed: from either store here, from the other process, and from here again."""
        first, second = self._numbers.sample(sorted(self.stores), 2)
        self.append(first, self.batch(["a:1", "b:1"]))
        self.append_there(self.batch(["b:1", "new:there"]))
        self.append(second, self.batch(["b:1", "a:1"]))
        self.check()

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
        if self._known_there:
            self._other.ask(self.path, "close")


@contextlib.contextmanager
def told(facts: str) -> Iterator[None]:
    """Whatever goes wrong inside is a broken promise, and is told with what is needed to see it again."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{facts}: {error}\n{traceback.format_exc()}") from error
