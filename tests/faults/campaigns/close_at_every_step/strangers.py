"""Row 17's calls, each of which can be made to stand at a step; and files of the caller's, which must not change."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hangarlog import ANY, FileEventStore, RetentionPolicy
from hangarlog.maintenance.verify import verify

from ..cells import Hooked, event, opened, path_of, site

MOMENT = 0.02
"""Seconds that a close is given to do what it must not do while a call is running."""


class Strangers:
    """Files of the caller's: opened right after, with places and locks of their own."""

    CONTENT = b"of the caller's own" * 20
    PLACE = 100

    def __init__(self, folder: Path, count: int = 24) -> None:
        folder.mkdir()
        self._paths = [folder / f"mine-{number}" for number in range(count)]
        self._fds: dict[int, Path] = {}
        for path in self._paths:
            path.write_bytes(self.CONTENT)

    def open(self) -> None:
        for path in self._paths:
            fd = os.open(path, os.O_RDWR)
            os.lseek(fd, self.PLACE, os.SEEK_SET)
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._fds[fd] = path

    def changed(self) -> Iterator[str]:
        for fd, path in self._fds.items():
            if path.read_bytes() != self.CONTENT:
                yield "a file of the caller's is written to"
            if path_of(fd) != str(path):
                yield "a file of the caller's is closed"
            elif os.lseek(fd, 0, os.SEEK_CUR) != self.PLACE:
                yield "the place in a file of the caller's is moved"
            else:
                with open(path, "rb") as again, contextlib.suppress(BlockingIOError):
                    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield "the lock of a file of the caller's is given back"


class Pausing(Hooked):
    """Does something once, before the call numbered `nth` of those while it is armed, in the thread that armed it.

    Where that call is `but_before`, it does it before the next one: how many calls there are varies with the time.
    """

    def __init__(self, nth: int = 0, act: Callable[[], None] = lambda: None, but_before: str = "") -> None:
        super().__init__()
        self.nth, self.act, self.but_before = nth, act, but_before
        self.calls: list[tuple[str, str]] = []  # Their names and sites.
        self.thread = 0

    def step(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.thread == threading.get_ident():
            self.calls.append((name, site()))
            if len(self.calls) == self.nth:
                if name == self.but_before:
                    self.nth += 1
                else:
                    self.act()

    def sync_data(self, fd: int) -> None:
        """Whoever has one of its own sees every sync."""


# The calls


STREAMS = ("a:1", "b:1", "new:1")


def append(store: FileEventStore) -> list[str]:
    store.append("a:1", [event("act-0")], ANY)
    return ["act-0"]


def append_batch(store: FileEventStore) -> list[str]:
    store.append_many([(stream_id, [event(f"act-{at}")], ANY) for at, stream_id in enumerate(STREAMS)])
    return [f"act-{at}" for at in range(len(STREAMS))]


def read(store: FileEventStore) -> list[str]:
    ids = [record.event_id for record in store.records("a:1")] + [record.event_id for record in store.records()]
    assert len(ids) >= 9, f"a read gives only {ids}"
    return []


def read_backwards(store: FileEventStore) -> list[str]:
    assert len(list(store.records(reverse=True))) >= 6
    assert store.get_stream_version("a:1") >= 2
    return []


def save(store: FileEventStore) -> list[str]:
    store.save_snapshot("a:1", 1, {"n": 2})
    return []


def compact(store: FileEventStore) -> list[str]:
    store.compact_stream("a:1")
    return []


def compress(store: FileEventStore) -> list[str]:
    store.compress()
    return []


def retain(store: FileEventStore) -> list[str]:
    store.retain(RetentionPolicy(prefix="a:", max_events_per_stream=1))
    return []


def archive(store: FileEventStore) -> list[str]:
    store.archive(archive_of(Path(store.path)), before=4)
    return []


def archive_of(path: Path) -> Path:
    return path.with_name("archive")


def sync(store: FileEventStore) -> list[str]:
    store.sync()
    return []


def close(store: FileEventStore) -> list[str]:
    store.close()
    return []


def open_another(store: FileEventStore) -> list[str]:
    opened(Path(store.path), durability="relaxed", filesystem=store._filesystem).close()
    return []


Call = Callable[[FileEventStore], list[str]]
CALLS: dict[str, tuple[Call, Any]] = {
    "relaxed": (append, "relaxed"),
    "durable": (append, "always"),
    "interval": (append, 30.0),
    "batch": (append_batch, "always"),
    "roll": (append, "always"),
    "read": (read, "relaxed"),
    "back": (read_backwards, "relaxed"),
    "snapshot": (save, "relaxed"),
    "compact": (compact, "relaxed"),
    "compress": (compress, "relaxed"),
    "retain": (retain, "relaxed"),
    "archive": (archive, "relaxed"),
    "sync": (sync, "relaxed"),
    "close": (close, 30.0),
    "open": (open_another, "relaxed"),
}

UPKEEP = ("compress", "retain", "archive")
"""The calls of many steps: of some of them, in CI."""

LATER: dict[str, Callable[[FileEventStore], object]] = {
    "append": append,
    "append_many": append_batch,
    "read_stream": lambda store: store.read_stream("a:1"),
    "read_all": lambda store: list(store.read_all()),
    "records": lambda store: list(store.records(reverse=True)),
    "get_stream_version": lambda store: store.get_stream_version("a:1"),
    "list_streams": lambda store: store.list_streams(),
    "get_event_count": lambda store: store.get_event_count(),
    "get_stream_count": lambda store: store.get_stream_count(),
    "save_snapshot": save,
    "load_snapshot": lambda store: store.load_snapshot("a:1"),
    "snapshot_time": lambda store: store.snapshot_time("a:1"),
    "compact_stream": compact,
    "compress": compress,
    "retain": retain,
    "archive": archive,
    "sync": sync,
    "verify": lambda store: list(verify(store)),
}


def make_store(path: Path, call: str) -> list[str]:
    """A store of a few segments, and what is in it."""
    with opened(path, segment_bytes=1_000, durability="relaxed", filesystem=Hooked()) as store:
        for number in range(3):
            store.append_many([(stream_id, [event(f"base-{stream_id}-{number}")], ANY) for stream_id in STREAMS[:2]])
        store.save_snapshot("a:1", 1, {"n": 1})
        if call == "roll":
            store.append("a:1", [event("base-large", 2_000)], ANY)
        return [record.event_id for record in store.records()]
