"""The errors of a store that servers keep."""

from __future__ import annotations

from hangarlog.errors import HangarlogError, OutcomeUnknownError, StorageError


class UnavailableError(StorageError):
    """The servers of a store did not do what was asked in time. Fields: those of `StorageError`, and `seconds`.

    If `reading` is False, nothing was written.
    """

    def __init__(self, path: str, cause: str, seconds: float, reading: bool = False) -> None:
        HangarlogError.__init__(self, path, cause, seconds, reading)
        self.path, self.cause, self.seconds, self.reading = path, cause, seconds, reading
        self.errno = None

    def __str__(self) -> str:
        outcome = "" if self.reading else "; nothing was written"
        return (
            f"the store {self.path} was not available for {self.seconds:g} s: {self.cause}{outcome}. Check that most "
            "of its servers run and reach each other, then try again"
        )


class AppendUnknownError(OutcomeUnknownError):
    """An append was sent, and no answer came: it may or may not count.

    Fields: `path`, `cause`; `tried`: {stream id: (the version before its first event, the ids of its events)}.
    """

    def __init__(self, path: str, cause: str, tried: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        HangarlogError.__init__(self, path, cause, tried)
        self.path, self.cause, self.tried = path, cause, tried

    def __str__(self) -> str:
        places = ", ".join(
            f"{stream_id!r} with expected_version={before}" for stream_id, (before, _) in self.tried.items()
        )
        return (
            f"an append to {self.path} was sent, and no answer came: {self.cause}. To settle it, append the same "
            f"events with the same event ids again, to {places}: it succeeds if they are there or can be written, "
            "and conflicts if they never will be"
        )


class BatchLimitError(HangarlogError, ValueError):
    """An append has more events than the server takes at once; nothing was written. Fields: `path`, `events`."""

    def __init__(self, path: str, events: int) -> None:
        super().__init__(path, events)
        self.path, self.events = path, events

    def __str__(self) -> str:
        return (
            f"the append of {self.events:,} events is more than the server of {self.path} takes at once; nothing was "
            "written: append several batches, or raise `jetstream { limits { batch { max_msgs } } }` of every server"
        )
