"""The interface of an engine under test, and one run of it: a task goes in, figures come out."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar, Literal

import msgspec

from bench.harness import payload

Figures = dict[str, float]

POLL_SECONDS = 0.001
"""Between two reads of a follower whose store cannot wake it."""

_OURS = ("hangarlog", "floor", "sqlite3")


class Unsupported(Exception):  # noqa: N818 - not an error: the table shows the reason
    """The engine lacks the feature, or the comparison would be unfair. The text gives the reason."""


class Conflict(Exception):  # noqa: N818 - not an error: an expected outcome
    """The stream is at version `actual`, which is not the expected one."""

    def __init__(self, actual: int) -> None:
        super().__init__(f"the stream is at version {actual}")
        self.actual = actual


class Session:
    """An open store. A method that an engine does not override raises `Unsupported`.

    A version is the value that the engine checks: -1 for no stream, else the last return value of `append`.
    """

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        """Append all events or none, and return the stream's new version. Raise `Conflict` at a wrong version."""
        raise Unsupported("no append")

    def version(self, stream: str) -> int:
        """Return the stream's version."""
        raise Unsupported("no version of a stream")

    def expected_version(self, version: int, position: int) -> int:
        """Return the version to give `append` after an event at this version (from 0) and position (from 1)."""
        return version

    def read_stream(self, stream: str) -> Sequence[Any]:
        """Return all typed events of a stream."""
        raise Unsupported("does not read a stream")

    def read_all(self) -> int:
        """Read the typed events of all streams in global order, and return their number."""
        raise Unsupported("no global order")

    def read_new(self, position: int) -> int:
        """Read the events after a position, and return the position of the last one."""
        raise Unsupported("no global order")

    def follow(self, position: int) -> Iterator[int]:
        """Yield the position of each event after `position` once it is typed, and wait for more: here, by polling."""
        while True:
            last = self.read_new(position)
            yield from range(position + 1, last + 1)
            if last == position:
                time.sleep(POLL_SECONDS)
            position = last

    def read_by_version(self, stream: str, version: int) -> Any:
        """Return the typed event at a version of a stream, counted from 0."""
        raise Unsupported("no reads by version")

    def read_by_position(self, position: int) -> Any:
        """Return the typed event at a position in the store, counted from 1."""
        raise Unsupported("no reads by position")

    def close(self) -> None:
        """Release the store."""


class Engine:
    """A kind of store. `folder` holds a store; `target` is what a session opens: a folder or a URL."""

    title: ClassVar[str]
    package: ClassVar[str | None] = None
    module: ClassVar[str | None] = None
    settings: ClassVar[str] = ""
    notes: ClassVar[Sequence[str]] = ()
    unsupported: ClassVar[dict[str, str]] = {}  # Workload -> reason.
    reads_slowly: ClassVar[bool] = False  # Gets the smaller stores of `Workload.slow_sizes`.

    def missing(self) -> str | None:
        """Return why the engine cannot run here, or None if it can."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return "not installed"
        return None

    def version(self) -> str:
        """Return the version of the measured package."""
        return metadata.version(self.package) if self.package else ""

    def load(self) -> None:
        """Import the measured package. A child calls this before the clock starts."""

    def convert_event(self, event: Any) -> Any:
        """Return an event as the engine's own class. A run calls this before the clock starts."""
        return event

    def prepared_variant(self, variant: str) -> str:
        """Return the variant whose prepared stores this one reads."""
        return variant

    @contextmanager
    def serve(self, folder: str, *, durable: bool) -> Iterator[str]:
        """Run the engine's server, if it has one, and yield the target of sessions."""
        yield folder

    def open(self, target: str, *, durable: bool, variant: str = "", payload_kind: str = "") -> Session:
        """Open a store, and create it if there is none."""
        raise Unsupported("cannot be opened")

    def drive(self, task: str, run: Run) -> Figures | None:
        """Run a task in the engine's own program, or return None to run it through a session.

        A task is the key of a workload, `write RECIPE`, `open` (returns `seconds` until a first append), or
        `append until killed`.
        """
        return None


class Task(msgspec.Struct, frozen=True):
    """An order to a child process. `round` counts from 0; `number` tells parallel children apart."""

    role: Literal["measure", "prepare", "write", "follow", "wait", "append until killed"]
    workload: str
    contender: str
    folder: str
    sizes: dict[str, float]
    round: int = 0
    target: str = ""
    number: int = 0


@dataclass(frozen=True)
class Run:
    """One engine in one round of a workload."""

    engine: Engine
    task: Task
    durable: bool
    payload_kind: str

    @property
    def folder(self) -> str:
        """The folder of the store; the engine creates its files in it."""
        return self.task.folder

    @property
    def variant(self) -> str:
        """The part of the contender's name after the engine's."""
        return self.task.contender.partition(":")[2]

    def events(self, count: int, first: int | None = None) -> list[Any]:
        """Return `count` fresh events of the engine's own class."""
        return [self.engine.convert_event(event) for event in payload.events(count, self.payload_kind, first)]

    def size(self, name: str) -> int:
        """Return one of the workload's sizes as a whole number."""
        return int(self.task.sizes[name])

    @property
    def seconds(self) -> float:
        """The time limit in seconds; peers may have a shorter one."""
        name = "seconds" if self.task.contender.partition(":")[0] in _OURS else "peer_seconds"
        return self.task.sizes.get(name, self.task.sizes.get("seconds", 0.0))

    @contextmanager
    def served(self) -> Iterator[str]:
        """Yield the target of sessions, with the engine's server running if it has one."""
        with self.engine.serve(self.folder, durable=self.durable) as target:
            yield target

    @contextmanager
    def session(self, target: str) -> Iterator[Session]:
        """Yield an open store, and close it at the end."""
        session = self.engine.open(target, durable=self.durable, variant=self.variant, payload_kind=self.payload_kind)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Yield an open store, with the engine's server running if it has one."""
        with self.served() as target, self.session(target) as session:
            yield session
