"""What an engine is to the benchmark: something that is opened and then appended to and read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bench.harness.workload import Figures, Run


class Unsupported(Exception):  # noqa: N818 - no error: a cell of the table says so
    """The engine has no such thing, or it would be no comparison; the text says why."""


class Conflict(Exception):  # noqa: N818 - as above: an answer
    """The stream is at another version, which is `actual`."""

    def __init__(self, actual: int) -> None:
        super().__init__(f"the stream is at {actual}")
        self.actual = actual


class Session:
    """An open store. What an engine does not override, it cannot do.

    A version here is whatever the engine checks: -1 for no stream, else what `append` returned last.
    """

    def append(self, stream: str, events: Sequence[Any], expected: int) -> int:
        """Append all or none, and return the stream's new version; raises `Conflict`."""
        raise Unsupported("no append")

    def version(self, stream: str) -> int:
        """The stream's version."""
        raise Unsupported("no version of a stream")

    def expected(self, version: int, position: int) -> int:
        """What to give `append` for a stream whose last event is at that version, and at that place in the store."""
        return version

    def read_stream(self, stream: str) -> Sequence[Any]:
        """All typed events of a stream."""
        raise Unsupported("does not read a stream")

    def read_all(self) -> int:
        """Go over the typed events of all streams in order; how many they are."""
        raise Unsupported("no global order")

    def read_new(self, position: int) -> int:
        """Read what was appended after a position; the new position."""
        raise Unsupported("no global order")

    def by_version(self, stream: str, version: int) -> Any:
        """One typed event, by its place in the stream from 0 up."""
        raise Unsupported("not by version")

    def by_position(self, position: int) -> Any:
        """One typed event, by its place in the store from 1 up."""
        raise Unsupported("not by position")

    def close(self) -> None:
        """Give everything back."""


class Engine:
    """A kind of store. `folder` is where a store is, `target` what a session is opened with: a folder, or a URL."""

    title: ClassVar[str]
    package: ClassVar[str | None] = None
    module: ClassVar[str | None] = None
    settings: ClassVar[str] = ""
    notes: ClassVar[Sequence[str]] = ()
    unsupported: ClassVar[dict[str, str]] = {}  # Workload -> why not.
    slow: ClassVar[bool] = False  # Reads so slowly that it is given less to read where a rate is measured.

    def missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return "not installed"
        return None

    def version(self) -> str:
        """Of the package that is measured."""
        return metadata.version(self.package) if self.package else ""

    def load(self) -> None:
        """Import what is measured: in a child, before anything is timed."""

    def own(self, event: Any) -> Any:
        """An event as the engine's own class, made before anything is timed."""
        return event

    def stored_as(self, variant: str) -> str:
        """The variant whose prepared stores this one reads."""
        return variant

    @contextmanager
    def serve(self, folder: str, *, durable: bool) -> Iterator[str]:
        """Run what a session is opened at."""
        yield folder

    def open(self, target: str, *, durable: bool, variant: str = "", kind: str = "") -> Session:
        """Open a store, made if there is none."""
        raise Unsupported("cannot be opened")

    def drive(self, task: str, run: Run) -> Figures | None:
        """Do a task in a program of its own; None to have it done through a session.

        A task is a workload, `write` and a recipe, `open` (and append once: `seconds`), or `append for ever`.
        """
        return None
